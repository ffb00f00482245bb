/**
 * What GPUs share. Without fusion every elementwise op and every reduction reads or writes whole activations, and memory is
 * what bounds them: so these lowerings are chosen by counting passes over an activation, reads and writes, which holds on
 * every GPU. None has been timed on one yet (docs/gpu.md).
 */
import type { DType } from "../onnx/dtype.ts";
import { constant, filled, type Type, type Value } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";
import {
  add,
  alongChannels,
  type BranchedNorm,
  batchNormalization,
  batchNormTraining,
  batchNormTrainingGrad,
  branchesAsChannels,
  cast,
  max,
  meansOverRanks,
  mul,
  type OpDefinition,
  type Reduction,
  reciprocal,
  reduceMean,
  reduceSum,
  reduceSumSquare,
  reshape,
  sqrt,
  statisticAxes,
  statisticsOverRanks,
  sub,
} from "../ops/index.ts";
import { type Layout, type Lowered, rowMajor } from "./layout.ts";
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
const stagedSum = (x: Value, reduction: Reduction, ofPixels = reduceSum): Value => {
  const { leading, trailing } = grouped(reduction, x.rank);
  if (leading.length === 0 || trailing.length === 0) return ofPixels(x, reduction);
  const { keepdims = 1 } = reduction;
  return reduceSum(ofPixels(x, { axes: trailing, keepdims }), { axes: leading, keepdims });
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
 * Batch norm in training mode with the squares summed as they are read: 6 passes over an activation, 8 in the portable
 * lowering.
 */
const batchNorm: Lowering = ({ inputs, attributes, types: [y, each] }) => {
  const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
  const [x, scale, bias] = inputs.map(({ plain }) => plain) as [Value, Value, Value];
  const wide = branchesAsChannels(x, branches);
  const flat = (v: Value) => reshape(v, [-1]);
  const share = wide.dim(1) / wide.size;
  const axes = statisticAxes(wide);
  const own = mul(stagedSum(wide, { axes, keepdims: 1 }), share);
  const squares = stagedSum(sub(wide, own), { axes, keepdims: 0 }, reduceSumSquare);
  const [mean, variance] = statisticsOverRanks(own, mul(squares, share), ranks);
  const out = batchNormalization(wide, flat(scale), flat(bias), flat(mean), variance, { epsilon });
  const { shape } = each as Type;
  return [reshape(out, (y as Type).shape), reshape(mean, shape), reshape(variance, shape)];
};

/** A variance held as 1/√(variance + epsilon): what gradients need. */
export const inverseDeviation = (epsilon: number): Layout => ({
  name: `1/√(x + ${epsilon})`,
  pack: (variance) => [reciprocal(sqrt(add(variance, epsilon)))],
  unpack: ([invStd]) => varianceOf(invStd as Value, epsilon),
});
export const varianceOf = (invStd: Value, epsilon: number): Value =>
  max(sub(reciprocal(mul(invStd, invStd)), epsilon), 0);

const as = (dtype: DType, v: Value): Value => (v.dtype === dtype ? v : cast(v, { to: dtype }));

/** (x - mean) · factor + bias with a number a channel each, in one op whose parameters are of x's type. */
export const shifted = (x: Value, mean: Value, factor: Value, bias: Value): Value => {
  const epsilon = 1e-5;
  const one = constant(filled(x.dtype, mean.shape, 1 - epsilon));
  const [a, b, m] = [factor, bias, mean].map((v) => as(x.dtype, v)) as [Value, Value, Value];
  return batchNormalization(x, a, b, m, one, { epsilon });
};

/** Mean over the pixels of each image and channel of v [N,C,…], as [N,C]. */
const overPixels = (v: Value): Value =>
  v.rank === 2 ? v : reduceMean(v, { axes: v.shape.flatMap((_, i) => (i < 2 ? [] : [i])), keepdims: 0 });

/** Mean of a·b over the pixels of each image and channel [N,C,…], as [N,C]. */
export type PixelDots = (a: Value, b: Value) => Value;
export const reducedDots: PixelDots = (a, b) => overPixels(mul(a, b));

export interface GradientForms {
  readonly dots?: PixelDots;
  /** What activations and gradients lie in (row-major where left out), and how many times as large gradients are there. */
  readonly activation?: Layout;
  readonly gradient?: Layout;
  readonly lift?: number;
}

/**
 * Gradients of batch norm (Ioffe & Szegedy 2015): with x̂ = (x - mean)/σ and means over a branch's channel,
 * dx = scale/σ · (dy - (mean(dy) + x̂ · mean(dy·x̂))), where mean(dy·x̂) = (mean(dy·x) - mean · mean(dy))/σ: 12 passes over
 * an activation, 18 in the portable lowering. Means go in two stages, as sums do.
 */
export const batchNormGrad =
  ({ dots = reducedDots, activation = rowMajor, gradient = rowMajor, lift = 1 }: GradientForms = {}): Lowering =>
  ({ inputs: [x, dy, ...others], attributes, types: [dx, each] }) => {
    if (activation !== rowMajor && (x as Lowered).layout.name !== activation.name) return undefined;
    const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
    const form = (v: Lowered | undefined, layout: Layout) => (v as Lowered).one(layout);
    const [wide, g] = [
      branchesAsChannels(form(x, activation), branches),
      branchesAsChannels(form(dy, gradient), branches),
    ];
    const layouts = [rowMajor, rowMajor, inverseDeviation(epsilon)] as const;
    const [scale, mean, invStd] = layouts.map((layout, i) => reshape(form(others[i], layout), [-1])) as [
      Value,
      Value,
      Value,
    ];
    const overImages = (rows: Value) => reduceMean(as("float32", rows), { axes: [0], keepdims: 0 });
    const meanG = overImages(overPixels(g));
    const meanGN = mul(sub(overImages(dots(g, wide)), mul(mean, meanG)), invStd);
    const [allG, allGN] = meansOverRanks([meanG, meanGN], ranks) as [Value, Value];
    const centred = sub(g, shifted(wide, mean, mul(allGN, invStd), allG));
    const factor = alongChannels(as(wide.dtype, mul(scale, invStd)), wide.rank);
    const total = (v: Value) => reshape(mul(v, wide.size / wide.dim(1) / lift), (each as Type).shape);
    return [
      { layout: gradient, parts: [reshape(mul(centred, factor), (dx as Type).shape)] },
      total(meanGN),
      total(meanG),
    ];
  };

export const gpuLowerings: readonly (readonly [OpDefinition, Lowering])[] = [
  [reduceSum.definition, staged((sum) => sum)],
  [reduceMean.definition, staged((sum, count) => mul(sum, 1 / count))],
  [batchNormTraining.definition, batchNorm],
  [batchNormTrainingGrad.definition, batchNormGrad()],
];
