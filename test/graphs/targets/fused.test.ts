/** The target cuda-fused equals the portable lowering: its kernels by their portable meaning, so that the CPU can run them. */
import { describe, expect, test } from "@jest/globals";
import { linf } from "../../../graphs/attacks/threat-model.ts";
import { grad } from "../../../graphs/autodiff/grad.ts";
import { advcl } from "../../../graphs/methods/advcl.ts";
import { classifier } from "../../../graphs/nn/classifier.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import { allNodesOf } from "../../../graphs/onnx/order.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import {
  add,
  batchNormalization,
  batchNormTraining,
  type ConvAttributes,
  concat,
  conv,
  mul,
  reduceLogSumExp,
  reduceMean,
  reduceSum,
  relu,
  reshape,
} from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { cudaFusedTarget, type FusedOptions } from "../../../graphs/targets/cuda/fused/index.ts";
import { lower } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { goldenOptions } from "../../../scripts/parity/golden.ts";
import { programsOf } from "../../../src/evaluate/attacks/programs.ts";
import { evaluate, randomNumbers, randomTensor, relativeError } from "../run.ts";

const options: readonly FusedOptions[] = [
  { precision: "float32", convolutions: "stock" },
  { precision: "float32", convolutions: "cudnn" },
  { precision: "float16", convolutions: "stock" },
  { precision: "float16", convolutions: "cudnn" },
];
const names = options.map((o) => [Object.values(o).join(", "), o] as const);
/**
 * Largest relative errors. float16 rounds each of some twenty activations by 2⁻¹¹, and what is rounded across 0 before a ReLU lets
 * a whole gradient pass or not: of dx that is 3.7e-2 here, where the same graph in float32 is within 2e-5.
 */
const allowed = ({ precision }: FusedOptions): number => (precision === "float32" ? 2e-5 : 5e-2);

const compare = async (
  outputs: Readonly<Record<string, Value>>,
  feeds: Readonly<Record<string, Tensor>>,
  option: FusedOptions,
): Promise<void> => {
  const fused = lower(lower(outputs, cudaFusedTarget(option)), portable);
  const [ours, theirs] = [await evaluate(fused, feeds), await evaluate(outputs, feeds)];
  for (const [name, { data, shape }] of Object.entries(theirs)) {
    expect(ours[name]?.shape).toEqual(shape);
    const error = relativeError(ours[name]?.data as Float32Array, data as Float32Array);
    if (!(error <= allowed(option))) throw new Error(`${name} is off by ${error}`);
  }
};

/** Two residual blocks after a stem, the second with a stride and a shortcut of its own; gradients to images and weights. */
const network = (mode: "training" | "evaluation" | "biases") => {
  const types = {
    x: [6, 3, 8, 8],
    w0: [8, 3, 3, 3],
    w1: [8, 8, 3, 3],
    w2: [8, 8, 3, 3],
    w3: [16, 8, 3, 3],
    w4: [16, 16, 3, 3],
    w5: [16, 8, 1, 1],
    scale: [2, 8],
    bias: [2, 8],
    wide: [2, 16],
    shift: [2, 16],
    weights: [6, 16],
  };
  const given = Object.fromEntries(
    Object.entries(types).map(([name, shape]) => [name, input(name, { dtype: "float32", shape })]),
  ) as Record<keyof typeof types, Value>;
  const { x, scale, bias, wide, shift, weights } = given;
  const window = { pads: [1, 1, 1, 1] };
  const norm = (v: Value): Value => {
    if (mode === "biases") return v;
    const [a, b] = v.dim(1) === 8 ? [scale, bias] : [wide, shift];
    if (mode === "training") return batchNormTraining(v, a, b, { branches: 2, epsilon: 1e-5 });
    const rows = [a, b].map((p) => reshape(reduceMean(p, { axes: [0] }), [-1])) as [Value, Value];
    return batchNormalization(v, rows[0], rows[1], rows[1], mul(rows[0], 0.3), {});
  };
  /** As networks have it whose batch norms were folded into their convolutions: a bias each. */
  const shifts = [scale, bias, wide, shift].map((p) => reshape(reduceMean(p, { axes: [0] }), [-1])) as Value[];
  const convolve = (v: Value, w: Value, window: ConvAttributes): Value =>
    mode === "biases"
      ? conv(v, w, shifts[(w.dim(0) === 8 ? 0 : 2) + (w === given.w0 || w === given.w5 ? 0 : 1)] as Value, window)
      : conv(v, w, window);
  const stem = relu(norm(convolve(x, given.w0, window)));
  const inner = relu(norm(convolve(stem, given.w1, window)));
  const first = relu(add(norm(convolve(inner, given.w2, window)), stem));
  const second = relu(norm(convolve(first, given.w3, { ...window, strides: [2, 2] })));
  const short = norm(convolve(first, given.w5, { strides: [2, 2] }));
  const y = relu(add(norm(convolve(second, given.w4, window)), short));
  const loss = reduceSum(mul(reduceMean(y, { axes: [2, 3], keepdims: 0 }), weights), { keepdims: 0 });
  const { weights: _, ...to } = given;
  const found = grad(loss, Object.values(to));
  const gradients = Object.fromEntries(Object.keys(to).map((name, i) => [`d${name}`, found[i]!]));
  return { outputs: { y, ...gradients } as Record<string, Value>, types };
};

describe.each(["training", "evaluation", "biases"] as const)("residual blocks in %s", (mode) => {
  const { outputs, types } = network(mode);
  test.each(names)("%s", async (_, option) => {
    const random = randomNumbers(11);
    const low = (name: string) => (name === "scale" || name === "wide" ? 0.5 : -1);
    const feeds = Object.fromEntries(
      // Lifted gradients end at 16 in float16.
      Object.entries(types).map(([name, shape]) => [
        name,
        name === "weights" ? randomTensor(random, shape, -0.002, 0.002) : randomTensor(random, shape, low(name), 1),
      ]),
    );
    await compare(outputs, feeds, option);
  });
});

test("a network in training is kernels and convolutions, with nothing between them", () => {
  const lowered = lower(network("training").outputs, cudaFusedTarget());
  const counts: Record<string, number> = {};
  // What kernels leave for themselves comes after their results.
  for (const { definition, outputs } of allNodesOf(Object.values(lowered)))
    if (outputs.slice(0, 1).some(({ shape, rank, size }) => rank === 4 && shape[0] === 6 && size > 6 * 16))
      counts[definition.name] = (counts[definition.name] ?? 0) + 1;
  expect(counts).toEqual({
    // Images in, y and the gradient to the images out; the gradients of weights have six filters nowhere.
    Cast: 3,
    Div: 1,
    Transpose: 3,
    input: 1,
    // A shortcut at single pixels.
    Conv: 1,
    nhwcConvForward: 5,
    nhwcConvGradInput: 6,
    batchNormApply: 5,
    batchNormGrad: 6,
    pixelSpread: 1,
  });
});

test("nothing moves activations while a classifier is attacked, whose only branch is a reshape that changes nothing", () => {
  const scope = new Scope(new Store(), { mode: "eval", branches: ["pgd"] });
  const layer = classifier({ depth: 18, width: 4, stem: "cifar", branches: ["normal", "pgd"], classes: 3 });
  const outputs = programsOf({ classifier: (x) => layer(scope, x), image: [3, 16, 16] })({
    size: 2,
    kind: "pgd",
    attack: { norm: "linf", eps: 8 / 255, steps: 2, stepSize: 2 / 255 },
  });
  const lowered = lower(outputs, { ...cudaFusedTarget(), loops: "unroll" });
  const moved = allNodesOf(Object.values(lowered)).filter(
    ({ definition: { name }, outputs: [y] }) => name === "Transpose" && y?.rank === 4 && y.shape[0] === 2,
  );
  // Images and gradients to them alone, which the attack has as ONNX has them.
  expect(moved.length).toBeGreaterThan(0);
  expect(moved.every(({ outputs: [y] }) => y?.shape.includes(3))).toBe(true);
});

const small = { ...goldenOptions, batch: 4, size: 8, width: 4, radius: 2, clusters: [2, 3], attackSteps: 2 };

test("a step's attack, batch norms and pooling are kernels, and nothing of domain advcl is written without being asked for", () => {
  const { outputs } = advcl.build({ ...small, trace: false });
  const target = cudaFusedTarget();
  const model = compile({ outputs }, target);
  const written = new Set(
    [...model.nodes.values()].map(({ definition }) => definition).filter((d) => d.domain === "advcl"),
  );
  expect([...written].map(({ name }) => name).sort()).toEqual([
    "batchNormApply",
    "batchNormGrad",
    "batchNormStatistics",
    "combine",
    "logSumExp",
    "logSumExpGrad",
    "nhwcConvForward",
    "nhwcConvGradInput",
    "nhwcConvGradWeight",
    "pgdStep",
    "pixelMean",
    "sgdStep",
  ]);
  expect(() => compile({ outputs }, { ...target, kernels: () => undefined })).toThrow(/was not lowered before writing/);
});

test("log Σ exp of rows and its gradient are a kernel each; over other axes it stays a standard op", async () => {
  const x = input("x", { dtype: "float32", shape: [3, 4, 7] });
  const outputs = (axes: readonly number[]) => {
    const each = [0, 1].map((keepdims) => reduceLogSumExp(mul(x, 5), { axes, keepdims }));
    const loss = each.map((y) => reduceSum(mul(y, y), { keepdims: 0 })).reduce((a, b) => add(a, b));
    return { y: each[0]!, dx: grad(loss, [x])[0]! };
  };
  const kernels = (axes: readonly number[]) =>
    allNodesOf(Object.values(lower(outputs(axes), cudaFusedTarget())))
      .map(({ definition }) => definition.name)
      .filter((name) => /LogSumExp/i.test(name))
      .sort();
  const both = ["logSumExp", "logSumExp", "logSumExpGrad", "logSumExpGrad"];
  expect(kernels([-1])).toEqual(both);
  expect(kernels([2])).toEqual(both);
  for (const axes of [[1], [0, 2]]) expect(kernels(axes)).toEqual(["ReduceLogSumExp", "ReduceLogSumExp"]);
  for (const axes of [[2], [0, 1]])
    await compare(outputs(axes), { x: randomTensor(randomNumbers(3), [3, 4, 7], -1, 1) }, { precision: "float32" });
});

test("parts of different sizes are joined and cut as equal pieces, and what several join is cut once", async () => {
  const [a, b, w] = [1, 3, 4].map((n) => input(`x${n}`, { dtype: "float32", shape: [5, n, 2] })) as [
    Value,
    Value,
    Value,
  ];
  const loss = [1, 2]
    .map((times) => reduceSum(mul(mul(concat([mul(a, times), b], { axis: -2 }), w), w), { keepdims: 0 }))
    .reduce((x, y) => add(x, y));
  const [da, db] = grad(loss, [a, b]) as [Value, Value];
  const joined = concat([da, db, w], { axis: 1 });
  const nodes = allNodesOf(Object.values(lower({ loss, joined }, cudaFusedTarget())));
  const parts = (name: string) =>
    nodes
      .filter(({ definition }) => definition.name === name)
      .map(({ inputs, outputs }) => (name === "Split" ? outputs : inputs).map(({ shape }) => shape[1]));
  for (const sizes of [...parts("Concat"), ...parts("Split")]) expect(new Set(sizes).size).toBe(1);
  // b, w, and the gradients to what each Concat made; db is added up whole and cut once more.
  expect(parts("Split")).toHaveLength(5);
  const random = randomNumbers(4);
  const feeds = Object.fromEntries([1, 3, 4].map((n) => [`x${n}`, randomTensor(random, [5, n, 2], -1, 1)]));
  await compare({ loss, joined }, feeds, { precision: "float32" });
});

test("an attack under other bounds than a number stays standard ops", () => {
  const [x, clean, eps] = ["x", "clean", "eps"].map((name) =>
    input(name, { dtype: "float32", shape: name === "eps" ? [] : [2, 3, 4, 4] }),
  ) as [Value, Value, Value];
  for (const [size, expected] of [
    [eps, false],
    [0.1, true],
  ] as const) {
    const threat = linf(size);
    const next = threat.project(add(x, mul(threat.direction(mul(x, clean)), 0.01)), clean);
    const ops = allNodesOf([lower({ next }, cudaFusedTarget()).next]).map(({ definition }) => definition.name);
    expect(ops.includes("pgdStep")).toBe(expected);
  }
});
