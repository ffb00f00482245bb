/** Optimizers over two steps, so that what they remember counts. */
import { expect, test } from "@jest/globals";
import { Store } from "../../../graphs/nn/scope.ts";
import type { Value } from "../../../graphs/onnx/graph.ts";
import { float32, type Tensor, zeros } from "../../../graphs/onnx/tensor.ts";
import { adamW } from "../../../graphs/optim/adamw.ts";
import { moveAverage } from "../../../graphs/optim/ema.ts";
import { lars } from "../../../graphs/optim/lars.ts";
import { type Optimizer, sgd } from "../../../graphs/optim/sgd.ts";
import { nextStates } from "../../../graphs/steps/step.ts";
import { evaluate } from "../run.ts";

const start = [1, -2, 0.5];
const gradients = [
  [0.1, -0.2, 0.3],
  [0.05, 0.1, -0.3],
];

/** The parameter after each step of rate 0.1, and the last of the states. */
const run = async (optimizer: Optimizer, decay?: number, from = start) => {
  const store = new Store();
  const w = store.parameter("w", [3], { kind: "constant", value: 0 });
  const next = optimizer(
    store,
    store.parameters.get("w")!,
    store.input("g", { dtype: "float32", shape: [3] }),
    store.input("lr", { dtype: "float32", shape: [] }),
  );
  if (decay !== undefined) moveAverage(store, () => next, { copy: "ema", decay });
  const outputs: Record<string, Value> = { "next.param.w": next, ...nextStates(store) };
  let feeds: Record<string, Tensor> = { "param.w": float32([3], from) };
  for (const [path, slot] of store.states)
    feeds[`state.${path}`] = path === "ema.w" ? float32([3], from) : zeros("float32", slot.type.shape);
  const seen: number[][] = [];
  for (const g of gradients) {
    const results = await evaluate(outputs, { ...feeds, "input.g": float32([3], g), "input.lr": float32([], [0.1]) });
    feeds = Object.fromEntries(Object.entries(results).map(([name, value]) => [name.replace("next.", ""), value]));
    seen.push(Array.from(results["next.param.w"]!.data as Float32Array));
  }
  expect(w.shape).toEqual([3]);
  return { seen, feeds };
};

const near = (values: readonly number[], expected: readonly number[]) =>
  values.forEach((v, i) => {
    expect(v).toBeCloseTo(expected[i]!, 5);
  });

test("AdamW as torch.optim.AdamW", async () => {
  const { seen, feeds } = await run(adamW({ weightDecay: 0.01 }));
  near(seen[0]!, [0.899_000_01, -1.898_000_005, 0.399_500_003]);
  near(seen[1]!, [0.804_883_058, -1.869_468_303, 0.404_363_661]);
  expect(feeds["state.adam.step"]?.data[0]).toBe(2);
});

test("LARS by its formula: the rate is in the momentum", async () => {
  const { seen } = await run(lars({ momentum: 0.9, weightDecay: 0.01 }));
  let w = start;
  let m = [0, 0, 0];
  gradients.forEach((g, step) => {
    const norm = (x: readonly number[]) => Math.hypot(...x);
    const rate = (0.1 * 0.001 * norm(w)) / (norm(g) + 0.01 * norm(w));
    m = m.map((v, i) => 0.9 * v + rate * (g[i]! + 0.01 * w[i]!));
    w = w.map((v, i) => v - m[i]!);
    near(seen[step]!, w);
  });
});

test("LARS moves what has norm 0 at the plain rate", async () => {
  const { seen } = await run(lars({ momentum: 0, weightDecay: 0 }), undefined, [0, 0, 0]);
  near(seen[0]!, [-0.01, 0.02, -0.03]);
});

test("a moving average follows", async () => {
  const { seen, feeds } = await run(sgd({ momentum: 0, weightDecay: 0 }), 0.9);
  const expected = start.map((v, i) => 0.81 * v + 0.09 * seen[0]![i]! + 0.1 * seen[1]![i]!);
  near(Array.from(feeds["state.ema.w"]!.data as Float32Array), expected);
});
