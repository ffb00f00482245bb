/** The order of a training's runs, with a runner that only writes down what it is asked for. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { Store } from "../../graphs/nn/scope.ts";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import type { Step } from "../../graphs/steps/step.ts";
import type { Batch, Loader } from "../../src/data/loader.ts";
import type { Engine } from "../../src/engine/engine.ts";
import type { Runner } from "../../src/engine/runner.ts";
import { openRunFolder } from "../../src/runs/run-folder.ts";
import { train } from "../../src/train/loop.ts";
import { quietReporter } from "../../src/verbs/reporter.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-loop-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const STEPS = 5;

const loader: Loader = {
  stepsPerEpoch: STEPS,
  waitSeconds: 0,
  async *epoch(epoch, { startStep = 0 } = {}): AsyncGenerator<Batch, void, void> {
    for (let step = startStep; step < STEPS; step++)
      yield { epoch, step, indices: Int32Array.of(step), tensors: { x: float32([1], [10 * epoch + step]) } };
  },
  close: async () => {},
};

type Inputs = Readonly<Record<string, Tensor>>;

/** Runs of two epochs; staged and taken batches by their number, and whether each run was given the very object staged for it. */
const recorded = async (name: string, { stages, stepsPerRun }: { stages: boolean; stepsPerRun: number }) => {
  const calls: string[] = [];
  const staged: unknown[] = [];
  const numbers = (inputs: Inputs | readonly Inputs[]): string =>
    [inputs]
      .flat()
      .map((each) => Number((each as Inputs)["input.x"]!.data[0]))
      .join("+");
  const took = (inputs: Inputs | readonly Inputs[]): void => {
    calls.push(`run ${numbers(inputs)}${staged.includes(inputs) ? " as staged" : ""}`);
  };
  const runner: Runner = {
    model: undefined as never,
    run: async (inputs) => {
      took(inputs);
      return { "metric.loss": float32([], [1]) };
    },
    runMany: async (batches) => {
      took(batches);
      return batches.map(() => ({ "metric.loss": float32([], [1]) }));
    },
    ...(stages && {
      stage: (inputs: Inputs | readonly Inputs[]) => {
        staged.push(inputs);
        calls.push(`stage ${numbers(inputs)}`);
      },
    }),
    accept: () => {},
    tensors: async () => new Map(),
    release: async () => {},
  };
  const step: Step = { store: new Store(), outputs: {} };
  const run = await openRunFolder(join(folder, name), { command: "pretrain", settings: {}, warn: () => {} });
  await train({
    ...{ step, loader, run, stepsPerRun, reporter: quietReporter, signal: new AbortController().signal },
    ...{ engine: undefined as unknown as Engine, seed: 0, epochs: 2, batch: 1, saveEvery: 10, record: {} },
    rate: () => 0.1,
    openRunner: async () => runner,
  });
  return calls;
};

test("batches are brought to the device one run ahead, and each is run as it was staged", async () => {
  expect(await recorded("one", { stages: true, stepsPerRun: 1 })).toEqual(
    [1, 2].flatMap((epoch) => {
      const at = (i: number) => 10 * epoch + i;
      const middle = [1, 2, 3].flatMap((i) => [`stage ${at(i + 1)}`, `run ${at(i)} as staged`]);
      return [`stage ${at(1)}`, `run ${at(0)}`, ...middle, `run ${at(4)} as staged`];
    }),
  );
});

test("so are groups of several steps, and the step that an epoch leaves over", async () => {
  expect((await recorded("two", { stages: true, stepsPerRun: 2 })).slice(0, 5)).toEqual([
    "stage 12+13",
    "run 10+11",
    "stage 14",
    "run 12+13 as staged",
    "run 14 as staged",
  ]);
});

test("an engine that reads where batches lie is asked for nothing ahead", async () => {
  expect(await recorded("none", { stages: false, stepsPerRun: 1 })).toEqual(
    [1, 2].flatMap((epoch) => Array.from({ length: STEPS }, (_, i) => `run ${10 * epoch + i}`)),
  );
});

/** A run whose epochs score as given, with a patience of two; `abortIn` stops it while that epoch is measured. */
const patient = async (name: string, { resume = false, abortIn = 0 } = {}) => {
  const scores = [0.1, 0.3, 0.2, 0.3, 0.9, 0.9];
  const measured: number[] = [];
  const said: string[] = [];
  const stop = new AbortController();
  const runner: Runner = {
    model: undefined as never,
    run: async () => ({ "metric.loss": float32([], [1]) }),
    runMany: async () => [],
    accept: () => {},
    tensors: async () => new Map(),
    release: async () => {},
  };
  const run = await openRunFolder(join(folder, name), { command: "finetune", settings: {}, warn: () => {}, resume });
  const trained = await train({
    ...{ step: { store: new Store(), outputs: {} }, loader, run, patience: 2, chooseBy: "validation" },
    ...{ reporter: { ...quietReporter, log: (text: string) => said.push(text) }, signal: stop.signal },
    ...{ engine: undefined as unknown as Engine, seed: 0, epochs: 6, batch: 1, saveEvery: 10, record: {} },
    rate: () => 0.1,
    openRunner: async () => runner,
    evaluate: async (epoch): Promise<Record<string, number>> => {
      if (epoch === 0) return {};
      measured.push(epoch);
      if (epoch === abortIn) stop.abort();
      return { validation: scores[epoch - 1]! };
    },
  });
  await run.close();
  return { trained, measured, said };
};

test("patience ends a training after epochs without a better figure, and says so", async () => {
  const { trained, measured, said } = await patient("patient");
  expect(measured).toEqual([1, 2, 3, 4]);
  expect(trained).toMatchObject({ epoch: 2, stoppedAfter: 4, steps: 4 * STEPS, interrupted: false });
  expect(said).toContainEqual(expect.stringMatching(/ended after epoch 4: validation .* epoch 2 for 2 epochs/));
  // Resumed it is still at its end.
  const again = await patient("patient", { resume: true });
  expect(again.measured).toEqual([]);
  expect(again.trained).toMatchObject({ epoch: 2, stoppedAfter: 4, steps: 4 * STEPS });
});

test("patience counts on over a stop and a resume", async () => {
  const stopped = await patient("stopped", { abortIn: 3 });
  expect(stopped.trained).toMatchObject({ interrupted: true, steps: 3 * STEPS });
  expect(stopped.trained).not.toHaveProperty("stoppedAfter");
  const resumed = await patient("stopped", { resume: true });
  expect(resumed.measured).toEqual([4]);
  expect(resumed.trained).toMatchObject({ epoch: 2, stoppedAfter: 4 });
});
