/** Element types. Names are ONNX's (TensorProto.DataType in lower case, `float32` for FLOAT as in numpy). */

export type DType =
  | "float32"
  | "float64"
  | "float16"
  | "int8"
  | "uint8"
  | "int16"
  | "uint16"
  | "int32"
  | "uint32"
  | "int64"
  | "uint64"
  | "bool";

/** Host arrays of each element type: float16 as raw bits, bool as bytes 0 or 1. */
export interface ArrayOf {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array;
  int8: Int8Array;
  uint8: Uint8Array;
  int16: Int16Array;
  uint16: Uint16Array;
  int32: Int32Array;
  uint32: Uint32Array;
  int64: BigInt64Array;
  uint64: BigUint64Array;
  bool: Uint8Array;
}

export type TensorData = ArrayOf[DType];

interface ArrayType<D extends DType> {
  readonly BYTES_PER_ELEMENT: number;
  new (length: number): ArrayOf[D];
  new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): ArrayOf[D];
}

interface DTypeEntry<D extends DType> {
  /** TensorProto.DataType. */
  readonly onnx: number;
  readonly array: ArrayType<D>;
  readonly kind: "float" | "int" | "bool";
}

export const dtypes: { readonly [D in DType]: DTypeEntry<D> } = {
  float32: { onnx: 1, array: Float32Array, kind: "float" },
  float64: { onnx: 11, array: Float64Array, kind: "float" },
  float16: { onnx: 10, array: Uint16Array, kind: "float" },
  int8: { onnx: 3, array: Int8Array, kind: "int" },
  uint8: { onnx: 2, array: Uint8Array, kind: "int" },
  int16: { onnx: 5, array: Int16Array, kind: "int" },
  uint16: { onnx: 4, array: Uint16Array, kind: "int" },
  int32: { onnx: 6, array: Int32Array, kind: "int" },
  uint32: { onnx: 12, array: Uint32Array, kind: "int" },
  int64: { onnx: 7, array: BigInt64Array, kind: "int" },
  uint64: { onnx: 13, array: BigUint64Array, kind: "int" },
  bool: { onnx: 9, array: Uint8Array, kind: "bool" },
};

const byCode = new Map<number, DType>(Object.entries(dtypes).map(([name, entry]) => [entry.onnx, name as DType]));

/** The element type of a TensorProto.DataType code, or undefined where this project has none (strings, complex, …). */
export const dtypeOfCode = (code: number): DType | undefined => byCode.get(code);

export const isFloat = (dtype: DType): boolean => dtypes[dtype].kind === "float";
