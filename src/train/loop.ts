/** The training loop: feeds a step model with batches and its own outputs, logs, checkpoints, resumes. */
import { join } from "node:path";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import type { Step } from "../../graphs/steps/step.ts";
import type { Batch, Loader } from "../data/loader.ts";
import type { Engine } from "../engine/engine.ts";
import { createRunner } from "../engine/runner.ts";
import { RequestError, RunError } from "../errors.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import type { Json } from "../runs/checkpoint.ts";
import { MetricsWriter } from "../runs/metrics.ts";
import { chosenName, weightsOf } from "../runs/network.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import type { Reporter } from "../verbs/reporter.ts";
import { initialTensor } from "./initialize.ts";

export interface Training {
  readonly step: Step;
  readonly engine: Engine;
  readonly loader: Loader;
  readonly run: RunFolder;
  readonly reporter: Reporter;
  /** Aborted, the training ends after its step and saves. */
  readonly signal: AbortSignal;
  readonly seed: number;
  readonly epochs: number;
  /** Images a step. */
  readonly batch: number;
  /** Steps in one run of the engine (default 1); what an epoch leaves over is taken step by step. */
  readonly stepsPerRun?: number;
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
}

export interface Trained {
  /** `param.…` and `state.…` at the end. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly steps: number;
  /** The epoch that was chosen, or the last. */
  readonly epoch: number;
  /** Last figures by name. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Seconds that the engine waited for data. */
  readonly waitSeconds: number;
  readonly interrupted: boolean;
}

/** The first values of a step's parameters and states, in place of which `given` may stand by model input name. */
export const initialState = (
  { store }: Step,
  seed: number,
  given: ReadonlyMap<string, Tensor> = new Map(),
): Map<string, Tensor> => {
  const tensors = new Map<string, Tensor>();
  for (const [kind, slots] of [
    ["param", store.parameters],
    ["state", store.states],
  ] as const)
    for (const slot of slots.values()) {
      const name = `${kind}.${slot.path}`;
      const names = slot.init.kind === "copy" ? [name, `param.${slot.init.path}`, `state.${slot.init.path}`] : [name];
      const known = names.find((n) => given.has(n));
      const value = (known && given.get(known)) || initialTensor(slot, seed);
      if (value.shape.join() !== slot.type.shape.join())
        throw new RequestError(
          `${slot.path} is [${value.shape.join(",")}] and should be [${slot.type.shape.join(",")}]; give the weights of this network`,
        );
      tensors.set(name, value);
    }
  return tensors;
};

/** Runs a training to its end, or to the step at which its signal is seen. */
export const train = async (training: Training): Promise<Trained> => {
  const { step, engine, loader, run, reporter, signal, seed, epochs, batch, stepsPerRun = 1 } = training;
  const { stepsPerEpoch } = loader;
  const first = new Map([...initialState(step, seed, training.initial), ...(training.kept ?? [])]);
  const tensors = new Map(run.resumed?.tensors ?? first);
  for (const name of first.keys())
    if (!tensors.has(name))
      throw new RunError(`the checkpoint ${run.resumed?.path} lacks ${name}; it was written by another version`);
  const { parameters, states } = step.store;
  const fed = new Set(
    [...parameters.keys()].map((p) => `param.${p}`).concat([...states.keys()].map((p) => `state.${p}`)),
  );
  const runner = await createRunner(engine, step, new Map([...tensors].filter(([name]) => fed.has(name))), stepsPerRun);
  /** Brings what the engine holds into `tensors`. */
  const collect = async (): Promise<void> => {
    for (const [name, value] of await runner.tensors()) tensors.set(name, value);
  };
  let done = run.resumed?.step ?? 0;
  let last = (run.resumed?.state.metrics ?? {}) as Record<string, number>;
  let best = run.resumed?.state.best as { readonly epoch: number; readonly value: number } | undefined;
  const writer = new MetricsWriter(run);
  const save = async (epoch: number, stopgap: boolean) => {
    await collect();
    await run.save({
      epoch,
      step: done,
      state: { ...training.record, ...(best && { best }), metrics: last as Record<string, Json> },
      tensors,
      stopgap,
    });
  };
  const judge = async (epoch: number) => {
    if (training.evaluate !== undefined) await collect();
    const figures = await training.evaluate?.(epoch, weightsOf(tensors));
    if (figures === undefined || Object.keys(figures).length === 0) return;
    last = { ...last, ...figures };
    writer.write({ step: done, epoch }, figures);
    reporter.log(
      `epoch ${epoch}: ${Object.entries(figures)
        .map(([k, v]) => `${k} ${v.toFixed(4)}`)
        .join(", ")}`,
    );
    const value = figures[training.chooseBy ?? ""];
    if (epoch === 0 || value === undefined || value <= (best?.value ?? -Infinity)) return;
    best = { epoch, value };
    for (const name of first.keys())
      if (!name.startsWith("state.momentum.") && !training.kept?.has(name))
        tensors.set(chosenName(name), tensors.get(name) as Tensor);
  };
  const finish = (interrupted: boolean): Trained => ({
    tensors,
    steps: done,
    epoch: best?.epoch ?? Math.floor(done / stepsPerEpoch),
    metrics: last,
    waitSeconds: loader.waitSeconds,
    interrupted,
  });

  const progress = reporter.progress({ steps: epochs * stepsPerEpoch, epochs, done });
  let waited = loader.waitSeconds;
  const inputsOf = (epoch: number, data: Batch) => {
    const inputs: Record<string, Tensor> = { "input.lr": float32([], [training.rate(epoch, data.step)]) };
    for (const [name, value] of Object.entries(training.scalars?.(epoch, data.step) ?? {}))
      inputs[`input.${name}`] = float32([], [value]);
    for (const [name, value] of Object.entries(data.tensors)) inputs[`input.${name}`] = value;
    return inputs;
  };
  /** Takes over a run of one step or more, and logs each. */
  const accept = (epoch: number, taken: readonly Taken[], seconds: number): void => {
    runner.accept();
    const wait = (loader.waitSeconds - waited) / taken.length;
    waited = loader.waitSeconds;
    for (const { metrics, lr } of taken) {
      done++;
      last = { ...last, ...metrics };
      writer.write(
        { step: done, epoch },
        { ...metrics, lr },
        { seconds, dataWait: wait, imagesPerSecond: batch / (seconds + wait) },
      );
      progress.update({ step: done, epoch, figures: metrics, images: batch, dataWait: wait });
    }
  };
  /** Does the steps of some batches: in one run where they fill one, else one by one. */
  const advance = async (epoch: number, group: readonly Batch[]): Promise<void> => {
    const inputs = group.map((data) => inputsOf(epoch, data));
    const rates = group.map((data) => training.rate(epoch, data.step));
    if (group.length > 1 && group.length === stepsPerRun) {
      const started = performance.now();
      const results = await runner.runMany(inputs);
      const taken = results.map((result, i) => ({ metrics: metricsOf(result), lr: rates[i] as number }));
      if (taken.every(({ metrics }) => allFinite(metrics)))
        return accept(epoch, taken, (performance.now() - started) / 1000 / group.length);
      // Step by step, to find the one that is at fault.
    }
    for (const [i, given] of inputs.entries()) {
      const started = performance.now();
      const metrics = metricsOf(await runner.run(given));
      if (!allFinite(metrics))
        throw await diverged(training, done + 1, { ...Object.fromEntries(await runner.tensors()), ...given }, metrics);
      accept(epoch, [{ metrics, lr: rates[i] as number }], (performance.now() - started) / 1000);
    }
  };
  try {
    if (done === 0) await judge(0);
    waited = loader.waitSeconds;
    for (let epoch = Math.floor(done / stepsPerEpoch) + 1; epoch <= epochs; epoch++) {
      let group: Batch[] = [];
      for await (const data of loader.epoch(epoch, { startStep: done % stepsPerEpoch })) {
        group.push(data);
        if (group.length < stepsPerRun && data.step < stepsPerEpoch - 1) continue;
        await advance(epoch, group);
        group = [];
        if (signal.aborted && done < epochs * stepsPerEpoch && done % stepsPerEpoch !== 0) {
          await save(epoch - 1, true);
          return finish(true);
        }
      }
      await judge(epoch);
      const scheduled = epoch % training.saveEvery === 0 || epoch === epochs;
      if (scheduled || signal.aborted) await save(epoch, !scheduled);
      if (signal.aborted && epoch < epochs) return finish(true);
    }
    return finish(false);
  } finally {
    progress.stop();
    await runner.release();
  }
};

/** What a step measured, and the rate that it took. */
interface Taken {
  readonly metrics: Readonly<Record<string, number>>;
  readonly lr: number;
}

const metricsOf = (results: Readonly<Record<string, Tensor>>): Record<string, number> =>
  Object.fromEntries(
    Object.entries(results).flatMap(([name, value]) =>
      name.startsWith("metric.") ? [[name.slice("metric.".length), Number(value.data[0])]] : [],
    ),
  );

const allFinite = (metrics: Readonly<Record<string, number>>): boolean => Object.values(metrics).every(Number.isFinite);

/** Keeps what led to a loss that is not finite, of pretraining in the form that `advcl step` replays, and says so. */
const diverged = async (
  { run, replay }: Training,
  step: number,
  feeds: Readonly<Record<string, Tensor>>,
  metrics: Readonly<Record<string, number>>,
): Promise<RunError> => {
  const weights = join(run.path, "diverged", "weights.safetensors");
  const batch = join(run.path, "diverged", "batch.safetensors");
  const part = (prefix: string) =>
    Object.fromEntries(
      Object.entries(feeds).flatMap(([name, value]) =>
        name.startsWith(prefix) ? [[name.slice(prefix.length), value]] : [],
      ),
    );
  await writeSafetensors(weights, { ...part("param."), ...part("state.") });
  await writeSafetensors(batch, part("input."));
  const remedy = replay ? " (replay them with advcl step)" : "";
  const bad = Object.entries(metrics).filter(([, value]) => !Number.isFinite(value));
  return new RunError(
    `${bad.map(([name, value]) => `${name} is ${value}`).join(", ")} at step ${step}: the last checkpoint is kept and the step's inputs are in ${weights} and ${batch}${remedy}; lower the learning rate and resume`,
  );
};
