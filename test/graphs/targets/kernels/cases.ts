/** Shapes and types on which each kernel is tried: in the emulator against its meaning, and by NVRTC. */
import type { DType } from "../../../../graphs/onnx/dtype.ts";
import type { Attribute } from "../../../../graphs/onnx/graph.ts";
import type { OpDefinition } from "../../../../graphs/ops/index.ts";
import { batchNormApply, batchNormStatistics } from "../../../../graphs/targets/cuda/kernels/batch-norm.ts";
import { batchNormGradKernel } from "../../../../graphs/targets/cuda/kernels/batch-norm-grad.ts";
import { combineKernel } from "../../../../graphs/targets/cuda/kernels/combine.ts";
import { dilate } from "../../../../graphs/targets/cuda/kernels/dilate.ts";
import { gatherKernel } from "../../../../graphs/targets/cuda/kernels/gather.ts";
import { logSumExp, logSumExpGrad } from "../../../../graphs/targets/cuda/kernels/log-sum-exp.ts";
import { pgdStepKernel } from "../../../../graphs/targets/cuda/kernels/pgd-step.ts";
import { pixelMean, pixelSpread } from "../../../../graphs/targets/cuda/kernels/pixels.ts";
import { sgdKernel } from "../../../../graphs/targets/cuda/kernels/sgd.ts";

export interface KernelCase {
  readonly title: string;
  readonly op: { readonly definition: OpDefinition };
  /** Random numbers between `low` and `high`, `masked` at every second and third place. */
  readonly inputs: readonly { dtype: DType; shape: readonly number[]; low?: number; high?: number; masked?: number }[];
  readonly attributes?: { readonly [name: string]: Attribute };
  /** Largest relative L2 error of an output. */
  readonly tolerance: number;
}

const types = ["float32", "float16"] as const;

const pgd = types.flatMap((dtype) =>
  [
    { images: [2, 3, 8, 8], channelsLast: 0 },
    { images: [3, 3, 7, 5], channelsLast: 1 },
    { images: [1, 1, 1, 1], channelsLast: 1 },
    { images: [5, 4, 9, 11], channelsLast: 0 },
  ].map(({ images, channelsLast }): KernelCase => {
    const [n, c, h, w] = images as [number, number, number, number];
    const image = { dtype: "float32", shape: images, low: 0, high: 1 } as const;
    return {
      title: `${images.join("×")}, gradient ${dtype}${channelsLast ? " channels last" : ""}`,
      op: pgdStepKernel,
      inputs: [image, { dtype, shape: channelsLast ? [n, h, w, c] : images }, image],
      attributes: { stepSize: 2 / 255, eps: 0.6, channelsLast },
      tolerance: 0,
    };
  }),
);

/** Shapes channels last that fit nothing: channels that no vector divides, a wide head, one row, several chunks of sums. */
const activations = [
  { shape: [6, 5, 7, 8], branches: 2 },
  { shape: [4, 3, 3, 3], branches: 1 },
  { shape: [3, 9, 9, 6], branches: 3 },
  { shape: [12, 20], branches: 3 },
  { shape: [2, 2052], branches: 1 },
  { shape: [4, 1, 1, 4104], branches: 2 },
  { shape: [2, 12, 13, 64], branches: 2 },
  { shape: [1, 25, 25, 12], branches: 1 },
] as const;

/** Numbers with a mean that is far from 0: variance must not lose its digits to it. */
const shifted = { low: 6, high: 8 } as const;
const sized = (dtype: DType): number => (dtype === "float16" ? 4e-4 : 2e-6);

/** Each shape and type with some of the cases, so that each case meets several shapes and types. */
const batchNorm = (
  of: (each: { dtype: DType; shape: readonly number[]; branches: number }) => readonly KernelCase[],
  some = 1,
) =>
  types.flatMap((dtype, t) =>
    activations.flatMap((activation, a) => {
      const all = of({ dtype, ...activation });
      return all.filter((_, i) => (i + a + 2 * t) % all.length < some);
    }),
  );

const statistics = batchNorm(({ dtype, shape, branches }) => [
  {
    title: `${shape.join("×")} ${dtype}, ${branches} branches`,
    op: batchNormStatistics,
    inputs: [{ dtype, shape, ...shifted }],
    attributes: { branches },
    tolerance: 1e-5,
  },
]);

const apply = batchNorm(({ dtype, shape, branches }) => {
  const each = { dtype: "float32", shape: [branches, shape.at(-1) as number] } as const;
  const four = [each, { ...each, low: 0.1, high: 2 }, each, each];
  const like = { dtype, shape };
  const added = { nothing: [], "a residual": [like], "a normalised residual": [like, ...four] };
  return Object.entries(added).map(
    ([what, inputs], i): KernelCase => ({
      title: `${shape.join("×")} ${dtype}, ${branches} branches, ${what} added`,
      op: batchNormApply,
      inputs: [like, ...four, ...inputs],
      attributes: { branches, epsilon: 1e-5, relu: (i + shape.length) % 2 },
      tolerance: sized(dtype),
    }),
  );
}, 2);

const gradient = batchNorm(({ dtype, shape, branches }) => {
  const each = { dtype: "float32", shape: [branches, shape.at(-1) as number] } as const;
  const like = { dtype, shape };
  const forms = [
    { strides: [1], mask: "own", writes: 0, lift: 4096 },
    { strides: [1, shape.length === 4 ? 2 : 1], mask: "output", writes: 1, lift: 4096 },
    { strides: [1, 1], mask: "own", writes: 1, lift: 1 },
    { strides: [1], mask: "none", writes: 0, lift: 1 },
    { strides: shape.length === 4 ? [3, 1] : [1, 1], mask: "none", writes: 0, lift: 4096 },
  ];
  const term = (stride: number) => ({
    dtype,
    shape: shape.map((d, i) => (i > 0 && i < shape.length - 1 ? Math.ceil(d / stride) : d)),
  });
  return forms.map(
    (form): KernelCase => ({
      title: `${shape.join("×")} ${dtype}, ${branches} branches, ${JSON.stringify(form)}`,
      op: batchNormGradKernel,
      inputs: [
        ...form.strides.map(term),
        like,
        each,
        { ...each, low: 0.3, high: 0.6 },
        each,
        ...{ none: [], own: [each], output: [like] }[form.mask as "none"],
      ],
      attributes: { branches, epsilon: 1e-5, ...form },
      tolerance: sized(dtype),
    }),
  );
}, 2);

/** Gradients of images, one or two, some at every second or third pixel, with and without a mask. */
const gathered = types.flatMap((dtype) =>
  [
    { shape: [2, 6, 5, 8], strides: [1], masked: 1 },
    { shape: [3, 5, 7, 3], strides: [2, 1], masked: 1 },
    { shape: [1, 4, 4, 20], strides: [1, 3], masked: 0 },
    { shape: [2, 9, 9, 16], strides: [2], masked: 0 },
  ].map(({ shape, strides, masked }): KernelCase => {
    const [n, height, width, c] = shape as [number, number, number, number];
    const terms = strides.map((s) => ({ dtype, shape: [n, Math.ceil(height / s), Math.ceil(width / s), c] }));
    return {
      title: `${shape.join("×")} ${dtype}, strides ${strides.join()}${masked ? ", masked" : ""}`,
      op: gatherKernel,
      inputs: [...terms, ...(masked ? [{ dtype, shape }] : [])],
      attributes: { strides, masked, height, width },
      tolerance: sized(dtype),
    };
  }),
);

const pooled = types.flatMap((dtype) =>
  [
    [3, 4, 4, 10],
    [1, 7, 5, 3],
    [2, 1, 1, 300],
  ].flatMap((shape): KernelCase[] => {
    const [n, height, width, c] = shape as [number, number, number, number];
    return [
      { title: `${shape.join("×")} ${dtype}`, op: pixelMean, inputs: [{ dtype, shape }], tolerance: 1e-6 },
      {
        title: `${shape.join("×")} ${dtype}, back`,
        op: pixelSpread,
        inputs: [{ dtype: "float32", shape: [n, c] }],
        attributes: { height, width, factor: 4096 / (height * width), half: dtype === "float16" ? 1 : 0 },
        tolerance: sized(dtype),
      },
      {
        title: `${shape.join("×")} ${dtype}, zeros between`,
        op: dilate,
        inputs: [{ dtype, shape }],
        attributes: { strides: [2, 1 + (n % 3)] },
        tolerance: 0,
      },
    ];
  }),
);

const parameters = [[3, 5], [1], [2048], [2049], [1], [7, 3, 3, 3], [5000]];
const optimizer = [0, 5e-4].map(
  (decay): KernelCase => ({
    title: `${parameters.length} parameters, weight decay ${decay}`,
    op: sgdKernel,
    inputs: [
      { dtype: "float32", shape: [], low: 0.1, high: 0.5 },
      ...[0, 1, 2].flatMap(() => parameters.map((shape) => ({ dtype: "float32", shape }) as const)),
    ],
    attributes: { momentum: 0.9, decay },
    tolerance: 1e-6,
  }),
);

const combined: KernelCase = {
  title: "three vectors of four",
  op: combineKernel,
  inputs: [[2, 130], [129], [3, 1], [1]].map((shape) => ({ dtype: "float32", shape })),
  attributes: {
    lengths: [129, 1, 130],
    outputs: [0, 0, 1, 1, 1, 2],
    inputs: [1, 0, 2, 2, 3, 0],
    offsets: [0, 131, 2, 0, 0, 130],
    factors: [0.5, 0.1, 2, -1, 1, 0.25],
  },
  tolerance: 1e-6,
};

/** Columns that a vector divides or not, fewer and more than a block's threads; more rows than blocks take at once, or fewer. */
const rows = [
  { shape: [512, 2] },
  { shape: [259, 1] },
  { shape: [1, 10], low: 60, high: 90 },
  { shape: [5, 500] },
  { shape: [9, 512], low: -700, high: -600 },
  { shape: [3, 2049] },
  { shape: [7, 100], masked: -1e9 },
  { shape: [4, 3, 33], masked: Number.NEGATIVE_INFINITY },
  { shape: [37], low: 100, high: 100.5 },
];
const logSumExps = rows.flatMap(({ shape, ...numbers }, i): KernelCase[] => {
  const title = `${shape.join("×")}${Object.entries(numbers).map(([name, value]) => `, ${name} ${value}`)}`;
  const x = { dtype: "float32", shape, ...numbers } as const;
  const row = { dtype: "float32", shape: shape.slice(0, -1) } as const;
  const { high = 1 } = numbers;
  return [
    { title, op: logSumExp, inputs: [x], attributes: { keepdims: i % 2 }, tolerance: 1e-6 },
    {
      title: `${title}, gradient`,
      op: logSumExpGrad,
      inputs: [x, { ...row, low: high, high: high + 3 }, { ...row, ...(i % 2 && { shape: [...row.shape, 1] }) }],
      tolerance: 1e-6,
    },
  ];
});

export const kernelCases: Readonly<Record<string, readonly KernelCase[]>> = {
  "PGD step": pgd,
  "batch norm, statistics": statistics,
  "batch norm": apply,
  "batch norm, gradient": gradient,
  "gradients gathered": gathered,
  pixels: pooled,
  SGD: optimizer,
  "linear combinations": [combined],
  "log Σ exp": logSumExps,
};
