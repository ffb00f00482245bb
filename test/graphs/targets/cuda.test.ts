/** The ways of the CUDA target equal the portable lowerings; they are standard ONNX, so the CPU can run them. */
import { describe, expect, test } from "@jest/globals";
import { linf } from "../../../graphs/attacks/threat-model.ts";
import { grad } from "../../../graphs/autodiff/grad.ts";
import { advcl } from "../../../graphs/methods/advcl.ts";
import type { DType } from "../../../graphs/onnx/dtype.ts";
import { input, nodesOf, type Value } from "../../../graphs/onnx/graph.ts";
import {
  add,
  batchNormalization,
  batchNormTraining,
  branchesAsChannels,
  conv,
  convGradInput,
  convGradWeight,
  gemm,
  mul,
  reduceMean,
  reduceSum,
  relu,
  reshape,
} from "../../../graphs/ops/index.ts";
import { type AttackLoss, attackLosses, gradientStep, pgdStep } from "../../../graphs/steps/evaluate.ts";
import { manySteps } from "../../../graphs/steps/many.ts";
import { compile, type Step } from "../../../graphs/steps/step.ts";
import { type CudaOptions, cudaTarget } from "../../../graphs/targets/cuda/index.ts";
import { lower } from "../../../graphs/targets/lower.ts";
import { goldenOptions } from "../../../scripts/parity/golden.ts";
import { evaluate, loweredForCuda, randomNumbers, randomTensor, relativeError } from "../run.ts";
import { cudaKernels } from "./cuda-kernels.ts";

/** Programs that run on a GPU, small: what they compute does not depend on sizes. */
const programs = (): Record<string, Pick<Step, "outputs">> => {
  const options = { ...goldenOptions, batch: 4, size: 8, width: 4, radius: 2, clusters: [2, 3], attackSteps: 2 };
  const step = advcl.build(options);
  const w = input("w", { dtype: "float32", shape: [10, 48] });
  const classifier = (x: Value): Value => gemm(reshape(x, [2, 48]), w, { transB: 1 });
  const images = { batch: 2, image: [3, 4, 4] } as const;
  return {
    step,
    "two steps in one run": manySteps(advcl.build({ ...options, trace: false }), 2),
    ...Object.fromEntries(
      (Object.keys(attackLosses) as AttackLoss[]).map((loss) => [
        `gradient of ${loss}`,
        { outputs: gradientStep(classifier, images, loss) },
      ]),
    ),
    "projected gradient descent": {
      outputs: pgdStep(classifier, images, { threat: linf(8 / 255), stepSize: 2 / 255, steps: 2 }),
    },
  };
};

describe.each<readonly [string, CudaOptions]>([
  ["cuda", {}],
  ["cuda-composed", { norm: "composed" }],
  ["cuda-float16", { precision: "float16" }],
  [
    "cuda-convolution-turned-dots-float16",
    { gradWeight: "convolution", gradInput: "turned", norm: "dots", precision: "float16" },
  ],
])("%s has a CUDA kernel for every node", (_, options) => {
  test.each(Object.entries(programs()))("%s", (_name, program) => {
    const without = new Set<string>();
    for (const { definition, inputs } of compile(program, cudaTarget(options)).nodes.values()) {
      const type = inputs[definition.name === "Where" ? 1 : 0]?.dtype as DType;
      if (!cudaKernels.get(definition.name)?.includes(type)) without.add(`${definition.name} of ${type}`);
    }
    expect([...without]).toEqual([]);
  });
});

const shapes = [
  { images: [3, 4, 6, 6], filters: [5, 4, 3, 3], pads: [1, 1, 1, 1], strides: [1, 1] },
  { images: [3, 4, 8, 9], filters: [5, 4, 3, 3], pads: [1, 1, 1, 1], strides: [1, 1] },
  { images: [2, 2, 9, 8], filters: [7, 2, 3, 3], pads: [1, 1, 1, 1], strides: [1, 1] },
  { images: [2, 4, 9, 8], filters: [5, 4, 2, 3], pads: [1, 0, 0, 1], strides: [1, 1] },
  { images: [3, 4, 7, 6], filters: [5, 4, 3, 3], pads: [1, 1, 1, 1], strides: [2, 2] },
  { images: [2, 4, 6, 6], filters: [5, 4, 1, 1], pads: [0, 0, 0, 0], strides: [2, 2] },
  { images: [2, 3, 5, 6], filters: [4, 3, 3, 3], pads: [0, 0, 0, 0], strides: [1, 1] },
];

const build = ({ images, filters, pads, strides }: (typeof shapes)[number]) => {
  const x = input("x", { dtype: "float32", shape: images });
  const w = input("w", { dtype: "float32", shape: filters });
  const y = conv(x, w, { pads, strides });
  const dy = input("dy", y);
  const window = { pads, strides, dilations: [1, 1], group: 1 };
  const dx = convGradInput(dy, w, { ...window, size: images.slice(2) });
  const dw = convGradWeight(x, dy, { ...window, kernel: filters.slice(2) });
  return { outputs: { y, dx, dw } as Record<string, Value>, types: { x, w, dy } };
};

const ways: readonly (readonly [name: string, options: CudaOptions, tolerance: number])[] = [
  ["taps", {}, 1e-5],
  ["convolution", { gradWeight: "convolution" }, 1e-5],
  ["turned weights", { gradInput: "turned" }, 1e-5],
  // float16 has 11 bits: each operand is rounded by up to 2⁻¹¹.
  ["float16", { precision: "float16", gradInput: "turned" }, 2e-3],
];

describe.each(ways)("%s", (_, options, tolerance) => {
  test.each(shapes)("images $images, filters $filters, strides $strides", async (shape) => {
    const { outputs, types } = build(shape);
    const random = randomNumbers(5);
    const feeds = Object.fromEntries(
      Object.entries(types).map(([name, { shape: s }]) => [name, randomTensor(random, s)]),
    );
    const expected = await evaluate(outputs, feeds);
    const actual = await evaluate(outputs, feeds, cudaTarget(options));
    for (const [name, value] of Object.entries(expected)) {
      expect(actual[name]?.shape).toEqual(value.shape);
      expect(relativeError(actual[name]?.data as Float32Array, value.data as Float32Array)).toBeLessThan(tolerance);
    }
  });
});

/** A residual block after a stem, in training or evaluation mode; its gradients to images and weights. */
const block = (mode: "training" | "evaluation") => {
  const types = {
    x: [6, 3, 8, 8],
    w0: [8, 3, 3, 3],
    w1: [8, 8, 3, 3],
    scale: [2, 8],
    bias: [2, 8],
    weights: [6, 8],
  };
  const given = Object.fromEntries(
    Object.entries(types).map(([name, shape]) => [name, input(name, { dtype: "float32", shape })]),
  ) as Record<keyof typeof types, Value>;
  const { x, w0, w1, scale, bias, weights } = given;
  const window = { pads: [1, 1, 1, 1] };
  const norm = (v: Value): Value => {
    if (mode === "training") return batchNormTraining(v, scale, bias, { branches: 2, epsilon: 1e-5 });
    const [a, b] = [scale, bias].map((p) => reshape(p, [-1])) as [Value, Value];
    return reshape(batchNormalization(branchesAsChannels(v, 2), a, b, b, mul(a, 0.3), {}), v.shape);
  };
  const stem = relu(norm(conv(x, w0, window)));
  const y = relu(add(norm(conv(stem, w1, window)), stem));
  const loss = reduceSum(mul(reduceMean(y, { axes: [2, 3], keepdims: 0 }), weights), { keepdims: 0 });
  const to = mode === "training" ? { x, w0, w1, scale, bias } : { x };
  const found = grad(loss, Object.values(to));
  const gradients = Object.fromEntries(Object.keys(to).map((name, i) => [`d${name}`, found[i]]));
  return { outputs: { y, ...gradients } as Record<string, Value>, types };
};

describe.each(["training", "evaluation"] as const)("a block in float16, %s", (mode) => {
  const { outputs, types } = block(mode);
  test.each(["fused", "dots", "composed"] as const)("is the portable one to float16's digits, %s", async (norm) => {
    const random = randomNumbers(11);
    const feeds = Object.fromEntries(
      Object.entries(types).map(([name, shape]) => [name, randomTensor(random, shape, name === "scale" ? 0.5 : -1, 1)]),
    );
    const expected = await evaluate(outputs, feeds);
    const actual = await evaluate(loweredForCuda(outputs, cudaTarget({ norm, precision: "float16" })), feeds);
    for (const [name, value] of Object.entries(expected))
      expect([name, relativeError(actual[name]?.data as Float32Array, value.data as Float32Array) < 3e-2]).toEqual([
        name,
        true,
      ]);
  });

  test("keeps its activations in float16", () => {
    const lowered = lower(outputs, cudaTarget({ precision: "float16" }));
    const nodes = nodesOf(Object.values(lowered), null);
    const typesOf = (op: string) => nodes.filter((n) => n.definition.name === op).map((n) => n.outputs[0]?.dtype);
    for (const op of ["Conv", "ConvTranspose", "BatchNormalization", "Relu"])
      expect(new Set(typesOf(op))).toEqual(new Set(["float16"]));
    const activation = 6 * 8 * 8 * 8;
    const casts = nodes.filter((n) => n.definition.name === "Cast" && n.outputs[0]?.size === activation);
    // To float32 for y and its mean, and the gradient of that mean back to float16.
    expect(casts.length).toBe(2);
  });
});

test("a gradient too small for float16 keeps its digits", async () => {
  const a = input("a", { dtype: "float32", shape: [4, 8, 6, 6] });
  const w = input("w", { dtype: "float32", shape: [3, 8, 3, 3] });
  const random = randomNumbers(7);
  const feeds = { a: randomTensor(random, [4, 3, 6, 6], -1e-6, 1e-6), w: randomTensor(random, w.shape) };
  const dy = input("a", { dtype: "float32", shape: [4, 3, 6, 6] });
  const window = { pads: [1, 1, 1, 1], strides: [1, 1], dilations: [1, 1], group: 1, size: a.shape.slice(2) };
  const dx = convGradInput(dy, w, window);
  const expected = await evaluate({ dx }, feeds);
  const actual = await evaluate({ dx }, feeds, cudaTarget({ precision: "float16" }));
  expect(relativeError(actual.dx.data as Float32Array, expected.dx.data as Float32Array)).toBeLessThan(2e-3);
});

test("products with a bias in float16", async () => {
  const [a, b, c] = [
    input("a", { dtype: "float32", shape: [4, 6] }),
    input("b", { dtype: "float32", shape: [5, 6] }),
    input("c", { dtype: "float32", shape: [5] }),
  ];
  const y = gemm(a, b, c, { transB: 1 });
  const random = randomNumbers(9);
  const feeds = { a: randomTensor(random, [4, 6]), b: randomTensor(random, [5, 6]), c: randomTensor(random, [5]) };
  const expected = await evaluate({ y }, feeds);
  const actual = await evaluate({ y }, feeds, cudaTarget({ precision: "float16" }));
  expect(relativeError(actual.y.data as Float32Array, expected.y.data as Float32Array)).toBeLessThan(2e-3);
});
