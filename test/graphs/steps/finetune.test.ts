/** The losses of finetuning from their definitions, and whole steps on one tiny batch. */
import { describe, expect, test } from "@jest/globals";
import { klDivergence, trades } from "../../../graphs/losses/trades.ts";
import { input } from "../../../graphs/onnx/graph.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { type FinetuneOptions, finetuneStep, type Objective } from "../../../graphs/steps/finetune.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { createSession } from "../../../src/engine/session.ts";
import { initialState } from "../../../src/train/initialize.ts";
import { evaluate, filledWith, randomNumbers, randomTensor } from "../run.ts";

const rows = ({ data, shape: [n = 0, k = 0] }: Tensor): number[][] =>
  Array.from({ length: n }, (_, i) => Array.from((data as Float32Array).subarray(i * k, (i + 1) * k)));
const softmax = (row: readonly number[]): number[] => {
  const total = row.reduce((sum, v) => sum + Math.exp(v), 0);
  return row.map((v) => Math.exp(v) / total);
};

test("the TRADES loss is what its paper writes", async () => {
  const random = randomNumbers(7);
  const [natural, robust] = [randomTensor(random, [4, 5], -3, 3), randomTensor(random, [4, 5], -3, 3)];
  const labels = filledWith("int64", [4], [0, 3, 1, 4]);
  const [p, q, y] = [input("p", natural), input("q", robust), input("y", labels)];
  const { loss, kl } = trades(p, q, y, 6);
  const results = await evaluate({ loss, kl, same: klDivergence(p, p, "none") }, { p: natural, q: robust, y: labels });
  const number = (name: keyof typeof results) => Number(results[name].data[0]);
  let [ce, divergence] = [0, 0];
  rows(natural).forEach((row, i) => {
    const [a, b] = [softmax(row), softmax(rows(robust)[i] as number[])];
    ce -= Math.log(a[Number(labels.data[i])]!) / 4;
    a.forEach((share, k) => {
      divergence += (share * Math.log(share / b[k]!)) / 4;
    });
  });
  expect(number("kl")).toBeCloseTo(divergence, 5);
  expect(number("loss")).toBeCloseTo(ce + 6 * divergence, 4);
  expect(Array.from(results.same.data as Float32Array)).toEqual([0, 0, 0, 0]);
});

const options: FinetuneOptions = {
  objective: "clean",
  batch: 8,
  size: 8,
  depth: 18,
  width: 4,
  stem: "cifar",
  branches: undefined,
  branch: "normal",
  classes: 3,
  beta: 6,
  attackSteps: 2,
  eps: 8 / 255,
  stepSize: 4 / 255,
  momentum: 0.9,
  weightDecay: 0,
};

describe("on one tiny batch", () => {
  test.each<Objective>(["clean", "pgd", "trades"])("the loss of %s falls", async (objective) => {
    const step = finetuneStep({ ...options, objective });
    const session = await createSession(compile(step, portable), { threads: 1, optimization: "disabled" });
    const random = randomNumbers(3);
    const tensors = initialState(step, 1);
    const batch = {
      "input.clean": randomTensor(random, [8, 3, 8, 8], 0, 1),
      "input.start": randomTensor(random, [8, 3, 8, 8], -8 / 255, 8 / 255),
      "input.label": filledWith("int32", [8], [0, 1, 2, 0, 1, 2, 0, 1]),
      "input.lr": filledWith("float32", [], [0.05]),
    };
    const losses: number[] = [];
    for (let i = 0; i < 15; i++) {
      const results = await session.run({ ...batch, ...Object.fromEntries(tensors) });
      losses.push(Number(results["metric.loss"]?.data[0]));
      for (const [name, value] of Object.entries(results))
        if (name.startsWith("next.")) tensors.set(name.slice("next.".length), value);
    }
    await session.release();
    expect(losses.at(-1)).toBeLessThan(0.5 * losses[0]!);
  });

  test("a given encoder is no parameter and takes its mode", () => {
    const whole = finetuneStep({ ...options, objective: "pgd" });
    const weights = initialState(whole, 1);
    const encoder = new Map([...weights].map(([name, value]) => [name.replace(/^(param|state)\./, ""), value]));
    const { store, outputs } = finetuneStep({ ...options, objective: "pgd", encoder });
    expect([...store.parameters.keys()]).toEqual(["fc.weight", "fc.bias"]);
    const next = ["param.fc.weight", "param.fc.bias", "state.momentum.fc.weight", "state.momentum.fc.bias"];
    const moved = Object.keys(outputs).filter((name) => name.startsWith("next."));
    expect(new Set(moved)).toEqual(new Set(next.map((name) => `next.${name}`)));
    expect(moved).toHaveLength(next.length);
  });
});
