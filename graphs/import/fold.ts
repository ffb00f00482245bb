/**
 * Arithmetic on constants at build time, so that shapes which a file computes (Shape → Gather → Concat → Reshape) are
 * numbers before any op asks for them. Only small tensors: weights are the engine's to fold.
 */
import { type DType, dtypes } from "../onnx/dtype.ts";
import { constant, constantOf, type Value } from "../onnx/graph.ts";
import type { Tensor } from "../onnx/tensor.ts";
import { definitionOf } from "../ops/define.ts";
import type { Numbers } from "../ops/fold.ts";

/** Tensors of more elements are left to the engine. */
export const LARGEST_FOLDED = 2 ** 16;

const numbersOf = ({ dtype, shape, data }: Tensor): Numbers => ({
  dtype,
  shape,
  values: Array.from(data as ArrayLike<number | bigint>, Number),
});

/** A host tensor from numbers; integers saturate at 64 bits, bool is 0 or 1. */
export const tensorOf = (dtype: DType, shape: readonly number[], values: readonly number[]): Tensor => {
  const data = new dtypes[dtype].array(values.length);
  values.forEach((v, i) => {
    if (data instanceof BigInt64Array || data instanceof BigUint64Array) data[i] = clampedBigInt(v);
    else data[i] = dtype === "bool" ? Number(v !== 0) : v;
  });
  return { dtype, shape, data };
};
const clampedBigInt = (v: number): bigint => {
  if (Number.isNaN(v)) return 0n;
  if (v >= 2 ** 63) return 2n ** 63n - 1n;
  return v <= -(2 ** 63) ? -(2n ** 63n) : BigInt(Math.trunc(v));
};

/** The constant that the only output of a node is, where its inputs are small constants and its op has a `fold` rule. */
export const folded = (value: Value): Value => {
  const { node } = value;
  const { fold } = definitionOf(node);
  if (fold === undefined || value.size > LARGEST_FOLDED || node.outputs.length > 1 || value.dtype === "float16")
    return value;
  const given = node.inputs.map(constantOf);
  if (!given.every((t): t is Tensor => t !== undefined && t.dtype !== "float16" && t.data.length <= LARGEST_FOLDED))
    return value;
  const values = fold(given.map(numbersOf), value, node.attributes);
  return values === undefined || values.length !== value.size
    ? value
    : constant(tensorOf(value.dtype, value.shape, values));
};
