import { expect, test } from "@jest/globals";
import { advcl } from "../../../graphs/methods/advcl.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { splitStep } from "../../../graphs/steps/split.ts";
import { compile, type Step } from "../../../graphs/steps/step.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { benchFeeds } from "../../../src/bench/measure.ts";
import { createSession } from "../../../src/engine/session.ts";

const step = advcl.build({
  ...advcl.paper,
  batch: 4,
  size: 16,
  depth: 18,
  width: 8,
  stem: "cifar",
  radius: 2,
  clusters: [2],
  attackSteps: 1,
  ema: 0.9,
});

/** Runs a step on those of the feeds that it takes. */
const runOn = async (
  part: Step,
  target: typeof portable,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Readonly<Record<string, Tensor>>> => {
  const session = await createSession(compile(part, target), { threads: 1, optimization: "disabled" });
  const { parameters, states, inputs } = part.store;
  const names = [
    ...Array.from(parameters.keys(), (path) => `param.${path}`),
    ...Array.from(states.keys(), (path) => `state.${path}`),
    ...Array.from(inputs.keys(), (name) => `input.${name}`),
  ];
  const results = await session.run(Object.fromEntries(names.map((name) => [name, feeds[name]!])));
  await session.release();
  return results;
};

test.each([portable, cpuTarget()])("on $name, gradients and update give what the whole step gives", async (target) => {
  const feeds = benchFeeds(step, 1);
  const whole = await runOn(step, target, feeds);
  const { gradients, update } = splitStep(step);
  const first = await runOn(gradients, target, feeds);
  const summed = Object.fromEntries(
    Object.entries(first).flatMap(([name, value]) => (name.startsWith("grad.") ? [[`input.${name}`, value]] : [])),
  );
  const second = await runOn(update, target, { ...feeds, ...summed });
  const parts = { ...first, ...second };
  for (const [name, value] of Object.entries(whole)) expect([name, parts[name]?.data]).toEqual([name, value.data]);
  expect(
    Object.keys(parts)
      .filter((name) => !(name in whole))
      .every((name) => name.startsWith("grad.")),
  ).toBe(true);
});

test("the update needs no image, and the gradients no momentum", () => {
  const { gradients, update } = splitStep(step);
  const { size } = gradients.store.parameters;
  expect(size).toBeGreaterThan(50);
  expect([...update.store.inputs.keys()].filter((name) => !name.startsWith("grad."))).toEqual(["lr"]);
  expect(gradients.store.inputs.has("lr")).toBe(false);
  const moved = Array.from(gradients.store.states.keys());
  expect(moved.length).toBeGreaterThan(0);
  for (const path of moved) expect(path).toMatch(/running_(mean|var)$/);
});

test("what trains nothing cannot be split", () => {
  expect(() => splitStep({ store: step.store, outputs: step.outputs })).toThrow(
    "only a training step can be split at its gradients",
  );
});
