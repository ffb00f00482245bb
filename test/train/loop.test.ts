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
