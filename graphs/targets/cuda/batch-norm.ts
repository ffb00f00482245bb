/**
 * Batch norm on CUDA in the fewest passes over an activation that the provider's ops allow, reads and writes counted: 3
 * forward and 12 back (10 with dots) in float32, where graphs/targets/gpu.ts takes 8 and 14; in float16 4 forward, of half
 * the bytes. None has been timed (docs/gpu.md).
 *
 * Forward, float32: the provider reaches cuDNN's fused training kernel only through the form of BatchNormalization with
 * five outputs, which ended with opset 13. float16: not even so; LayerNormalization gives each image's mean and deviation.
 *
 * Backward (Ioffe & Szegedy 2015): with x̂ = (x - mean)/σ and means over a branch's channel,
 * dx = scale/σ · (dy - mean(dy) - x̂ · mean(dy·x̂)), where mean(dy·x̂) = (mean(dy·x) - mean · mean(dy))/σ.
 */
import type { DType } from "../../onnx/dtype.ts";
import { apply, constant, type Definition, filled, type Value } from "../../onnx/graph.ts";
import {
  add,
  alongChannels,
  batchNormalization,
  cast,
  max,
  mul,
  reciprocal,
  reduceMean,
  reshape,
  sqrt,
  sub,
} from "../../ops/index.ts";
import { fusedMatMul } from "../contrib.ts";
import type { Layout } from "../layout.ts";

/** What each channel has, [C] in float32, branches side by side as channels. */
export interface Affine {
  readonly scale: Value;
  readonly bias: Value;
}
export interface Statistics {
  readonly mean: Value;
  /** 1/σ = 1/√(variance + epsilon). */
  readonly invStd: Value;
}

/** A variance held as 1/√(variance + epsilon): what cuDNN gives, and what a gradient needs. */
export const inverseDeviation = (epsilon: number): Layout => ({
  name: `1/√(x + ${epsilon})`,
  pack: (variance) => [reciprocal(sqrt(add(variance, epsilon)))],
  unpack: ([invStd]) => varianceOf(invStd as Value, epsilon),
});
const varianceOf = (invStd: Value, epsilon: number): Value => max(sub(reciprocal(mul(invStd, invStd)), epsilon), 0);

/** y, running mean and variance (not used here), the batch's mean and 1/√(variance + epsilon). */
export const cudnnTraining: Definition = {
  name: "BatchNormalization",
  domain: "",
  attributes: { epsilon: "float" },
  lastOpset: 13,
  infer: ([x, scale]) => [x, scale, scale, scale, scale] as readonly Value[],
};

/** LayerNormalization over the last axis of x [N,D]; its statistics, [N,1], are float32 whatever x is. */
const rowNorm: Definition = {
  name: "LayerNormalization",
  domain: "",
  attributes: { axis: "int", epsilon: "float" },
  infer: ([x]) => {
    const statistics = { dtype: "float32", shape: [(x as Value).dim(0), 1] } as const;
    return [x as Value, statistics, statistics];
  },
};

const as = (dtype: DType, v: Value): Value => (v.dtype === dtype ? v : cast(v, { to: dtype }));

/** (x - mean) · factor + bias with a number a channel each, in one op whose parameters are of x's type. */
export const shifted = (x: Value, mean: Value, factor: Value, bias: Value): Value => {
  const epsilon = 1e-5;
  const one = constant(filled(x.dtype, mean.shape, 1 - epsilon));
  const [a, b, m] = [factor, bias, mean].map((v) => as(x.dtype, v)) as [Value, Value, Value];
  return batchNormalization(x, a, b, m, one, { epsilon });
};

/** y and statistics of a batch x [N,C,…] in float32. */
export const trainingInSingle = (x: Value, { scale, bias }: Affine, epsilon: number): readonly [Value, Statistics] => {
  const [y, , , mean, invStd] = apply(cudnnTraining, [x, scale, bias, bias, scale], { epsilon }) as Value[];
  return [y as Value, { mean: mean as Value, invStd: invStd as Value }];
};

/** y, mean and variance of a batch x [N,C,H,W] in float16; a channel's variance is that within its images and between them. */
export const trainingInHalf = (
  x: Value,
  { scale, bias }: Affine,
  epsilon: number,
): readonly [y: Value, mean: Value, variance: Value] => {
  const [images, channels] = [x.dim(0), x.dim(1)];
  const rows = reshape(x, [images * channels, -1]);
  const ones = constant(filled(x.dtype, [rows.dim(1)], 1));
  const [, ...each] = apply(rowNorm, [rows, ones], { axis: -1, epsilon });
  const [means, invStds] = each.map((v) => reshape(v, [images, channels])) as [Value, Value];
  const mean = reduceMean(means, { axes: [0], keepdims: 0 });
  const off = sub(means, mean);
  const squares = add(varianceOf(invStds, epsilon), mul(off, off));
  const variance = reduceMean(squares, { axes: [0], keepdims: 0 });
  const [invStd] = inverseDeviation(epsilon).pack(variance) as [Value];
  return [shifted(x, mean, mul(scale, invStd), bias), mean, variance];
};

/** Mean of a·b over the pixels of each image and channel [N,C,H,W], as [N,C]. */
export type PixelDots = (a: Value, b: Value) => Value;
export const pixelDots: { readonly reductions: PixelDots; readonly dots: PixelDots } = {
  reductions: (a, b) => reduceMean(mul(a, b), { axes: [2, 3], keepdims: 0 }),
  /** A product of a row and a column each: two passes fewer, for as many products as there are images and channels. */
  dots: (a, b) => {
    const rows = (v: Value) => reshape(v, [v.dim(0) * v.dim(1), 1, -1]);
    const products = fusedMatMul(rows(a), rows(b), { alpha: 1 / (a.dim(2) * a.dim(3)), transB: 1 });
    return reshape(products, [a.dim(0), a.dim(1)]);
  },
};

/** Gradients of a batch x [N,C,H,W] from g = dy, both of one type: dx of that type, and of scale and bias [C] in float32. */
export const trainingGrad = (
  x: Value,
  g: Value,
  scale: Value,
  { mean, invStd }: Statistics,
  dots: PixelDots,
): readonly [dx: Value, dScale: Value, dBias: Value] => {
  const overImages = (rows: Value) => reduceMean(as("float32", rows), { axes: [0], keepdims: 0 });
  const meanG = overImages(reduceMean(g, { axes: [2, 3], keepdims: 0 }));
  const meanGN = mul(sub(overImages(dots(g, x)), mul(mean, meanG)), invStd);
  const centred = sub(g, shifted(x, mean, mul(meanGN, invStd), meanG));
  const dx = mul(centred, alongChannels(as(x.dtype, mul(scale, invStd)), x.rank));
  const count = x.size / x.dim(1);
  return [dx, mul(meanGN, count), mul(meanG, count)];
};
