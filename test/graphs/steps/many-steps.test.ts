import { expect, test } from "@jest/globals";
import { type AdvclOptions, advcl } from "../../../graphs/methods/advcl.ts";
import type { StepOptions } from "../../../graphs/methods/method.ts";
import { type Tensor, tensor } from "../../../graphs/onnx/tensor.ts";
import { manySteps } from "../../../graphs/steps/many.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { benchFeeds } from "../../../src/bench/measure.ts";
import { createSession } from "../../../src/engine/session.ts";

const options: StepOptions & AdvclOptions = {
  ...advcl.paper,
  batch: 4,
  size: 8,
  depth: 18,
  width: 2,
  stem: "cifar",
  radius: 2,
  clusters: [2],
  attackSteps: 1,
};

test("three steps in one run give the bytes of three runs", async () => {
  const step = advcl.build(options);
  const batches = [1, 2, 3].map((seed) => benchFeeds(step, seed));
  const isInput = (name: string) => name.startsWith("input.");
  const single = await createSession(compile(step, portable), { threads: 1, optimization: "disabled" });
  const state: Record<string, Tensor> = Object.fromEntries(
    Object.entries(batches[0]!).filter(([name]) => !isInput(name)),
  );
  const start = { ...state };
  const losses: number[] = [];
  for (const batch of batches) {
    const inputs = Object.fromEntries(Object.entries(batch).filter(([name]) => isInput(name)));
    for (const [name, value] of Object.entries(await single.run({ ...state, ...inputs })))
      if (name.startsWith("next.")) state[name.slice(5)] = value;
      else if (name === "metric.loss") losses.push(Number(value.data[0]));
  }
  await single.release();

  const together = await createSession(compile(manySteps(step, 3), portable), { threads: 1, optimization: "disabled" });
  const stacked = Object.fromEntries(
    Object.entries(batches[0]!)
      .filter(([name]) => isInput(name))
      .map(([name, { dtype, shape, data }]) => {
        const all = data instanceof Int32Array ? new Int32Array(3 * data.length) : new Float32Array(3 * data.length);
        batches.forEach((batch, i) => {
          all.set(batch[name]!.data as never, i * data.length);
        });
        return [name, tensor(dtype as "float32", [3, ...shape], all as Float32Array)];
      }),
  );
  const results = await together.run({ ...start, ...stacked });
  await together.release();
  expect(Array.from(results["metric.loss"]!.data as Float32Array)).toEqual(losses);
  for (const [name, value] of Object.entries(results))
    if (name.startsWith("next.")) expect(value.data).toEqual(state[name.slice(5)]!.data);
});
