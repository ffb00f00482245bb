/** Tensors between JavaScript and onnxruntime: types, memory, and the values (OrtValue) that lie over it. */
import { type DType, dtypeOfCode, dtypes } from "../../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor } from "../../../graphs/onnx/tensor.ts";
import { RunError } from "../../errors.ts";
import { type Handle, handleOf, type OrtApi } from "./api.ts";

/** `OrtArenaAllocator` and `OrtMemTypeDefault`. */
const [ARENA, DEFAULT_MEMORY] = [1, 0];

/** What a session says of an input or output: -1 where a dimension is free; undefined where it is no tensor of a known type. */
export interface SlotType {
  readonly dtype: DType | undefined;
  readonly shape: readonly number[];
}

/** Where host memory is described to onnxruntime: made once a process, as the environment is. */
export const hostMemory = (api: OrtApi): bigint => {
  host ??= api.out("CreateCpuMemoryInfo", ARENA, DEFAULT_MEMORY);
  return host;
};
let host: bigint | undefined;

/** A value over memory that somebody else owns and keeps for as long as it is used. */
export const valueOver = (
  api: OrtApi,
  memoryInfo: bigint,
  { dtype, shape }: { readonly dtype: DType; readonly shape: readonly number[] },
  data: bigint | ArrayBufferView,
): Handle => {
  const bytes = sizeOf(shape) * dtypes[dtype].array.BYTES_PER_ELEMENT;
  const dims = BigInt64Array.from(shape, BigInt);
  const code = dtypes[dtype].onnx;
  return handleOf(
    api,
    "ReleaseValue",
    "CreateTensorWithDataAsOrtValue",
    memoryInfo,
    data,
    bytes,
    dims,
    shape.length,
    code,
  ).keep(data);
};

/** Empty typed arrays have no memory, and onnxruntime wants an address all the same. */
const nowhere = new Uint8Array(8);

/**
 * A value over a tensor's own memory, which has to stay as it is until the value is released. Throws a RunError where the
 * tensor's data is not what its type says: past its end lies other memory.
 */
export const valueOfTensor = (api: OrtApi, name: string, tensor: Tensor): Handle => {
  const { dtype, shape, data } = tensor;
  const wanted = dtypes[dtype];
  if (wanted === undefined) throw new RunError(`internal: ${name} is of the unknown type ${dtype}`);
  if (!shape.every((d) => Number.isSafeInteger(d) && d >= 0))
    throw new RunError(`internal: ${name} has the shape [${shape.join(",")}]`);
  const bytes = sizeOf(shape) * wanted.array.BYTES_PER_ELEMENT;
  if (!ArrayBuffer.isView(data) || data.byteLength !== bytes)
    throw new RunError(
      `internal: ${name} is ${dtype}[${shape.join(",")}], ${bytes} bytes, and its data has ${data?.byteLength}`,
    );
  return valueOver(api, hostMemory(api), tensor, bytes === 0 ? nowhere : data);
};

/** Type and shape that a tensor's information (OrtTensorTypeAndShapeInfo) holds. */
const typeOfInfo = (api: OrtApi, info: bigint): SlotType => {
  const code = new Int32Array(1);
  api.call("GetTensorElementType", info, code);
  const dims = new BigInt64Array(Number(api.out("GetDimensionsCount", info)));
  if (dims.length > 0) api.call("GetDimensions", info, dims, dims.length);
  return { dtype: dtypeOfCode(code[0]!), shape: Array.from(dims, Number) };
};

/** Type of a session's input or output by place. */
export const typeOfSlot = (api: OrtApi, session: bigint, kind: "Input" | "Output", index: number): SlotType => {
  const type = handleOf(api, "ReleaseTypeInfo", `SessionGet${kind}TypeInfo`, session, index);
  try {
    // The tensor's information belongs to the type's, and is null where it is none.
    const info = api.out("CastTypeInfoToTensorInfo", type.address);
    return info === 0n ? { dtype: undefined, shape: [] } : typeOfInfo(api, info);
  } finally {
    type.release();
  }
};

/** Copies a value that onnxruntime made in host memory. Throws a RunError where it is no tensor of a known type. */
export const tensorOfValue = (api: OrtApi, name: string, value: bigint): Tensor => {
  const is = new Int32Array(1);
  api.call("IsTensor", value, is);
  const info = is[0] === 1 ? handleOf(api, "ReleaseTensorTypeAndShapeInfo", "GetTensorTypeAndShape", value) : undefined;
  try {
    const { dtype, shape } = info === undefined ? { dtype: undefined, shape: [] } : typeOfInfo(api, info.address);
    if (dtype === undefined) throw new RunError(`the output ${name} is no tensor of numbers`);
    const { array } = dtypes[dtype];
    const data = new array(sizeOf(shape));
    if (data.byteLength > 0) copyFrom(api, api.out("GetTensorMutableData", value), data);
    return { dtype, shape, data } as Tensor;
  } finally {
    info?.release();
  }
};

/** Copies native memory into an array. */
export const copyFrom = (api: OrtApi, address: bigint, into: ArrayBufferView): void => {
  const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
  bytes.set(new Uint8Array(api.koffi.view(address, into.byteLength)));
};
