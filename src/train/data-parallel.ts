/** A step over several ranks: each has its share of the batch, gradients are averaged, and all make the same update. */

import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { feedName, gradName } from "../../graphs/steps/names.ts";
import { averagedStep, splitStep, TOLD } from "../../graphs/steps/split.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { alone, type Collective } from "../distributed/collective.ts";
import type { Engine } from "../engine/engine.ts";
import { createRunner, type Runner } from "../engine/runner.ts";
import { RequestError, RunError } from "../errors.ts";
import { accumulated } from "./accumulate.ts";

/** FNV-1a over 32-bit words, in four numbers of 8 bits: their sums over 65,536 ranks are exact in float32. */
const digestOf = (values: Iterable<Tensor>): number[] => {
  let hash = 0x811c9dc5;
  for (const { data } of values) {
    const { buffer, byteOffset, byteLength } = data as Float32Array;
    const words = new Uint32Array(buffer as ArrayBuffer, byteOffset, byteLength >>> 2);
    for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i]!, 0x01000193);
  }
  return [24, 16, 8, 0].map((shift) => (hash >>> shift) & 255);
};

/** Replaces float32 values by their means over ranks, and tells the sums of `others`; one message in all. */
const average = async (
  collective: Collective,
  values: Readonly<Record<string, Tensor>>,
  others: readonly number[],
): Promise<{ means: Record<string, Tensor>; sums: Float32Array }> => {
  const entries = Object.entries(values);
  const count = entries.reduce((sum, [, { data }]) => sum + data.length, 0);
  const flat = new Float32Array(count + others.length);
  let at = 0;
  for (const [name, { dtype, data }] of entries) {
    if (dtype !== "float32") throw new Error(`internal: ${name} is ${dtype}, which is not averaged over ranks`);
    flat.set(data as Float32Array, at);
    at += data.length;
  }
  flat.set(others, count);
  await collective.sum(flat);
  const means: Record<string, Tensor> = {};
  at = 0;
  for (const [name, { shape, data }] of entries) {
    const mean = flat.slice(at, at + data.length);
    for (let i = 0; i < mean.length; i++) mean[i] = mean[i]! / collective.size;
    means[name] = { dtype: "float32", shape, data: mean };
    at += data.length;
  }
  return { means, sums: flat.subarray(count) };
};

/** Throws a RunError where the ranks' digests, each the parts of `digest` over all its values, are not all the same. */
const checkSame = (digest: readonly number[], sums: ArrayLike<number>, ranks: number, steps: number): void => {
  if (digest.some((part, i) => sums[i] !== part * ranks))
    throw new RunError(
      `the ranks hold different weights after ${steps} steps: hosts or libraries that compute differently are mixed, or memory is at fault; go on from the last checkpoint with --resume on hosts of one kind`,
    );
};

export interface ParallelOptions {
  /** Whether this rank was asked to stop. */
  readonly stopping: () => boolean;
  /** Called on every rank after the same step, once one of them was asked. */
  readonly stop: () => void;
  /** Steps between two looks at whether all ranks still hold the same bits. */
  readonly checkEvery: number;
  /** Parts of this process's batch, one after another (default 1); the step is built for one. */
  readonly accumulate?: number;
}

const inputsOf = ({ store }: Step): string[] => [
  ...Array.from(store.parameters.keys(), (path) => `param.${path}`),
  ...Array.from(store.states.keys(), (path) => `state.${path}`),
  ...Array.from(store.inputs.keys(), (name) => `input.${name}`),
];

/** Sums of the parts of a digest, and of whether to stop: what ranks tell each other with every step. */
const WORDS = 5;

/** Tells the ranks' digests of what they hold: all ranks call it after the same steps. Throws a RunError where they differ. */
const compared = async (
  held: ReadonlyMap<string, Tensor>,
  collective: Collective,
  steps: number,
): Promise<Map<string, Tensor>> => {
  const digest = digestOf(held.values());
  const sums = Float32Array.from(digest);
  await collective.sum(sums);
  checkSame(digest, sums, collective.size, steps);
  return new Map(held);
};

const oneAtATime: Runner["runMany"] = async () => {
  throw new Error("internal: several steps in a run are not taken over several ranks");
};

/** By an engine whose programs speak with the other ranks: one run a step, and weights stay where it holds them. */
const createSpeakingRunner = async (
  engine: Engine,
  step: Step,
  initial: ReadonlyMap<string, Tensor>,
  collective: Collective,
  { stopping, stop, checkEvery }: ParallelOptions,
): Promise<Runner> => {
  const runner = await createRunner(engine, averagedStep(step, collective.size, WORDS), initial);
  let steps = 0;
  return {
    model: runner.model,
    run: async (inputs) => {
      const digest = steps % checkEvery === 0 ? digestOf((await runner.tensors()).values()) : [0, 0, 0, 0];
      const told = float32([WORDS], [...digest, stopping() ? 1 : 0]);
      const results = await runner.run({ ...inputs, [feedName(TOLD)]: told }).catch((error: unknown) => {
        throw collective.within?.failure ?? error;
      });
      const { [TOLD]: sums, ...others } = results;
      const words = sums?.data as Float32Array;
      checkSame(digest, words, collective.size, steps);
      steps++;
      if (words[WORDS - 1]! > 0) stop();
      return others;
    },
    runMany: oneAtATime,
    accept: () => runner.accept(),
    tensors: async () => compared(await runner.tensors(), collective, steps),
    release: () => runner.release(),
  };
};

/**
 * Runs a step over all ranks. Running statistics and metrics become the means over ranks, so that every rank holds the same
 * bits after every step.
 *
 * @returns a runner whose `run` throws RunError where the ranks no longer hold the same, and so does `tensors`, which all ranks
 *   call after the same steps
 */
export const createParallelRunner = async (
  engine: Engine,
  step: Step,
  initial: ReadonlyMap<string, Tensor>,
  collective: Collective,
  options: ParallelOptions,
): Promise<Runner> =>
  (engine.speaks && (options.accumulate ?? 1) === 1 ? createSpeakingRunner : createSplitRunner)(
    engine,
    step,
    initial,
    collective,
    options,
  );

/** By any engine: gradients in one run, their sum over ranks, the update in another. */
const createSplitRunner: typeof createParallelRunner = async (
  engine,
  step,
  initial,
  collective,
  { stopping, stop, checkEvery, accumulate = 1 },
) => {
  const parts = splitStep(step);
  const first = await engine.load(parts.gradients);
  const second = await engine.load(parts.update);
  const [firstInputs, secondInputs] = [inputsOf(parts.gradients), inputsOf(parts.update)];
  const held = new Map(initial);
  let pending = new Map<string, Tensor>();
  let steps = 0;
  const pick = (names: readonly string[], given: Readonly<Record<string, Tensor>>) =>
    Object.fromEntries(names.map((name) => [name, given[name] ?? (held.get(name) as Tensor)]));

  const compute = accumulated((inputs) => first.session.run(pick(firstInputs, inputs)), parts.gradients, accumulate);
  const run: Runner["run"] = async (inputs) => {
    const computed = await compute(inputs);
    const digest = steps % checkEvery === 0 ? digestOf(held.values()) : [0, 0, 0, 0];
    const { means, sums } = await average(collective, computed, [...digest, stopping() ? 1 : 0]);
    checkSame(digest, sums, collective.size, steps);
    steps++;
    const gradients = Object.fromEntries(
      Array.from(step.gradients ?? [], ([path]) => [`input.${gradName(path)}`, means[gradName(path)] as Tensor]),
    );
    const updated = await second.session.run(pick(secondInputs, { ...inputs, ...gradients }));
    if (sums[4]! > 0) stop();
    pending = new Map();
    const returned: Record<string, Tensor> = {};
    for (const [name, value] of Object.entries({ ...means, ...updated }))
      if (name.startsWith("next.")) pending.set(name.slice("next.".length), value);
      else if (!name.startsWith("grad.")) returned[name] = value;
    return returned;
  };
  return {
    model: first.model,
    run,
    runMany: oneAtATime,
    accept: () => {
      for (const [name, value] of pending) held.set(name, value);
      pending = new Map();
    },
    tensors: () => compared(held, collective, steps),
    release: async () => {
      await first.session.release();
      await second.session.release();
    },
  };
};

/** What a training tells of the processes that share it. */
interface Shared {
  readonly collective?: Collective;
  readonly engine: Engine;
  readonly step: Step;
  readonly signal: AbortSignal;
  readonly rankCheck?: number;
  readonly stepsPerRun?: number;
  readonly accumulate?: number | undefined;
  readonly openRunner?: (initial: ReadonlyMap<string, Tensor>) => Promise<Runner>;
}

/**
 * A training over several processes, or over parts of a batch one after another: processes stop after the same step, and the
 * runner sums gradients.
 */
export const overRanks = <T extends Shared>(given: T): T => {
  const { collective = alone, engine, step, signal, rankCheck = 16, accumulate = 1 } = given;
  if (collective.size === 1 && accumulate === 1) return given;
  if ((given.stepsPerRun ?? 1) > 1)
    throw new RequestError(
      collective.size > 1
        ? "--steps-per-run is for one process, and there are several ranks; leave it out"
        : "--steps-per-run takes whole batches, and --accumulate parts of them; leave one out",
    );
  if (accumulate > 1 && step.store.ranks !== undefined && (step.store.ranks.batchNorm || step.store.ranks.negatives))
    throw new RequestError(
      "--accumulate takes parts of a rank's batch by themselves; leave out --batch-norm global and --negatives global",
    );
  const agreed = new AbortController();
  const stops = { stopping: () => signal.aborted, stop: () => agreed.abort(), checkEvery: rankCheck, accumulate };
  return {
    ...given,
    signal: agreed.signal,
    openRunner: (initial: ReadonlyMap<string, Tensor>) =>
      createParallelRunner(engine, step, initial, collective, stops),
  };
};
