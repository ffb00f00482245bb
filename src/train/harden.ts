/** Hardening: a classifier in an ONNX file becomes robust, and stays the same file but for its weights. */

import { deserialize, serialize } from "node:v8";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { hardenStep } from "../../graphs/steps/harden.ts";
import { paramName } from "../../graphs/steps/names.ts";
import { datasetFingerprint } from "../data/digest.ts";
import { createLoader, type Loader } from "../data/loader.ts";
import { normalStart, plainView, uniformStart, weakView } from "../data/view.ts";
import type { Collective } from "../distributed/collective.ts";
import { joinRanks, sharedBatch } from "../distributed/ranks.ts";
import type { Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { percent } from "../evaluate/accuracy.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { chanceOf, chanceWarning } from "../models/chance.ts";
import { type ClassifierModel, type LoadedClassifier, openClassifier } from "../models/classifier.ts";
import { warnOfProbabilities } from "../models/probabilities.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import { checkConditions, type Figures, type Judged, judged, parseConditions } from "../verbs/conditions.ts";
import type { Reporter } from "../verbs/reporter.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { version } from "../version.ts";
import { trainingEngine } from "./engine.ts";
import { type Measured, measure } from "./harden/measure.ts";
import { type Trainable, trainable } from "./harden/model.ts";
import { patchWeights } from "./harden/patch.ts";
import { type Prepared, prepare } from "./harden/prepare.ts";
import { type HardenSettings, hardenSettings } from "./harden/settings.ts";
import { type Trained, train } from "./loop.ts";

/** What a hardening ends with. */
export interface HardenResult extends Judged {
  /** The ONNX file. */
  readonly out: string;
  /** Steps in all, those before a resume included. */
  readonly steps: number;
  /** Number of tensors that moved. */
  readonly weights: number;
  readonly before: Measured;
  readonly after: Measured;
}

const describe = ({ accuracy, robustAccuracy }: Measured): string =>
  `accuracy ${percent(accuracy)}, under PGD ${percent(robustAccuracy)}`;

const createImages = (
  { objective, eps, seed, augment }: HardenSettings,
  { training, batch }: Prepared,
  share: Collective,
): Loader =>
  createLoader({
    dataset: training,
    batch,
    seed,
    workers: 0,
    inputs: {
      clean: augment ? weakView : plainView,
      label: { kind: "label" },
      start: objective === "trades" ? normalStart() : uniformStart(eps),
    },
    dropLast: true,
    share,
  });

const createMeasure =
  ({ eps, stepSize, testSteps, seed }: HardenSettings, { test, original }: Prepared, engine: Engine) =>
  (build: LoadedClassifier["build"]): Promise<Measured> =>
    measure(build, test, { eps, stepSize, steps: testSteps }, seed, engine, original.fixedBatch);

/** Accuracy before the training, which a resumed run knows already. */
const measureBefore = async (
  { from }: HardenSettings,
  { original, test }: Prepared,
  folder: RunFolder,
  engine: Engine,
  measureModel: ReturnType<typeof createMeasure>,
  reporter: Reporter,
): Promise<Measured> => {
  const resumed = folder.resumed?.state as { readonly digest?: string; readonly before?: Measured } | undefined;
  if (resumed !== undefined && resumed.digest !== original.digest)
    throw new RequestError(`${from} is not the file that the run in ${folder.path} began with; give that one`);
  const before = resumed?.before ?? (await measureModel(original.build));
  reporter.print(`before: ${describe(before)}`);
  const warning = await chanceWarning(before.accuracy, original, test, engine);
  if (warning !== undefined) reporter.warn(warning);
  return before;
};

interface Start {
  readonly model: Trainable;
  readonly before: Measured;
  readonly folder: RunFolder;
  readonly loader: Loader;
  readonly engine: Engine;
  readonly collective: Collective;
}

const trainModel = (
  settings: HardenSettings,
  { original, batch, share }: Prepared,
  { model, before, folder, loader, engine, collective }: Start,
  context: VerbContext,
): Promise<Trained> => {
  const { seed, epochs, lr, ramp, saveEvery, rankCheck } = settings;
  const objective = settings.objective === "trades" ? "trades" : "pgd";
  const steps = epochs * loader.stepsPerEpoch;
  const done = (epoch: number, at: number): number => (epoch - 1) * loader.stepsPerEpoch + at;
  return train({
    step: hardenStep({ ...settings, objective, batch: share, image: original.image }, model.classify),
    ...{ collective, rankCheck },
    ...{ engine, loader, run: folder, reporter: context, signal: context.signal, seed, epochs, batch, saveEvery },
    record: { digest: original.digest, before: { ...before } },
    rate: (epoch, at) => 0.5 * lr * (1 + Math.cos((Math.PI * done(epoch, at)) / steps)),
    scalars: (epoch, at) => ({ strength: Math.min(1, (done(epoch, at) + 1) / Math.max(1, ramp * steps)) }),
    initial: new Map(Array.from(model.weights, ([name, value]) => [paramName(name), value])),
  });
};

/** Warns where the training did harm, or no good. */
const judge = (
  { from, out, lr, beta }: HardenSettings,
  before: Measured,
  after: Measured,
  chance: number,
  { warn }: Reporter,
): void => {
  if (after.accuracy <= chance)
    warn(
      `${out} is no better than chance (${percent(chance)}): the training went too far; lower --lr (it was ${lr}) or --beta (${beta}), and harden ${from} again`,
    );
  else if (after.robustAccuracy <= before.robustAccuracy)
    warn(
      `${out} is not more robust than ${from}: give more --epochs or images, or raise --lr (it was ${lr}) or --beta (${beta})`,
    );
};

/** Both accuracies, of which the first value is that before the training. */
const figuresOf = (before: Measured, after: Measured): Figures => {
  const figure = (name: keyof Measured) => {
    const [first, last] = [before[name], after[name]];
    return { first, last, best: Math.max(first, last) };
  };
  return { accuracy: figure("accuracy"), robustAccuracy: figure("robustAccuracy") };
};

const run = async (settings: HardenSettings, context: VerbContext): Promise<HardenResult> => {
  const { from, out, eps, objective, dataset } = settings;
  const conditions = parseConditions(settings);
  checkConditions(conditions, { followed: ["accuracy", "robustAccuracy"] });
  const collective = await joinRanks(settings);
  const prepared = await prepare(settings, collective, context);
  const { original, training, test, share } = prepared;
  // Its batch norms stay as they are, and no image is set against another.
  const { spoken } = sharedBatch(collective, { batchNorm: "local", negatives: "local" });
  const { engine, target } = await trainingEngine(settings, context, collective, spoken);
  await warnOfProbabilities(original, test, engine, context.warn);
  const model = trainable(original, share);
  const { bytes } = original.model as ClassifierModel;
  if (original.model?.file.nodes.some(({ op }) => op === "If"))
    context.warn(`${from} chooses between branches (If): weights that only a branch reads stay as they are`);
  // What cannot be written back is refused before anything is trained.
  patchWeights(bytes, model.weights, {});
  const count = Array.from(model.weights.values()).reduce((n, { data }) => n + data.length, 0);
  context.log(
    `${model.weights.size} weights (${count} numbers) of ${from} move; ${training.count} images, ${test.count} to measure on`,
  );
  const loader = createImages(settings, prepared, collective);
  const basis = { images: datasetFingerprint(training), stepsPerEpoch: loader.stepsPerEpoch };
  const folder = await context.openRun({ collective, basis, target });
  const measureModel = createMeasure(settings, prepared, engine);
  const before = await measureBefore(settings, prepared, folder, engine, measureModel, context);
  const start = { model, before, folder, loader, engine, collective };
  const trained = await trainModel(settings, prepared, start, context).finally(() => loader.close());
  const { tensors, steps } = trained;
  if (trained.interrupted)
    throw new Interrupted(`stopped after step ${steps}: ${out} is not written yet; go on with --resume`);
  const moved = new Map(Array.from(model.weights.keys(), (name) => [name, tensors.get(paramName(name)) as Tensor]));
  const result = { out, steps, weights: model.weights.size, before };
  // The others may not see the first one's disk, and are told what it measures.
  if (collective.rank > 0) return { ...result, after: deserialize(await collective.broadcast(new Uint8Array())) };
  const note = { objective, eps, steps, dataset, advcl: version() };
  await writeFileAtomic(out, patchWeights(bytes, moved, { hardened: JSON.stringify(note) }));
  const hardened = await openClassifier(out, { ...settings, warn: () => {} });
  const after = await measureModel(hardened.classifier(original.classes).build);
  await collective.broadcast(serialize(after));
  context.print(`after:  ${describe(after)}`);
  judge(settings, before, after, chanceOf(test.labels), context);
  context.print(`${out}: ${from} hardened by ${objective}, ${steps} steps`);
  return { ...result, after, ...judged(conditions, figuresOf(before, after)) };
};

/**
 * Finetunes an ONNX classifier from elsewhere (`from`) by TRADES or adversarial training and writes it to `out`, the same
 * file but for its weights. Figures and checkpoints go to the folder `out`.run; with `resume` it goes on with that.
 *
 * @throws RequestError where model, images and `out` do not go together, RunError where a loss is not finite, Interrupted
 *   where the signal was aborted (what was done is saved)
 */
export const harden = defineVerb({ name: "harden", settings: hardenSettings, runFolder: (out) => `${out}.run` }, run);
