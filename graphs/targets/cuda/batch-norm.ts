/**
 * Batch norm on CUDA in the fewest passes over an activation that the provider's ops allow, reads and writes counted: 3
 * forward in float32, where the portable lowering takes 8, and 4 of half the bytes in float16; back 10 with products for
 * dots, where graphs/targets/gpu.ts takes 12. None has been timed (docs/gpu.md).
 */
import { apply, constant, type Definition, filled, type Type, type Value } from "../../onnx/graph.ts";
import {
  add,
  type BranchedNorm,
  branchesAsChannels,
  mul,
  reduceMean,
  reshape,
  statisticsOverRanks,
  sub,
} from "../../ops/index.ts";
import { fusedMatMul } from "../contrib.ts";
import { inverseDeviation, type PixelDots, reducedDots, shifted, varianceOf } from "../gpu.ts";
import type { Layout, Lowered } from "../layout.ts";
import type { Lowering } from "../lower.ts";

/**
 * y, running mean and variance (not used here), the batch's mean and 1/√(variance + epsilon): the form of BatchNormalization
 * with five outputs, which ended with opset 13. Only through it does the provider reach cuDNN's fused training kernel.
 */
export const cudnnTraining: Definition = {
  name: "BatchNormalization",
  domain: "",
  attributes: { epsilon: "float" },
  lastOpset: 13,
  infer: ([x, scale]) => [x, scale, scale, scale, scale] as readonly Value[],
};

const flat = (x: Lowered | undefined): Value => reshape((x as Lowered).plain, [-1]);

/** Batch norm in training mode by cuDNN's kernel, which knows one rank's images only. */
export const fusedTraining: Lowering = ({ inputs: [x, scale, bias], attributes, types: [y, each] }) => {
  const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
  if (ranks > 1) return undefined;
  const [a, b] = [flat(scale), flat(bias)];
  const outputs = apply(cudnnTraining, [branchesAsChannels((x as Lowered).plain, branches), a, b, b, a], { epsilon });
  const [out, , , mean, invStd] = outputs as [Value, Value, Value, Value, Value];
  const { shape } = each as Type;
  return [
    reshape(out, (y as Type).shape),
    reshape(mean, shape),
    { layout: inverseDeviation(epsilon), parts: [reshape(invStd, shape)] },
  ];
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

/**
 * Batch norm in training mode over images [N,C,H,W] in the layout of float16, for which the provider has no such kernel:
 * LayerNormalization gives each image's mean and deviation, and a channel's variance is that within its images and between.
 */
export const trainingInHalf =
  (half: Layout): Lowering =>
  ({ inputs: [x, scale, bias], attributes, types: [y, each] }) => {
    if ((x as Lowered).layout.name !== half.name || (y as Type).shape.length !== 4) return undefined;
    const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
    const wide = branchesAsChannels((x as Lowered).one(half), branches);
    const rows = reshape(wide, [wide.dim(0) * wide.dim(1), -1]);
    const ones = constant(filled(wide.dtype, [rows.dim(1)], 1));
    const [, ...ofRows] = apply(rowNorm, [rows, ones], { axis: -1, epsilon });
    const [means, invStds] = ofRows.map((v) => reshape(v, [wide.dim(0), wide.dim(1)])) as [Value, Value];
    const own = reduceMean(means, { axes: [0], keepdims: 0 });
    const off = sub(means, own);
    const squares = add(varianceOf(invStds, epsilon), mul(off, off));
    const [mean, variance] = statisticsOverRanks(own, reduceMean(squares, { axes: [0], keepdims: 0 }), ranks);
    const [invStd] = inverseDeviation(epsilon).pack(variance) as [Value];
    const out = shifted(wide, mean, mul(flat(scale), invStd), flat(bias));
    const { shape } = each as Type;
    return [{ layout: half, parts: [reshape(out, (y as Type).shape)] }, reshape(mean, shape), reshape(variance, shape)];
  };

/** As reducedDots by a product of a row and a column each: two passes fewer, for as many products as images and channels. */
export const productDots: PixelDots = (a, b) => {
  if (a.rank === 2) return reducedDots(a, b);
  const rows = (v: Value) => reshape(v, [v.dim(0) * v.dim(1), 1, -1]);
  const products = fusedMatMul(rows(a), rows(b), { alpha: (a.dim(0) * a.dim(1)) / a.size, transB: 1 });
  return reshape(products, [a.dim(0), a.dim(1)]);
};
