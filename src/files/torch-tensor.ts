/** Tensors of PyTorch's pickles: kept as the pickle describes them, made only where they are asked for. */
import { type DType, dtypes } from "../../graphs/onnx/dtype.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Budget } from "./budget.ts";
import { Inert, InertClass, type PickleClass, textOf } from "./pickle-stack.ts";

export type StoredType = DType | "bfloat16";

const storageTypes: ReadonlyMap<string, StoredType> = new Map([
  ["FloatStorage", "float32"],
  ["DoubleStorage", "float64"],
  ["HalfStorage", "float16"],
  ["BFloat16Storage", "bfloat16"],
  ["LongStorage", "int64"],
  ["IntStorage", "int32"],
  ["ShortStorage", "int16"],
  ["CharStorage", "int8"],
  ["ByteStorage", "uint8"],
  ["BoolStorage", "bool"],
]);

/** Bytes of an element. */
export const bytesPer = (type: StoredType): number => (type === "bfloat16" ? 2 : dtypes[type].array.BYTES_PER_ELEMENT);

/** Where the elements of tensors lie: a part of a storage of the file. */
export interface StorageRef {
  readonly key: string;
  /** As the file names its type, and what that is here. */
  readonly typeName: string;
  readonly type: StoredType | undefined;
  /** Elements of the whole storage. */
  readonly count: number;
  /** A part of it, in elements, where the file says so. */
  readonly view: { readonly offset: number; readonly count: number } | undefined;
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/**
 * What a persistent id says: ("storage", type, key, place, count), in old files also (key, offset, count) of a part.
 * @throws Error where it says something else
 */
export const storageRef = (id: unknown): StorageRef => {
  const [kind, type, key, , count, part] = Array.isArray(id) ? id : [];
  const name = typeof key === "number" ? String(key) : textOf(key);
  if (textOf(kind) !== "storage" || !(type instanceof InertClass) || name === undefined || name.length > 256)
    throw new Error("it refers to something that is no storage");
  if (!isCount(count)) throw new Error(`its storage ${name} has ${String(count)} elements`);
  const typeName = type.className.slice(type.className.lastIndexOf(".") + 1);
  const view = Array.isArray(part) ? { offset: part[1] as unknown, count: part[2] as unknown } : undefined;
  if (view !== undefined && !(isCount(view.offset) && isCount(view.count) && view.offset + view.count <= count))
    throw new Error(`a part of its storage ${name} lies outside of it`);
  return { key: name, typeName, type: storageTypes.get(typeName), count, view: view as StorageRef["view"] };
};

/** Bytes of a storage's elements. */
export type Storages = (storage: StorageRef) => Promise<Uint8Array<ArrayBuffer>>;

const longestShape = 64;

/** A tensor as `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, …)` describes it. */
export class TorchTensor {
  readonly #args: readonly unknown[];
  constructor(args: readonly unknown[]) {
    this.#args = args;
  }

  /** As the file says, not yet checked against its storage. */
  get shape(): readonly number[] {
    const shape = this.#args[2];
    return Array.isArray(shape) && shape.length <= longestShape && shape.every(isCount) ? shape : [];
  }

  /** @throws Error where a number is negative, fractional or reaches beyond the storage */
  async read(storages: Storages, budget: Budget): Promise<Tensor> {
    const [storage, offset, shape, strides] = this.#args as [StorageRef, unknown, unknown, unknown];
    if (typeof storage !== "object" || storage === null || !("typeName" in storage))
      throw new Error("it has no storage");
    const { type, typeName, view } = storage;
    if (type === undefined) throw new Error(`it is of ${typeName}, which is not read; convert it to float32`);
    const isShape = (value: unknown): value is number[] =>
      Array.isArray(value) && value.length <= longestShape && value.every(isCount);
    if (!isCount(offset) || !isShape(shape) || !isShape(strides) || shape.length !== strides.length)
      throw new Error("its offset, shape or strides are not whole numbers from 0");
    const count = shape.reduce((n, d) => n * d, 1);
    const last = shape.reduce((at, d, axis) => at + (d - 1) * strides[axis]!, offset);
    const length = view?.count ?? storage.count;
    if (count > 0 && !(Number.isSafeInteger(last) && last < length)) throw new Error("it reaches beyond its storage");
    const each = bytesPer(type);
    budget.take(count * each, "it");
    const bytes = count === 0 ? new Uint8Array(0) : await storages(storage);
    const picked = pick(bytes, each, (view?.offset ?? 0) + offset, shape, strides, count);
    return finished(type, shape, picked);
  }
}

/** Elements row-major out of a storage with strides. */
const pick = (
  bytes: Uint8Array<ArrayBuffer>,
  each: number,
  start: number,
  shape: readonly number[],
  strides: readonly number[],
  count: number,
): Uint8Array<ArrayBuffer> => {
  const picked = new Uint8Array(count * each);
  let expected = 1;
  let contiguous = true;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) contiguous = false;
    expected *= shape[axis]!;
  }
  if (contiguous || count === 0) {
    picked.set(bytes.subarray(start * each, (start + count) * each));
    return picked;
  }
  const units = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array }[each as 1 | 2 | 4 | 8];
  const from = new units(bytes.buffer, bytes.byteOffset, bytes.length / each);
  const to = new units(picked.buffer);
  const index = new Array<number>(shape.length).fill(0);
  for (let i = 0, at = start; i < count; i++) {
    to[i] = from[at] as never;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += strides[axis]!;
      index[axis]!++;
      if (index[axis]! < shape[axis]!) break;
      at -= strides[axis]! * shape[axis]!;
      index[axis] = 0;
    }
  }
  return picked;
};

const finished = (type: StoredType, shape: readonly number[], bytes: Uint8Array<ArrayBuffer>): Tensor => {
  if (type === "bfloat16") {
    const bits = Uint32Array.from(new Uint16Array(bytes.buffer), (half) => half << 16);
    return { dtype: "float32", shape, data: new Float32Array(bits.buffer) };
  }
  if (type === "bool" && bytes.some((byte) => byte > 1))
    throw new Error("it is bool but holds bytes other than 0 and 1");
  return { dtype: type, shape, data: new dtypes[type].array(bytes.buffer) };
};

/** A tensor of a kind that is not read, refused where it is asked for. */
export class UnreadTensor {
  readonly reason: string;
  constructor(reason: string) {
    this.reason = reason;
  }
}

/** What a PyTorch pickle may name: tensors, parameters and dictionaries; all else becomes inert. */
export const torchClass = (module: string, name: string): PickleClass => {
  if (module === "collections" && name === "OrderedDict") return { make: () => new Map() };
  if (module === "torch._utils") {
    if (name === "_rebuild_tensor" || name === "_rebuild_tensor_v2") return { make: (args) => new TorchTensor(args) };
    if (name.startsWith("_rebuild_parameter")) return { make: ([data]) => data };
    if (name.startsWith("_rebuild_"))
      return {
        make: () => new UnreadTensor(`it is made by ${name}, which is not read; convert it to a plain float32 tensor`),
      };
  }
  if (module === "torch.nn.parameter" && name === "Parameter") return { make: ([data]) => data };
  return new InertClass(`${module}.${name}`);
};

export const isInert = (value: unknown): value is Inert => value instanceof Inert;
