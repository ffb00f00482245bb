/**
 * Checkpoints as torch.save writes them since PyTorch 1.6: a zip archive of a pickle and the storages of its tensors.
 * Nothing of the pickle is executed: tensors and containers are made, every other object becomes an inert one.
 */
import { readFile } from "node:fs/promises";
import { unzipSync } from "fflate";
import { Parser } from "pickleparser";
import { type DType, dtypes } from "../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "./file-error.ts";

const storages: Readonly<Record<string, DType>> = {
  FloatStorage: "float32",
  DoubleStorage: "float64",
  HalfStorage: "float16",
  LongStorage: "int64",
  IntStorage: "int32",
  ShortStorage: "int16",
  CharStorage: "int8",
  ByteStorage: "uint8",
  BoolStorage: "bool",
};

class StorageType {
  readonly dtype: DType | "bfloat16";
  constructor(dtype: DType | "bfloat16") {
    this.dtype = dtype;
  }
}

interface Storage {
  readonly dtype: DType | "bfloat16";
  readonly bytes: Uint8Array;
}

/** What any class that is not a tensor becomes; it takes whatever the pickle does to it. */
class Inert extends Map<unknown, unknown> {
  __setstate__(): void {}
  push(): void {}
  add(): void {}
}

const bytesPer = (dtype: Storage["dtype"]): number =>
  dtype === "bfloat16" ? 2 : dtypes[dtype].array.BYTES_PER_ELEMENT;

/** Elements of a storage from `offset` on in a shape with strides, row-major. */
const rebuild = (storage: unknown, offset: unknown, size: unknown, stride: unknown): Tensor => {
  const { dtype, bytes } = storage as Storage;
  const [shape, strides] = [Array.from(size as number[], Number), Array.from(stride as number[], Number)];
  const count = sizeOf(shape);
  const each = bytesPer(dtype);
  const start = Number(offset);
  const last = shape.reduce((at, d, i) => at + (d - 1) * (strides[i] as number), start);
  if (count > 0 && (last + 1) * each > bytes.length) throw new Error("a tensor reaches beyond its storage");
  const picked = new Uint8Array(count * each);
  const contiguous = strides.every((s, i) => shape[i] === 1 || s === sizeOf(shape.slice(i + 1)));
  if (contiguous) picked.set(bytes.subarray(start * each, (start + count) * each));
  else
    for (let i = 0; i < count; i++) {
      let [rest, at] = [i, start];
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        const d = shape[axis] as number;
        at += (rest % d) * (strides[axis] as number);
        rest = Math.floor(rest / d);
      }
      picked.set(bytes.subarray(at * each, (at + 1) * each), i * each);
    }
  if (dtype === "bfloat16")
    return {
      dtype: "float32",
      shape,
      data: new Float32Array(Uint32Array.from(new Uint16Array(picked.buffer), (bits) => bits << 16).buffer),
    };
  return { dtype, shape, data: new dtypes[dtype].array(picked.buffer) };
};

const isTensor = (value: unknown): value is Tensor =>
  typeof value === "object" && value !== null && "dtype" in value && "shape" in value && "data" in value;

const resolver = (module: string, name: string): ((...args: unknown[]) => unknown) => {
  if (module === "collections" && name === "OrderedDict") return () => new Inert();
  if (module === "torch._utils" && name.startsWith("_rebuild_tensor"))
    return (storage, offset, size, stride) => rebuild(storage, offset, size, stride);
  if (module === "torch._utils" && name.startsWith("_rebuild_parameter")) return (data) => data;
  if (module === "torch" || module === "torch.storage") {
    const dtype = name === "BFloat16Storage" ? "bfloat16" : storages[name];
    if (dtype !== undefined) return Object.assign(() => new Inert(), { storage: new StorageType(dtype) });
  }
  // A plain function, so that it may be called and constructed.
  return function inert() {
    return new Inert();
  };
};

/** Every dictionary with tensors in a pickle, the largest first. */
const dictionaries = (top: unknown): Map<string, Tensor>[] => {
  const found: Map<string, Tensor>[] = [];
  const visit = (value: unknown, depth: number): void => {
    if (!(value instanceof Map) || depth > 4) return;
    const tensors = new Map<string, Tensor>();
    for (const [key, inner] of value)
      if (isTensor(inner)) tensors.set(String(key), inner);
      else visit(inner, depth + 1);
    if (tensors.size > 0) found.push(tensors);
  };
  visit(top, 0);
  return found.sort((a, b) => b.size - a.size);
};

/**
 * The parameters in a PyTorch checkpoint: its dictionary with the most tensors, whether it is the whole file or lies
 * under a key such as `state_dict`.
 *
 * @throws RequestError naming the file and what is wrong with it
 */
export const readTorchFile = async (path: string): Promise<Map<string, Tensor>> => {
  let file: Uint8Array;
  try {
    file = await readFile(path);
  } catch (error) {
    throw fileError(error, "read", path);
  }
  if (file[0] !== 0x50 || file[1] !== 0x4b)
    throw new RequestError(
      `${path} is not a zip archive as torch.save writes since PyTorch 1.6; load it in PyTorch and save it again, or as safetensors`,
    );
  try {
    const members = unzipSync(file);
    const pickle = Object.keys(members).find((name) => name.endsWith("data.pkl"));
    if (pickle === undefined) throw new Error("it holds no data.pkl");
    const folder = pickle.slice(0, -"data.pkl".length);
    const order = members[`${folder}byteorder`];
    if (order !== undefined && Buffer.from(order).toString() !== "little")
      throw new Error("its tensors are big-endian");
    const resolve = (id: unknown): Storage => {
      const [kind, type, key] = id as [unknown, { readonly storage?: StorageType }, unknown];
      const bytes = members[`${folder}data/${String(key)}`];
      if (kind !== "storage" || type.storage === undefined) throw new Error("it holds a storage of an unknown type");
      if (bytes === undefined) throw new Error(`its storage ${String(key)} is missing`);
      return { dtype: type.storage.dtype, bytes };
    };
    const top: unknown = new Parser({
      nameResolver: { resolve: resolver as never },
      persistentResolver: { resolve: resolve as never },
      unpicklingTypeOfDictionary: "Map",
    }).parse(members[pickle] as Uint8Array);
    const [largest] = dictionaries(top);
    if (largest === undefined)
      throw new Error("it holds no dictionary of tensors (save the model's state_dict(), not the model)");
    return largest;
  } catch (error) {
    throw new RequestError(`${path} is not a PyTorch checkpoint that can be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
};
