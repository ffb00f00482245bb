/** Points of k-means, their squared distances, and copies of some of them. */
import { RunError } from "../errors.ts";

/** Points moved so that their mean is 0: then float32 products keep the digits of distances. */
export interface Points {
  readonly count: number;
  readonly dim: number;
  /** [count, dim] less the mean. */
  readonly data: Float32Array;
  /** [dim] */
  readonly mean: Float64Array;
  /** [count] ‖x‖². */
  readonly squares: Float64Array;
}

/**
 * Points for `kMeans`. The data is moved in place, not copied.
 * @throws RunError where a number is not finite
 */
export const createPoints = (data: Float32Array, dim: number): Points => {
  const count = data.length / dim;
  const mean = new Float64Array(dim);
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i]))
      throw new RunError(`features: those of image ${Math.floor(i / dim)} are not finite; check the teacher`);
    mean[i % dim]! += data[i]!;
  }
  for (let j = 0; j < dim; j++) mean[j]! /= count;
  const squares = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const from = i * dim;
    let sum = 0;
    for (let j = 0; j < dim; j++) {
      data[from + j]! -= mean[j]!;
      sum += data[from + j]! ** 2;
    }
    squares[i] = sum;
  }
  return { count, dim, data, mean, squares };
};

/** Points that go to the engine at once: few enough that their scores stay in a cache, enough to fill its threads. */
export const chunk = 2048;

/** Writes the chosen points, row by row, to `out`. */
export const copyRows = ({ dim, data }: Points, chosen: Int32Array, out: Float32Array): void => {
  chosen.forEach((point, row) => {
    out.set(data.subarray(point * dim, (point + 1) * dim), row * dim);
  });
};

/** Squared distance of a point and a centre. Four sums, as each addition waits for the one before it. */
export const squaredDistance = (
  { dim, data }: Points,
  point: number,
  centres: Float32Array,
  centre: number,
): number => {
  let [a, b, c, d] = [0, 0, 0, 0];
  let [x, y] = [point * dim, centre * dim];
  for (const end = x + dim - 3; x < end; x += 4, y += 4) {
    a += (data[x]! - centres[y]!) ** 2;
    b += (data[x + 1]! - centres[y + 1]!) ** 2;
    c += (data[x + 2]! - centres[y + 2]!) ** 2;
    d += (data[x + 3]! - centres[y + 3]!) ** 2;
  }
  for (const end = (point + 1) * dim; x < end; x++, y++) a += (data[x]! - centres[y]!) ** 2;
  return a + b + c + d;
};

export const squaresOf = (centres: Float32Array, dim: number): Float64Array =>
  Float64Array.from({ length: centres.length / dim }, (_, c) => {
    let sum = 0;
    for (let j = c * dim; j < (c + 1) * dim; j++) sum += centres[j]! ** 2;
    return sum;
  });

/** A float32 tensor. */
export const float32 = (shape: readonly number[], data: Float32Array) => ({ dtype: "float32" as const, shape, data });
