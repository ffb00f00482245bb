import { describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { grad, maybeGrad } from "../../../graphs/autodiff/grad.ts";
import { batchNorm, conv2d } from "../../../graphs/nn/layer.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { GraphError } from "../../../graphs/onnx/error.ts";
import { toFloat16 } from "../../../graphs/onnx/float16.ts";
import { apply, constant, input, named, type Value } from "../../../graphs/onnx/graph.ts";
import { float32 } from "../../../graphs/onnx/tensor.ts";
import { buildModel, OPSET } from "../../../graphs/onnx/write.ts";
import {
  add,
  batchNormTraining,
  cast,
  conv,
  exp,
  hardSwish,
  loop,
  matMul,
  mul,
  reduceSum,
  relu,
  reluGrad,
  reshape,
  stopGradient,
  transpose,
  unroll,
} from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { hideShapes } from "../../../graphs/targets/cpu/hidden-shapes.ts";
import { cudaTarget } from "../../../graphs/targets/cuda/index.ts";
import { lower, type Target } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { evaluate } from "../run.ts";

const x23 = () => input("x", { dtype: "float32", shape: [2, 3] });

/** The error of a build, which must be a GraphError. */
const failure = (build: () => unknown): GraphError => {
  try {
    build();
  } catch (error) {
    if (error instanceof GraphError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
};

describe("errors name op, path and input types", () => {
  test("a convolution over the wrong channels", () => {
    const x = input("x", { dtype: "float32", shape: [128, 64, 32, 32] });
    const w = input("w", { dtype: "float32", shape: [64, 32, 3, 3] });
    const error = failure(() => named("layer1.0.conv1", () => conv(x, w)));
    expect(error.message).toBe(
      "Conv at layer1.0.conv1: x has 64 channels but w expects 32 (float32[128,64,32,32], float32[64,32,3,3])",
    );
    expect([error.code, error.op, error.path]).toEqual(["shape", "Conv", "layer1.0.conv1"]);
  });

  test("values that do not broadcast, of two dtypes", () => {
    expect(failure(() => add(x23(), input("y", { dtype: "float32", shape: [2, 4] }))).message).toBe(
      "Add: 3 and 4 do not broadcast at axis -1 (float32[2,3], float32[2,4])",
    );
    expect(failure(() => add(x23(), input("y", { dtype: "int64", shape: [3] }))).message).toBe(
      "Add: inputs are float32 and int64; cast one of them (float32[2,3], int64[3])",
    );
  });

  test("a parameter used with two shapes", () => {
    const store = new Store();
    const scope = new Scope(store).at("conv1");
    const layer = conv2d({ filters: 4, kernel: 3 });
    layer(scope, input("a", { dtype: "float32", shape: [1, 3, 8, 8] }));
    expect(failure(() => layer(scope, input("b", { dtype: "float32", shape: [1, 2, 8, 8] }))).message).toBe(
      "param conv1.weight is used with two shapes (float32[4,3,3,3], float32[4,2,3,3])",
    );
  });

  test("a gradient through a loop, and to what the loss does not read", () => {
    const x = x23();
    const [y] = loop(2, [x], (_, [v]) => [exp(v as Value)]) as [Value];
    expect(failure(() => grad(reduceSum(y), [x])).message).toBe(
      "Loop: gradients do not flow through a Loop; unroll it, or stop the gradient before it (int64[], bool[], float32[2,3])",
    );
    expect(failure(() => grad(reduceSum(x), [input("z", { dtype: "float32", shape: [1] })])).code).toBe(
      "not-differentiable",
    );
  });

  test("a composite op that nobody lowered is our bug", () => {
    const x = x23();
    expect(failure(() => buildModel({ y: reluGrad(x, x) })).message).toBe(
      "internal: reluGrad: the composite op was not lowered before writing",
    );
  });
});

describe("autodiff", () => {
  test("sums contributions and undoes broadcasting", async () => {
    const x = x23();
    const b = input("b", { dtype: "float32", shape: [3] });
    const y = reduceSum(mul(add(x, b), add(x, b)), { keepdims: 0 });
    const [dx, db] = grad(y, [x, b]) as [Value, Value];
    expect([dx.shape, db.shape]).toEqual([[2, 3], [3]]);
    const feeds = { x: float32([2, 3], [1, 2, 3, 4, 5, 6]), b: float32([3], [1, 1, 1]) };
    const result = await evaluate({ dx, db }, feeds);
    expect(Array.from(result.dx.data as Float32Array)).toEqual([4, 6, 8, 10, 12, 14]);
    expect(Array.from(result.db.data as Float32Array)).toEqual([14, 18, 22]);
  });

  test("a stopped gradient is none", () => {
    const x = x23();
    expect(maybeGrad(reduceSum(stopGradient(mul(x, x))), [x])).toEqual([undefined]);
  });

  test("relu's derivative at 0 is 0, as PyTorch's", async () => {
    const x = input("x", { dtype: "float32", shape: [3] });
    const [dx] = grad(reduceSum(relu(x)), [x]) as [Value];
    const { d } = await evaluate({ d: dx }, { x: float32([3], [-1, 0, 1]) });
    expect(Array.from(d.data as Float32Array)).toEqual([0, 0, 1]);
  });
});

describe("loops", () => {
  const build = (repeat: typeof loop) => {
    const x = input("x", { dtype: "float32", shape: [2, 2] });
    const w = input("w", { dtype: "float32", shape: [2, 2] });
    const [y] = repeat(3, [x], (_, [v]) => [matMul(v as Value, exp(w))]) as [Value];
    return y;
  };
  const feeds = { x: float32([2, 2], [1, 2, 3, 4]), w: float32([2, 2], [0.1, -0.2, 0.3, 0]) };

  test("a kept loop, a loop that the target writes out and an unrolled one agree", async () => {
    const writtenOut: Target = { ...portable, loops: "unroll" };
    const results = await Promise.all([
      evaluate({ y: build(loop) }, feeds),
      evaluate({ y: build(loop) }, feeds, writtenOut),
      evaluate({ y: build(unroll) }, feeds),
    ]);
    for (const { y } of results)
      expect(Array.from(y.data as Float32Array)).toEqual(Array.from(results[0]!.y.data as Float32Array));
  });

  test("what depends on nothing carried is computed once, outside", () => {
    const { nodes } = buildModel(lower({ y: build(loop) }, portable));
    const exponentials = [...nodes.values()].filter((node) => node.definition.name === "Exp");
    expect(exponentials.map((node) => node.frame)).toEqual([null]);
  });

  test("state that the body updates is carried through it", async () => {
    const store = new Store();
    const start = { kind: "constant", value: 0 } as const;
    const scope = new Scope(store);
    const x = input("x", { dtype: "float32", shape: [1] });
    const [y] = store.loop(4, [x], (_, [v]) => {
      store.update("total", add(scope.state("total", [1], start), v as Value));
      return [mul(v as Value, 2)];
    }) as [Value];
    const feeds = { x: float32([1], [1]), "state.total": float32([1], [100]) };
    const result = await evaluate({ y, total: store.latest("total") }, feeds);
    expect([result.y.data[0], result.total.data[0]]).toEqual([16, 115]);
  });
});

describe("batch norm", () => {
  const images = () => input("x", { dtype: "float32", shape: [6, 2, 2, 2] });
  const values = float32(
    [6, 2, 2, 2],
    Array.from({ length: 48 }, (_, i) => Math.sin(i * i)),
  );
  const layer = batchNorm({ branches: ["normal", "pgd"] });
  const ones = float32([2], [1, 1]);
  const zeros = float32([2], [0, 0]);
  const given = {
    x: values,
    ...Object.fromEntries(
      [0, 1].flatMap((i) => [
        [`param.bn_list.${i}.weight`, ones],
        [`param.bn_list.${i}.bias`, zeros],
        [`state.bn_list.${i}.running_mean`, zeros],
        [`state.bn_list.${i}.running_var`, ones],
      ]),
    ),
  };

  test("normalises each view of the interleaved batch by its own statistics, and moves each branch's", async () => {
    const store = new Store();
    const y = layer(new Scope(store, { branches: ["normal", "pgd"] }), images());
    const moved = Object.fromEntries([0, 1].map((i) => [`mean${i}`, store.latest(`bn_list.${i}.running_mean`)]));
    const result = (await evaluate({ y, ...moved }, given)) as Record<string, { data: ArrayLike<number> }>;
    for (const view of [0, 1])
      for (const channel of [0, 1]) {
        const seen: number[] = [];
        const raw: number[] = [];
        for (let row = view; row < 6; row += 2)
          for (let p = 0; p < 4; p++) {
            seen.push(result.y!.data[(row * 2 + channel) * 4 + p]!);
            raw.push(values.data[(row * 2 + channel) * 4 + p]!);
          }
        const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length;
        expect(mean(seen)).toBeCloseTo(0, 5);
        expect(mean(seen.map((v) => v * v))).toBeCloseTo(1, 3);
        expect(result[`mean${view}`]!.data[channel]).toBeCloseTo(0.1 * mean(raw), 6);
      }
  });

  test("keeps the statistics still where it is told to, and in evaluation mode", () => {
    for (const options of [{ statistics: "keep" }, { mode: "eval" }] as const) {
      const store = new Store();
      layer(new Scope(store, { branches: ["normal", "pgd"], ...options }), images());
      for (const { path, value } of store.states.values()) expect(store.latest(path)).toBe(value);
    }
  });
});

test("a model lists what it takes and gives, and dedupes small constants", () => {
  const x = x23();
  const model = buildModel({ y: add(mul(x, 2), 2), same: x, fixed: constant(float32([1], [7])) });
  expect(model.inputs).toEqual({ x: { dtype: "float32", shape: [2, 3] } });
  expect(Object.keys(model.outputs)).toEqual(["y", "same", "fixed"]);
});

test("a node of a form that ended sets the opset of the file, in a body too", () => {
  const x = x23();
  const older = {
    name: "Relu",
    domain: "",
    attributes: {},
    lastOpset: 13,
    infer: ([v]: readonly Value[]) => [v as Value],
  };
  const inside = loop(2, [x], (_, [v]) => [apply(older, [v as Value], {})[0] as Value])[0] as Value;
  const opsetOf = (y: Value) =>
    Number(
      onnxProto.onnx.ModelProto.decode(buildModel({ y }).bytes).opsetImport?.find(({ domain }) => !domain)?.version,
    );
  expect([opsetOf(relu(x)), opsetOf(apply(older, [x], {})[0] as Value), opsetOf(inside)]).toEqual([OPSET, 13, 13]);
  expect(failure(() => buildModel({ y: inside }, [], { opset: 19 })).message).toMatch(/opset 13; 19 was asked for/);
});

test("a target that emits a form that ended is left where an op of the graph is newer", () => {
  const shape = [2, 4];
  const [x, scale] = [input("x", { dtype: "float32", shape }), input("scale", { dtype: "float32", shape: [1, 4] })];
  const y = batchNormTraining(x, scale, scale, { branches: 1, epsilon: 1e-5 });
  const [own, other] = [cudaTarget(), cudaTarget({ norm: "composed" })];
  const ops = (value: Value, target: Target) =>
    [...compile({ outputs: { y: value } }, target).nodes.values()].map(({ definition }) => definition.name);
  expect(ops(y, own)).not.toEqual(ops(y, other));
  expect(ops(hardSwish(y), own)).toEqual(ops(hardSwish(y), other));
});

test("a number becomes a scalar of float16 where the other operand is", async () => {
  const x = input("x", { dtype: "float16", shape: [3] });
  const y = cast(add(mul(x, 2), 0.5), { to: "float32" });
  const feeds = { x: { dtype: "float16", shape: [3], data: toFloat16([1, -0.25, 3]) } } as const;
  expect([...((await evaluate({ y }, feeds)).y.data as Float32Array)]).toEqual([2.5, 0, 6.5]);
});

test("hidden shapes reach every Reshape through a node, in bodies too, and change no number", async () => {
  const x = x23();
  const [turned] = loop(2, [reshape(x, [3, 2])], (_, [v]) => [
    reshape(transpose(v as Value, { perm: [1, 0] }), [3, 2]),
  ]);
  const outputs = { y: reshape(turned as Value, [6]), z: reshape(mul(x, 2), [3, 2]) };
  const hiding: Target = { ...portable, optimization: "disabled", rewrite: hideShapes };
  const model = compile({ outputs }, hiding);
  const { graph } = onnxProto.onnx.ModelProto.decode(model.bytes);
  const nodes = graph?.node ?? [];
  const all = [...nodes, ...nodes.flatMap((node) => node.attribute?.flatMap(({ g }) => g?.node ?? []) ?? [])];
  const reshapes = all.filter(({ opType }) => opType === "Reshape");
  const made = new Set(all.filter(({ opType }) => opType === "Compress").flatMap(({ output }) => output ?? []));
  expect(reshapes).toHaveLength(4);
  expect(reshapes.filter(({ input }) => !made.has(input?.[1] as string))).toEqual([]);
  const feeds = { x: float32([2, 3], [1, 2, 3, 4, 5, 6]) };
  expect(await evaluate(outputs, feeds, hiding)).toEqual(await evaluate(outputs, feeds));
});
