import { type ArrayOf, type DType, dtypes } from "./dtype.ts";

/** A tensor in host memory: row-major data of `shape`. What is fed, fetched, stored in files and held by constants. */
export interface Tensor<D extends DType = DType> {
  readonly dtype: D;
  readonly shape: readonly number[];
  readonly data: ArrayOf[D];
}

/** Number of elements of a shape; 1 for a scalar's []. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** A tensor of `dtype`; throws a RangeError where the data does not fill the shape exactly. */
export const tensor = <D extends DType>(dtype: D, shape: readonly number[], data: ArrayOf[D]): Tensor<D> => {
  if (data.length !== sizeOf(shape))
    throw new RangeError(`${data.length} values do not fill the shape [${shape.join(", ")}]`);
  return { dtype, shape, data };
};

/** A zero-filled tensor. */
export const zeros = <D extends DType>(dtype: D, shape: readonly number[]): Tensor<D> =>
  tensor(dtype, shape, new dtypes[dtype].array(sizeOf(shape)));

/** A float32 tensor from numbers. */
export const float32 = (shape: readonly number[], values: ArrayLike<number>): Tensor<"float32"> =>
  tensor("float32", shape, Float32Array.from(values));

/** `float32[2,3]`: how types are printed in messages. */
export const typeName = (type: { readonly dtype: DType; readonly shape: readonly number[] }): string =>
  `${type.dtype}[${type.shape.join(",")}]`;
