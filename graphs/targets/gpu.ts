/**
 * What GPUs share. Without fusion every elementwise op and every reduction reads or writes whole activations, and memory is
 * what bounds them: so these lowerings are chosen by counting passes over an activation, reads and writes, which holds on
 * every GPU. None has been timed on one yet (docs/gpu.md).
 */
import { constant, filled, type Type, type Value } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";
import {
  add,
  alongChannels,
  type BranchedNorm,
  batchNormalization,
  batchNormTrainingGrad,
  besides,
  div,
  mul,
  type OpDefinition,
  type Reduction,
  reduceMean,
  reduceSum,
  reshape,
  sqrt,
  statisticAxes,
} from "../ops/index.ts";
import type { Lowering } from "./lower.ts";

/** Axes of a reduction in two groups: the first of the operand, and the rest. Mixed, where neither is empty. */
const grouped = ({ axes }: Reduction, rank: number): { readonly leading: number[]; readonly trailing: number[] } => {
  const sorted = (axes ?? Array.from({ length: rank }, (_, i) => i))
    .map((axis) => (axis < 0 ? axis + rank : axis))
    .sort((a, b) => a - b);
  const leading = sorted.filter((axis, i) => axis === i);
  return { leading, trailing: sorted.slice(leading.length) };
};

/**
 * Sums over the batch and the pixels, around the channels: first over the pixels, which lie together, then over the batch.
 * CUDA has kernels of its own for each and leaves the mixed form to cuDNN; WebGPU transposes the whole operand for it. Sums
 * of sums round less too.
 */
const stagedSum = (x: Value, reduction: Reduction): Value => {
  const { leading, trailing } = grouped(reduction, x.rank);
  if (leading.length === 0 || trailing.length === 0) return reduceSum(x, reduction);
  const { keepdims = 1 } = reduction;
  return reduceSum(reduceSum(x, { axes: trailing, keepdims }), { axes: leading, keepdims });
};

const staged =
  (finish: (sum: Value, count: number) => Value): Lowering =>
  ({ inputs, attributes, types: [y] }) => {
    const [x] = inputs.map(({ plain }) => plain) as [Value];
    const { leading, trailing } = grouped(attributes, x.rank);
    if (leading.length === 0 || trailing.length === 0) return undefined;
    return [finish(stagedSum(x, attributes), x.size / sizeOf((y as Type).shape))];
  };

/**
 * The gradient of batch norm with its affine passes left to BatchNormalization, which fuses them: with x̂ = (x - mean)/σ,
 * dx = scale/σ · (dy - (x̂ · mean(dy·x̂) + mean(dy))): 14 passes over an activation, 18 in the portable lowering.
 */
const batchNormGrad: Lowering = ({ inputs, attributes }) => {
  const { branches, epsilon } = attributes as BranchedNorm;
  const [x, dy, scale, mean, variance] = inputs.map(({ plain }) => plain) as [Value, Value, Value, Value, Value];
  const [wide, g] = [besides(x, branches), besides(dy, branches)];
  const flat = (v: Value) => reshape(v, [-1]);
  const affine = (a: Value, b: Value) => batchNormalization(wide, a, b, flat(mean), flat(variance), { epsilon });
  const reduction = { axes: statisticAxes(wide), keepdims: 0 };
  const share = wide.dim(1) / wide.size;
  const [zeros, ones] = [0, 1].map((v) => constant(filled(x.dtype, [wide.dim(1)], v))) as [Value, Value];
  const sumG = stagedSum(g, reduction);
  const sumGN = stagedSum(mul(g, affine(ones, zeros)), reduction);
  const centred = add(g, affine(mul(sumGN, -share), mul(sumG, -share)));
  const dx = mul(centred, alongChannels(flat(div(scale, sqrt(add(variance, epsilon)))), wide.rank));
  return [reshape(dx, x.shape), reshape(sumGN, scale.shape), reshape(sumG, scale.shape)];
};

export const gpuLowerings: readonly (readonly [OpDefinition, Lowering])[] = [
  [reduceSum.definition, staged((sum) => sum)],
  [reduceMean.definition, staged((sum, count) => mul(sum, 1 / count))],
  [batchNormTrainingGrad.definition, batchNormGrad],
];
