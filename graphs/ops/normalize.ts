/** Normalisation: softmax, and batch norm in both modes. */
import { check, GraphError } from "../onnx/error.ts";
import { isAbsent, type Type, type Value } from "../onnx/graph.ts";
import { axisOf, broadcast, defineOp, notDifferentiable, type Op, sameDtype } from "./define.ts";
import { add, div, exp, mul, reciprocal, sqrt, sub } from "./elementwise.ts";
import { reshape } from "./movement.ts";
import { meansOverRanks, statisticsOverRanks } from "./ranks.ts";
import { reduceMean, reduceSum } from "./reduce.ts";

type Axis = { axis?: number };
const inferSoftmax = ([x]: readonly [x: Value], { axis = -1 }: Axis): Type => {
  axisOf(axis, x.rank);
  return { dtype: x.dtype, shape: x.shape };
};

export const softmax: Op<[x: Value], Axis> = defineOp<[x: Value], Axis>("Softmax", {
  attributes: { axis: "int" },
  infer: inferSoftmax,
  vjp: ({ output: y, cotangent: dy, attributes: { axis = -1 } }) => [
    mul(y, sub(dy, reduceSum(mul(dy, y), { axes: [axis] }))),
  ],
  gradcheck: [{ inputs: [{ shape: [3, 4] }] }, { inputs: [{ shape: [3, 4, 2] }], attributes: { axis: 1 } }],
});
export const logSoftmax: Op<[x: Value], Axis> = defineOp<[x: Value], Axis>("LogSoftmax", {
  attributes: { axis: "int" },
  infer: inferSoftmax,
  vjp: ({ output: y, cotangent: dy, attributes: { axis = -1 } }) => [
    sub(dy, mul(exp(y), reduceSum(dy, { axes: [axis] }))),
  ],
  gradcheck: [{ inputs: [{ shape: [3, 4] }] }, { inputs: [{ shape: [3, 4, 2] }], attributes: { axis: 1 } }],
});

/** [C] as [1,C,1,1]: what broadcasts along the channels of a value of this rank. */
export const alongChannels = (v: Value, rank: number): Value =>
  reshape(
    v,
    Array.from({ length: rank }, (_, i) => (i === 1 ? -1 : 1)),
  );

type Epsilon = { epsilon?: number; momentum?: number; training_mode?: number };
/** Batch norm with given statistics (evaluation mode). x [N,C,…], the others [C]. */
export const batchNormalization: Op<[x: Value, scale: Value, bias: Value, mean: Value, variance: Value], Epsilon> =
  defineOp<[x: Value, scale: Value, bias: Value, mean: Value, variance: Value], Epsilon>("BatchNormalization", {
    attributes: { epsilon: "float", momentum: "float", training_mode: "int" },
    minInputs: 5,
    infer: ([x, ...parts], { training_mode = 0 }) => {
      check(training_mode === 0, "unsupported", "training_mode 1 is not supported; use batchNormTraining");
      for (const part of parts)
        check(part.size === x.dim(1), "shape", `x has ${x.dim(1)} channels but a parameter ${part.size}`);
      return { dtype: x.dtype, shape: x.shape };
    },
    vjp: ({ inputs: [x, scale, , mean, variance], cotangent: dy, attributes: { epsilon = 1e-5 } }) => {
      const invStd = reciprocal(sqrt(add(variance, epsilon)));
      const axes = x.shape.flatMap((_, i) => (i === 1 ? [] : [i]));
      const normal = mul(sub(x, alongChannels(mean, x.rank)), alongChannels(invStd, x.rank));
      return [
        mul(dy, alongChannels(mul(scale, invStd), x.rank)),
        reduceSum(mul(dy, normal), { axes, keepdims: 0 }),
        reduceSum(dy, { axes, keepdims: 0 }),
        null,
        null,
      ];
    },
    gradcheck: [
      {
        inputs: [
          { shape: [2, 3, 2, 2] },
          { shape: [3] },
          { shape: [3] },
          { shape: [3], fixed: true },
          { shape: [3], low: 0.5, high: 2, fixed: true },
        ],
        step: 0.1,
      },
    ],
  });

/** `ranks`: so many processes have equal shares of the batch, and statistics are those of all of it (left out: of this one's). */
export type BranchedNorm = { readonly branches: number; readonly epsilon: number; readonly ranks?: number };

/** Interleaved branches side by side as channels: image b of branch j is row b·nb + j, so [B·nb,C,…] is [B,nb·C,…]. */
export const branchesAsChannels = (x: Value, branches: number): Value =>
  branches === 1 ? x : reshape(x, [x.dim(0) / branches, branches * x.dim(1), ...x.shape.slice(2)]);

/** The axes that a batch norm of x takes its statistics over. */
export const statisticAxes = (x: Value): number[] => x.shape.flatMap((_, i) => (i === 1 ? [] : [i]));

/**
 * Batch norm in training mode over an interleaved batch: each branch is normalised by its own statistics and has its own
 * scale and bias. x [B·nb,C,…], scale and bias [nb,C]; outputs y, and the mean and (biased) variance [nb,C].
 */
export const batchNormTraining: Op<[x: Value, scale: Value, bias: Value], BranchedNorm> = defineOp<
  [x: Value, scale: Value, bias: Value],
  BranchedNorm
>("batchNormTraining", {
  differentiableOutputs: 1,
  infer: ([x, scale, bias], { branches }): Type[] => {
    check(x.dim(0) % branches === 0, "shape", `${x.dim(0)} rows do not interleave ${branches} branches`);
    for (const p of [scale, bias])
      check(
        p.rank === 2 && p.dim(0) === branches && p.dim(1) === x.dim(1),
        "shape",
        `scale and bias must be [${branches}, ${x.dim(1)}]`,
      );
    const dtype = sameDtype([x, scale, bias]);
    return [
      { dtype, shape: x.shape },
      { dtype, shape: scale.shape },
      { dtype, shape: scale.shape },
    ];
  },
  lower: ([x, scale, bias], { branches, epsilon, ranks = 1 }) => {
    const wide = branchesAsChannels(x, branches);
    const axes = statisticAxes(wide);
    const own = reduceMean(wide, { axes, keepdims: 1 });
    const centred = sub(wide, own);
    const [mean, variance] = statisticsOverRanks(own, reduceMean(mul(centred, centred), { axes, keepdims: 0 }), ranks);
    const flat = (v: Value) => reshape(v, [-1]);
    const y = batchNormalization(wide, flat(scale), flat(bias), flat(mean), variance, { epsilon });
    return [reshape(y, x.shape), reshape(mean, scale.shape), reshape(variance, scale.shape)];
  },
  vjp: ({ inputs: [x, scale], outputs: [, mean, variance], cotangents: [dy, dMean, dVariance], attributes }) => {
    if (dMean !== undefined || dVariance !== undefined || dy === undefined)
      throw new GraphError("not-differentiable", "gradients do not flow into the batch's statistics", {
        op: "batchNormTraining",
      });
    const [dx, dScale, dBias] = batchNormTrainingGrad.outputs(
      x,
      dy,
      scale,
      mean as Value,
      variance as Value,
      attributes,
    );
    return [dx as Value, dScale as Value, dBias as Value];
  },
  gradcheck: [
    {
      inputs: [{ shape: [4, 3, 2, 2] }, { shape: [1, 3] }, { shape: [1, 3] }],
      attributes: { branches: 1, epsilon: 1e-5 },
    },
    {
      inputs: [{ shape: [6, 2, 2, 3] }, { shape: [2, 2] }, { shape: [2, 2] }],
      attributes: { branches: 2, epsilon: 1e-5 },
    },
    { inputs: [{ shape: [8, 3] }, { shape: [2, 3] }, { shape: [2, 3] }], attributes: { branches: 2, epsilon: 1e-5 } },
  ].map((c) => ({ ...c, tolerance: 5e-3 })),
});

/**
 * Gradient of batchNormTraining (Ioffe & Szegedy 2015). With x̂ = (x - mean)/σ and means over a branch's channel:
 * dx = scale/σ · (dy - mean(dy) - x̂ · mean(dy·x̂)), dscale = Σ dy·x̂, dbias = Σ dy. Of several ranks dx has the means over all
 * of them, while dscale and dbias are this one's, as gradients to all weights are until they are averaged.
 * Inputs x, dy [B·nb,C,…], scale, mean, variance [nb,C]; outputs dx, dscale, dbias.
 */
export const batchNormTrainingGrad: Op<
  [x: Value, dy: Value, scale: Value, mean: Value, variance: Value],
  BranchedNorm
> = defineOp<[x: Value, dy: Value, scale: Value, mean: Value, variance: Value], BranchedNorm>("batchNormTrainingGrad", {
  infer: ([x, , scale]): Type[] => [x, scale, scale].map(({ dtype, shape }) => ({ dtype, shape })),
  lower: ([x, dy, scale, mean, variance], { branches, epsilon, ranks = 1 }) => {
    const [wide, g] = [branchesAsChannels(x, branches), branchesAsChannels(dy, branches)];
    const along = (v: Value) => alongChannels(v, wide.rank);
    const axes = statisticAxes(wide);
    const count = wide.size / wide.dim(1);
    const invStd = reciprocal(sqrt(add(variance, epsilon)));
    const normal = mul(sub(wide, along(mean)), along(invStd));
    const meanG = reduceMean(g, { axes, keepdims: 0 });
    const meanGN = reduceMean(mul(g, normal), { axes, keepdims: 0 });
    const [allG, allGN] = meansOverRanks([meanG, meanGN], ranks) as [Value, Value];
    const dx = mul(sub(sub(g, along(allG)), mul(normal, along(allGN))), along(mul(scale, invStd)));
    const total = (v: Value) => reshape(mul(v, count), scale.shape);
    return [reshape(dx, x.shape), total(meanGN), total(meanG)];
  },
  vjp: notDifferentiable("second derivatives of batch norm are not built"),
});

/** Unit length along an axis: x / max(‖x‖₂, epsilon), as torch.nn.functional.normalize. */
export const normalizeL2 = (x: Value, axis = -1, epsilon = 1e-12): Value =>
  div(x, sqrt(add(reduceSum(mul(x, x), { axes: [axis] }), epsilon * epsilon)));

type LayerNorm = { axis?: number; epsilon?: number };
/**
 * Layer norm (Ba, Kiros & Hinton 2016) over the axes from `axis` on. x […,D], scale and bias [D] (bias may be left out);
 * outputs y, and mean and 1/σ with those axes as 1. With x̂ = (x - mean)/σ, g = dy·scale and means over those axes:
 * dx = (g - mean(g) - x̂ · mean(g·x̂))/σ.
 */
export const layerNormalization: Op<[x: Value, scale: Value, bias: Value], LayerNorm> = defineOp<
  [x: Value, scale: Value, bias: Value],
  LayerNorm
>("LayerNormalization", {
  differentiableOutputs: 1,
  firstOpset: 17,
  attributes: { axis: "int", epsilon: "float" },
  minInputs: 2,
  readAttributes: { stash_type: "int" },
  read: (inputs, { stash_type: _, ...attributes }) => ({ inputs, attributes }),
  infer: ([x, scale, bias], { axis = -1 }): Type[] => {
    const at = axisOf(axis, x.rank);
    for (const part of [scale, bias])
      check(
        isAbsent(part) || broadcast(part.shape, x.shape.slice(at)).join() === x.shape.slice(at).join(),
        "shape",
        `scale and bias must be [${x.shape.slice(at).join(", ")}]`,
      );
    const kept = { dtype: x.dtype, shape: x.shape.map((d, i) => (i < at ? d : 1)) };
    return [{ dtype: sameDtype([x, scale]), shape: x.shape }, kept, kept];
  },
  vjp: ({ inputs: [x, scale, bias], outputs: [, mean, invStd], cotangents, attributes: { axis = -1 } }) => {
    const [dy, dMean, dInvStd] = cotangents;
    if (dMean !== undefined || dInvStd !== undefined || dy === undefined)
      throw new GraphError("not-differentiable", "gradients do not flow into mean and deviation", {
        op: "LayerNormalization",
      });
    const at = axisOf(axis, x.rank);
    const axes = x.shape.flatMap((_, i) => (i < at ? [] : [i]));
    const normal = mul(sub(x, mean as Value), invStd as Value);
    const g = mul(dy, scale);
    const centred = sub(g, reduceMean(g, { axes }));
    const dx = mul(sub(centred, mul(normal, reduceMean(mul(g, normal), { axes }))), invStd as Value);
    return [dx, mul(dy, normal), isAbsent(bias) ? null : dy];
  },
  gradcheck: [
    { inputs: [{ shape: [3, 4] }, { shape: [4] }, { shape: [4] }], tolerance: 5e-3 },
    { inputs: [{ shape: [2, 3, 4] }, { shape: [3, 4] }], attributes: { axis: 1 }, tolerance: 5e-3 },
  ],
});
