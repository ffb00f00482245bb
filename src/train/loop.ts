/** The training loop: feeds a step model with batches and its own outputs, logs, checkpoints, resumes. */

import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { feedName, metricsOf, paramName, stateName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import type { Batch, Loader } from "../data/loader.ts";
import { alone, type Collective } from "../distributed/collective.ts";
import type { Engine } from "../engine/engine.ts";
import { createRunner, type Runner } from "../engine/runner.ts";
import { RunError } from "../errors.ts";
import type { Json } from "../runs/checkpoint.ts";
import { MetricsWriter } from "../runs/metrics.ts";
import { chosenName, weightsOf } from "../runs/network.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import type { ProgressLine, Reporter } from "../verbs/reporter.ts";
import { overRanks } from "./data-parallel.ts";
import { allFinite, diverged } from "./diverged.ts";
import { initialState } from "./initialize.ts";

export interface Training {
  readonly step: Step;
  readonly engine: Engine;
  readonly loader: Loader;
  readonly run: RunFolder;
  readonly reporter: Reporter;
  /** Aborted, the training ends after its step and saves. */
  readonly signal: AbortSignal;
  /** Processes that train together, each with its share of the loader's batches (default: this one alone). */
  readonly collective?: Collective;
  /** Loads the step with what it starts from (default: by the engine). */
  readonly openRunner?: (initial: ReadonlyMap<string, Tensor>) => Promise<Runner>;
  readonly seed: number;
  readonly epochs: number;
  /** Steps between two looks at whether these processes hold the same (default 16). */
  readonly rankCheck?: number;
  /** Images a step, over all processes. */
  readonly batch: number;
  /** Steps in one run of the engine (default 1); what an epoch leaves over is taken step by step. */
  readonly stepsPerRun?: number;
  /** Parts of a process's batch that are taken one after another before an update (default 1); the step is built for one. */
  readonly accumulate?: number | undefined;
  /** Learning rate of a step; epoch from 1, step within it from 0. */
  rate(epoch: number, step: number): number;
  /** Other scalar inputs of a step, by name: weights and decays that follow a schedule. */
  scalars?(epoch: number, step: number): Readonly<Record<string, number>>;
  /** What training starts from, by model input (`param.…`, `state.…`); the rest is drawn from the seed. */
  readonly initial?: ReadonlyMap<string, Tensor>;
  /** What the checkpoints hold besides, unchanged, by such names: weights that the step has as constants. */
  readonly kept?: ReadonlyMap<string, Tensor>;
  /** What else a checkpoint says of the run: its network, so that other commands can start from it. */
  readonly record: Readonly<Record<string, Json>>;
  /** Whether `advcl step` replays such a step (default false). */
  readonly replay?: boolean;
  /** Epochs between checkpoints. */
  readonly saveEvery: number;
  /** More figures after an epoch (and before the first, as epoch 0), from weights by PyTorch name. */
  evaluate?(epoch: number, weights: ReadonlyMap<string, Tensor>): Promise<Record<string, number>>;
  /** The figure of `evaluate` whose highest value chooses the epoch; left out, the last epoch stands. */
  readonly chooseBy?: string | undefined;
  /** Epochs in a row without a higher value of it after which training ends; left out, it goes on to its last epoch. */
  readonly patience?: number | undefined;
}

export interface Trained {
  /** `param.…` and `state.…` at the end. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly steps: number;
  /** The epoch that was chosen, or the last. */
  readonly epoch: number;
  /** The epoch after which patience ended it, before the last. */
  readonly stoppedAfter?: number;
  /** Last figures by name. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Seconds that the engine waited for data. */
  readonly waitSeconds: number;
  readonly interrupted: boolean;
}

/** The epoch that was chosen so far, and its figure. */
interface Best {
  readonly epoch: number;
  readonly value: number;
}

/** A run's parameters and state to begin with: of its checkpoint, else the first ones. */
const beginningOf = ({ step, seed, initial, kept = new Map(), run }: Training) => {
  const first = new Map([...initialState(step, seed, initial), ...kept]);
  const tensors = new Map(run.resumed?.tensors ?? first);
  for (const name of first.keys())
    if (!tensors.has(name))
      throw new RunError(`the checkpoint ${run.resumed?.path} lacks ${name}; it was written by another version`);
  return { names: [...first.keys()], tensors };
};

/** What a step reads: its batch, learning rate and other scalars of a schedule. */
const inputsOf = ({ rate, scalars }: Training, epoch: number, data: Batch): Record<string, Tensor> => {
  const inputs: Record<string, Tensor> = { "input.lr": float32([], [rate(epoch, data.step)]) };
  for (const [name, value] of Object.entries(scalars?.(epoch, data.step) ?? {}))
    inputs[feedName(name)] = float32([], [value]);
  for (const [name, value] of Object.entries(data.tensors)) inputs[feedName(name)] = value;
  return inputs;
};

/** What the steps of a group read, and the rates that they take. */
interface Prepared {
  readonly epoch: number;
  readonly inputs: readonly Readonly<Record<string, Tensor>>[];
  readonly rates: readonly number[];
}

/** What a step measured, and the rate that it took. */
interface Taken {
  readonly metrics: Readonly<Record<string, number>>;
  readonly lr: number;
}

/** A training under way. */
class TrainingState {
  /** Steps done. */
  done: number;
  readonly #training: Training;
  readonly #runner: Runner;
  readonly #writer: MetricsWriter;
  readonly #progress: ProgressLine;
  /** Names of parameters and state, those of weights that stay as they are included. */
  readonly #names: readonly string[];
  readonly #tensors: Map<string, Tensor>;
  #figures: Record<string, number>;
  #best: Best | undefined;
  /** Seconds that the loader had kept the engine waiting when the last step was logged, and those of communication. */
  #waited = 0;
  #communicated = 0;

  constructor(training: Training, runner: Runner, { names, tensors }: ReturnType<typeof beginningOf>) {
    const { run, reporter, loader, epochs } = training;
    this.#training = training;
    this.#runner = runner;
    this.#names = names;
    this.#tensors = tensors;
    this.#writer = new MetricsWriter(run);
    this.done = run.resumed?.step ?? 0;
    this.#figures = (run.resumed?.state.metrics ?? {}) as Record<string, number>;
    this.#best = run.resumed?.state.best as Best | undefined;
    this.#progress = reporter.progress({ steps: epochs * loader.stepsPerEpoch, epochs, done: this.done });
  }

  /** Whether inputs can be brought on their way to the device before their turn. */
  get stages(): boolean {
    return this.#runner.stage !== undefined;
  }

  /** Brings what the engine holds into host memory. */
  async #collect(): Promise<void> {
    for (const [name, value] of await this.#runner.tensors()) this.#tensors.set(name, value);
  }

  async save(epoch: number, stopgap: boolean): Promise<void> {
    await this.#collect();
    const { run, record } = this.#training;
    const best = this.#best && { best: { ...this.#best } };
    const state = { ...record, ...best, metrics: this.#figures as Record<string, Json> };
    await run.save({ epoch, step: this.done, state, tensors: this.#tensors, stopgap });
  }

  /** Measures the figures of an epoch, logs them, and keeps the weights where they are the best so far. */
  async evaluate(epoch: number): Promise<void> {
    const { evaluate, reporter, loader, chooseBy = "", kept, collective = alone } = this.#training;
    if (evaluate !== undefined) await this.#collect();
    const figures = await evaluate?.(epoch, weightsOf(this.#tensors));
    this.#waited = loader.waitSeconds;
    this.#communicated = collective.seconds;
    if (figures === undefined || Object.keys(figures).length === 0) return;
    this.#figures = { ...this.#figures, ...figures };
    this.#writer.write({ step: this.done, epoch }, figures);
    const printed = Object.entries(figures).map(([name, value]) => `${name} ${value.toFixed(4)}`);
    reporter.log(`epoch ${epoch}: ${printed.join(", ")}`);
    const value = figures[chooseBy];
    if (epoch === 0 || value === undefined || value <= (this.#best?.value ?? -Infinity)) return;
    this.#best = { epoch, value };
    for (const name of this.#names)
      if (!name.startsWith(stateName("momentum.")) && !kept?.has(name))
        this.#tensors.set(chosenName(name), this.#tensors.get(name) as Tensor);
  }

  /** Whether patience ends the training after an epoch. */
  isExhausted(epoch: number): boolean {
    const { patience, epochs } = this.#training;
    return patience !== undefined && epoch < epochs && epoch - (this.#best?.epoch ?? epoch) >= patience;
  }

  /** What the steps of some batches read. */
  prepare(epoch: number, group: readonly Batch[]): Prepared {
    const { rate } = this.#training;
    const inputs = group.map((data) => inputsOf(this.#training, epoch, data));
    return { epoch, inputs, rates: group.map((data) => rate(epoch, data.step)) };
  }

  /** Whether groups fill the engine's runs of several steps. */
  #fills({ inputs }: Prepared): boolean {
    const { stepsPerRun = 1 } = this.#training;
    return inputs.length > 1 && inputs.length === stepsPerRun;
  }

  /**
   * Does the steps of a group: in one run where they fill one, else one by one. Those of the group after it are brought on
   * their way to the device meanwhile.
   */
  async advance(prepared: Prepared, next: Prepared | undefined): Promise<void> {
    const { epoch, inputs, rates } = prepared;
    const runner = this.#runner;
    if (next !== undefined) runner.stage?.(this.#fills(next) ? next.inputs : next.inputs[0]!);
    if (this.#fills(prepared)) {
      const started = performance.now();
      const results = await runner.runMany(inputs);
      const taken = results.map((result, i) => ({ metrics: metricsOf(result), lr: rates[i]! }));
      if (taken.every(({ metrics }) => allFinite(metrics)))
        return this.#accept(epoch, taken, (performance.now() - started) / 1000 / inputs.length);
      // Step by step, to find the one that is at fault.
    }
    for (const [i, given] of inputs.entries()) {
      const started = performance.now();
      const metrics = metricsOf(await runner.run(given));
      if (!allFinite(metrics)) {
        const feeds = { ...Object.fromEntries(await runner.tensors()), ...given };
        throw await diverged(this.#training, this.done + 1, feeds, metrics);
      }
      this.#accept(epoch, [{ metrics, lr: rates[i]! }], (performance.now() - started) / 1000);
    }
  }

  /** Takes over a run of one step or more, and logs each. */
  #accept(epoch: number, taken: readonly Taken[], seconds: number): void {
    const { loader, batch, collective = alone } = this.#training;
    this.#runner.accept();
    const dataWait = (loader.waitSeconds - this.#waited) / taken.length;
    this.#waited = loader.waitSeconds;
    const communication = collective.seconds - this.#communicated;
    this.#communicated = collective.seconds;
    const shared = collective.size > 1 && { communication };
    for (const { metrics, lr } of taken) {
      const step = ++this.done;
      this.#figures = { ...this.#figures, ...metrics };
      const imagesPerSecond = batch / (seconds + dataWait);
      this.#writer.write({ step, epoch }, { ...metrics, lr }, { seconds, dataWait, imagesPerSecond, ...shared });
      this.#progress.update({ step, epoch, figures: metrics, images: batch, dataWait });
    }
  }

  result(interrupted: boolean): Trained {
    const { loader, reporter, chooseBy } = this.#training;
    const ended = Math.floor(this.done / loader.stepsPerEpoch);
    const stopped = !interrupted && this.isExhausted(ended);
    if (stopped)
      reporter.log(
        `ended after epoch ${ended}: ${chooseBy} has not been better than in epoch ${this.#best?.epoch} for ${ended - (this.#best?.epoch ?? 0)} epochs (--patience)`,
      );
    return {
      tensors: this.#tensors,
      steps: this.done,
      epoch: this.#best?.epoch ?? ended,
      ...(stopped && { stoppedAfter: ended }),
      metrics: this.#figures,
      waitSeconds: loader.waitSeconds,
      interrupted,
    };
  }

  stop(): void {
    this.#progress.stop();
  }
}

/** The batches of an epoch that are left, as many together as a run of the engine takes; the last may be fewer. */
async function* groupsOf({ loader, stepsPerRun = 1 }: Training, epoch: number, startStep: number) {
  let group: Batch[] = [];
  for await (const data of loader.epoch(epoch, { startStep })) {
    group.push(data);
    if (group.length < stepsPerRun && data.step < loader.stepsPerEpoch - 1) continue;
    yield group;
    group = [];
  }
}

/** Does the steps of an epoch that are left. Returns whether it was interrupted within. */
const trainEpoch = async (training: Training, state: TrainingState, epoch: number): Promise<boolean> => {
  const { loader, signal, epochs } = training;
  const { stepsPerEpoch } = loader;
  const groups = groupsOf(training, epoch, state.done % stepsPerEpoch);
  const read = async (): Promise<Prepared | undefined> => {
    const { value, done } = await groups.next();
    return done ? undefined : state.prepare(epoch, value);
  };
  let [group, next] = [await read(), undefined as Prepared | undefined];
  for (; group !== undefined; group = next ?? (await read())) {
    next = state.stages ? await read() : undefined;
    await state.advance(group, next);
    const within = state.done < epochs * stepsPerEpoch && state.done % stepsPerEpoch !== 0;
    if (!(signal.aborted && within)) continue;
    await groups.return();
    return true;
  }
  return false;
};

/** Runs a training to its end, or to the step at which its signal is seen. */
export const train = async (given: Training): Promise<Trained> => {
  const training = overRanks(given);
  const { step, engine, loader, signal, epochs, saveEvery, stepsPerRun = 1 } = training;
  const beginning = beginningOf(training);
  const { parameters, states } = step.store;
  const fed = new Set<string>([
    ...[...parameters.keys()].map((p) => paramName(p)),
    ...[...states.keys()].map((p) => stateName(p)),
  ]);
  const initial = new Map([...beginning.tensors].filter(([name]) => fed.has(name)));
  const runner = await (training.openRunner?.(initial) ?? createRunner(engine, step, initial, stepsPerRun));
  const state = new TrainingState(training, runner, beginning);
  try {
    if (state.done === 0) await state.evaluate(0);
    const begun = Math.floor(state.done / loader.stepsPerEpoch);
    for (let epoch = begun + 1; epoch <= epochs && !state.isExhausted(epoch - 1); epoch++) {
      if (await trainEpoch(training, state, epoch)) {
        await state.save(epoch - 1, true);
        return state.result(true);
      }
      await state.evaluate(epoch);
      const ends = epoch === epochs || state.isExhausted(epoch);
      const scheduled = epoch % saveEvery === 0 || ends;
      if (scheduled || signal.aborted) await state.save(epoch, !scheduled);
      if (signal.aborted && !ends) return state.result(true);
    }
    return state.result(false);
  } finally {
    state.stop();
    await runner.release();
  }
};
