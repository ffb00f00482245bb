/**
 * Steps whose ranks speak while they compute, against one process with the whole batch. The other ranks are twins that hold
 * the same images: what they would say is known, so one process plays them all.
 */
import { describe, expect, test } from "@jest/globals";
import { type methodNames, methods } from "../../graphs/methods/index.ts";
import { input } from "../../graphs/onnx/graph.ts";
import { allNodesOf } from "../../graphs/onnx/order.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { isCollective, wholeBatch } from "../../graphs/ops/index.ts";
import { finetuneStep } from "../../graphs/steps/finetune.ts";
import { splitStep } from "../../graphs/steps/split.ts";
import { compile, type Step } from "../../graphs/steps/step.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { inOneOrder } from "../../graphs/targets/ranks.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import type { WithinProgram } from "../../src/distributed/collective.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { missingApi, ortApi } from "../../src/engine/native/api.ts";
import { targetNamed } from "../../src/engine/targets.ts";
import { available } from "../needs.ts";

const needsKoffi = available("koffi", missingApi() === undefined) ? describe : describe.skip;

const floats = (at: bigint, count: number): Float32Array => new Float32Array(ortApi().koffi.view(at, 4 * count));

/** So many twins; how many messages they sent is counted. */
const twins = (size: number): WithinProgram & { messages: number } => ({
  messages: 0,
  failure: undefined,
  sum(from, to, count) {
    this.messages++;
    const sums = floats(to, count);
    floats(from, count).forEach((value, i) => {
      sums[i] = size * value;
    });
  },
  gather(from, to, count) {
    this.messages++;
    const rows = floats(to, size * count);
    for (let r = 0; r < size; r++) rows.set(floats(from, count), r * count);
  },
});

/** The images of a batch `size` times over, as inputs of a step for all of them. */
const repeated = (feeds: Readonly<Record<string, Tensor>>, size: number): Record<string, Tensor> =>
  Object.fromEntries(
    Object.entries(feeds).map(([name, value]) => {
      if (!name.startsWith("input.") || value.shape.length === 0) return [name, value];
      const { dtype, shape, data } = value;
      const all = new (data.constructor as Float32ArrayConstructor)(size * data.length);
      for (let r = 0; r < size; r++) all.set(data as Float32Array, r * data.length);
      return [name, { dtype, shape: [size * shape[0]!, ...shape.slice(1)], data: all } as Tensor];
    }),
  );

const common = { size: 8, depth: 18, width: 2, stem: "cifar", clusters: [2, 3], radius: 2, attackSteps: 1 } as const;
const SIZE = 3;
const whole = { size: SIZE, rank: 1, batchNorm: true, negatives: true } as const;

/** Gradients, metrics and running statistics of a step on a target. */
const computed = async (step: Step, feeds: Readonly<Record<string, Tensor>>, target: string, ranks?: WithinProgram) => {
  const engine = await chooseEngine({
    provider: "cpu",
    threads: 1,
    engine: "native",
    target,
    ranks,
    speaking: ranks !== undefined,
  });
  const { gradients } = splitStep(step);
  const { session } = await engine.load(gradients);
  const given = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name] as Tensor]));
  const results = await session.run(given);
  await session.release();
  return results;
};

/** Names of what differs by more than rounding: a layer's gradients are measured by the largest of its tensors. */
const differing = (
  expected: Readonly<Record<string, Tensor>>,
  found: Readonly<Record<string, Tensor>>,
  tolerance: number,
): string[] => {
  const scales = new Map<string, number>();
  const layerOf = (name: string) => name.replace(/\.(weight|bias)$/, "");
  const largest = (data: Tensor["data"]) => (data as Float32Array).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  for (const [name, { data }] of Object.entries(expected))
    scales.set(layerOf(name), Math.max(scales.get(layerOf(name)) ?? 0, largest(data)));
  return Object.entries(expected).flatMap(([name, { data }]) => {
    const other = found[name]?.data as Float32Array;
    const apart = (data as Float32Array).reduce((most, v, i) => Math.max(most, Math.abs(v - other[i]!)), 0);
    return apart <= tolerance * (scales.get(layerOf(name)) as number) ? [] : [`${name} by ${apart}`];
  });
};

const compared = async (build: (ranks?: typeof whole) => Step, target: string, tolerance: number) => {
  const step = build(whole);
  const feeds = benchFeeds(step, 3);
  const ranks = twins(SIZE);
  const found = await computed(step, feeds, target, ranks);
  const expected = await computed(build(), repeated(feeds, SIZE), portable.name);
  // A step that says nothing would be equal to itself only if it had nothing to say.
  expect(ranks.messages).toBeGreaterThan(0);
  expect(Object.keys(found).sort()).toEqual(Object.keys(expected).sort());
  expect(differing(expected, found, tolerance)).toEqual([]);
};

const methodStep =
  (name: (typeof methodNames)[number]) =>
  (ranks?: typeof whole): Step =>
    methods[name].build({ ...methods[name].paper, ...common, batch: ranks ? 4 : 4 * SIZE, ranks });

needsKoffi("ranks that share a batch and see all of it", () => {
  // Between them they have every form of loss that sets images against each other.
  test.each(["advcl", "acl", "rocl", "dynacl-air", "a-infonce"] as const)(
    "%s computes the gradients of one process",
    async (name) => {
      await compared(methodStep(name), portable.name, 1e-3);
    },
  );

  test.each(["cpu", "webgpu"])("so they do by the lowerings of %s", async (target) => {
    await compared(methodStep("simclr"), target, 1e-3);
  });

  test("and in finetuning", async () => {
    const build = (ranks?: typeof whole) =>
      finetuneStep({
        ...{ ...common, branches: undefined, branch: "normal", classes: 3, objective: "trades", beta: 6 },
        ...{ eps: 0.03, stepSize: 0.01, momentum: 0.9, weightDecay: 0 },
        ...{ batch: ranks ? 4 : 4 * SIZE, ranks },
      });
    await compared(build, portable.name, 1e-3);
  });

  test("what hangs is said by its own words", async () => {
    const ranks: WithinProgram = {
      ...twins(SIZE),
      gather: () => {
        throw new Error("rank 0 waited 3 s");
      },
    };
    const step = methodStep("simclr")(whole);
    await expect(computed(step, benchFeeds(step, 3), portable.name, ranks)).rejects.toThrow("rank 0 waited 3 s");
  });
});

test("messages stand in one chain, through loops too, and no saved model holds one", () => {
  const { outputs } = methodStep("advcl")(whole);
  for (const target of ["portable", "cpu", "cuda", "cuda-fused", "webgpu"].map((name) => targetNamed(name))) {
    const lowered = inOneOrder(lower(outputs, target));
    const messages = allNodesOf(Object.values(lowered)).filter(({ definition }) => isCollective(definition));
    expect(messages.length).toBeGreaterThan(20);
    const before = messages.map(({ inputs: [, after] }) => after?.node);
    // The first reads itself; each other one waits for a message of its own graph, or for the loop that holds one.
    expect(messages.filter(({ inputs: [x, after] }) => x === after).length).toBe(1);
    expect(new Set(before).size).toBe(messages.length);
  }
  expect(() => compile({ outputs }, portable)).toThrow("the composite op was not lowered before writing");
  const rows = wholeBatch(input("x", { dtype: "float32", shape: [2, 3] }), { ranks: 2, rank: 0 });
  expect(() => buildModel(lower({ rows }, portable))).toThrow("the composite op was not lowered before writing");
});
