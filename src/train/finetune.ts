/** Finetuning of an encoder to a classifier, and training of one from the start. */
import { join } from "node:path";
import { encoderName } from "../../graphs/nn/encoder.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { finetuneStep } from "../../graphs/steps/finetune.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { datasetFingerprint } from "../data/digest.ts";
import { createLoader } from "../data/loader.ts";
import { normalStart, uniformStart, weakView } from "../data/view.ts";
import type { Collective } from "../distributed/collective.ts";
import { joinRanks, ranksText, sharedBatch, shareOf } from "../distributed/ranks.ts";
import type { Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { createJudge, percent } from "../evaluate/accuracy.ts";
import { writeSealed } from "../files/seal.ts";
import { chanceOf } from "../models/chance.ts";
import { loadPlugins, pickNamed } from "../plugins/plugins.ts";
import { resultsFile, writeReport } from "../report/write.ts";
import { chosenWeightsOf, type Network, networkRecord, shapeOf } from "../runs/network.ts";
import { type RunFolder, readRunConfig } from "../runs/run-folder.ts";
import {
  type Condition,
  checkConditions,
  type FigureNames,
  type Figures,
  type Judged,
  judged,
  lastFigures,
  parseConditions,
} from "../verbs/conditions.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { partOf, partsText } from "./accumulate.ts";
import { originOf, startOf } from "./encoder.ts";
import { trainingEngine } from "./engine.ts";
import { type Extremes, figuresOf, measuredBy, readExtremes } from "./figures.ts";
import { type FinetuningImages, loadFinetuningImages } from "./finetune-data.ts";
import {
  completeFinetuning,
  type Finetuning,
  finetunePresets,
  finetuneSettings,
  type GivenFinetuning,
  type SchemeName,
  schemes,
  wholeFinetuning,
} from "./finetune-settings.ts";
import { type Trained, train } from "./loop.ts";
import { stepRate } from "./schedule.ts";

/** What a finetuning ends with. */
export interface FinetuneResult extends Partial<Extremes>, Judged {
  /** The run folder. */
  readonly out: string;
  readonly scheme: SchemeName;
  /** Steps in all, those before a resume included. */
  readonly steps: number;
  readonly epochs: number;
  /** The epoch that stands: the last, or the best on held-out images. */
  readonly epoch: number;
  /** The epoch after which `patience` ended training, before `epochs`. */
  readonly stoppedAfter?: number;
  /** None where pseudo-labels were learned. */
  readonly testImages?: number;
  /** Share of the test images that are right. */
  readonly accuracy?: number;
  /** The same under PGD-20, with `evaluate`. */
  readonly robustAccuracy?: number;
  /** Figures of the last step and validation, by name. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Seconds that the engine waited for data. */
  readonly waitSeconds: number;
}

/** Refuses settings of validation without images to validate on. */
const checkValidation = ({ validation, chooseBy, validationSteps, patience }: GivenFinetuning): void => {
  for (const [name, value] of [
    ["choose-by", chooseBy],
    ["validation-steps", validationSteps],
    ["patience", patience],
  ])
    if (validation === 0 && value !== undefined)
      throw new RequestError(`--${name} is of --validation N, the number of images to hold out; give both or neither`);
};

const freshNetwork = (settings: Finetuning, size: number): Network => ({
  ...shapeOf(settings, size),
  size,
  branches: undefined,
  evaluatedBranch: "normal",
});

const loaderOf = (
  { scheme, batch, seed, workers, eps }: Finetuning,
  { training }: FinetuningImages,
  share: Collective,
) => {
  const { objective } = schemes[scheme];
  const start = objective === "trades" ? normalStart() : uniformStart(eps);
  return createLoader({
    dataset: training,
    batch,
    seed,
    workers,
    inputs: { clean: weakView, label: { kind: "label" }, ...(objective !== "clean" && { start }) },
    dropLast: true,
    share,
  });
};

/** What accuracies are measured of: the classifier of a network and its encoder, if that stays as it is. */
type Measured = Omit<Parameters<typeof createJudge>[1], "batch" | "attackSteps">;

/** Accuracies on the held-out images after each epoch, and the one that chooses the epoch. */
const createValidation = async (
  engine: Engine,
  measured: Measured,
  { chooseBy, validationSteps }: Finetuning,
  { validation }: FinetuningImages,
  ranks: Collective,
) => {
  if (validation === undefined) return undefined;
  const batch = Math.min(128, validation.count);
  const judge = await createJudge(engine, { ...measured, batch, attackSteps: validationSteps });
  return {
    chooseBy: chooseBy === "robust" && validationSteps > 0 ? "robustValidation" : "validation",
    evaluate: async (epoch: number, weights: ReadonlyMap<string, Tensor>): Promise<Record<string, number>> => {
      if (epoch === 0) return {};
      const { accuracy, robustAccuracy } = await judge.measure(validation, weights, ranks);
      return { validation: accuracy, ...(robustAccuracy !== undefined && { robustValidation: robustAccuracy }) };
    },
    release: () => judge.release(),
  };
};

type Common = Omit<FinetuneResult, "testImages" | "accuracy" | "robustAccuracy">;

/** Whether the encoder came by advcl import, whose pixels may have been normalised; no where its run can't be read any more. */
const isImported = async (from = "none"): Promise<boolean> => {
  const config = from === "none" ? undefined : await readRunConfig(from).catch(() => undefined);
  return config?.command === "import";
};

/** Tests the classifier, writes results and report. */
const finish = async (
  { evaluate, from }: Finetuning,
  { test, validation }: FinetuningImages,
  engine: Engine,
  measured: Measured,
  { tensors }: Trained,
  common: Common,
  ranks: Collective,
  context: VerbContext,
): Promise<FinetuneResult> => {
  const { out, steps, epoch, metrics } = common;
  if (test === undefined) {
    if (ranks.rank > 0) return common;
    const figures = Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
    await writeReport(out);
    context.print(`${out}: ${steps} steps on pseudo-labels, ${figures.join(", ")}`);
    return common;
  }
  const options = { ...measured, batch: Math.min(128, test.count), attackSteps: evaluate ? 20 : 0 };
  const judge = await createJudge(engine, options);
  const { accuracy, robustAccuracy } = await judge.measure(test, chosenWeightsOf(tensors), ranks);
  await judge.release();
  const accuracies = { accuracy, ...(robustAccuracy !== undefined && { robustAccuracy }) };
  const { metrics: _, waitSeconds, ...first } = common;
  const result = { ...first, testImages: test.count, ...accuracies, metrics, waitSeconds };
  if (ranks.rank > 0) return result;
  await writeSealed(join(out, resultsFile), accuracies);
  await writeReport(out);
  const chance = chanceOf(test.labels as Int32Array);
  if (accuracy <= chance && chance < 1) {
    const imported = (await isImported(from))
      ? "; the encoder was imported: check that advcl import got the --mean and --std that it was trained with"
      : "";
    context.warn(
      `${out} is no better than chance on test images (${percent(accuracy)}; chance gives up to ${percent(chance)}): train it longer (--epochs), or at another --lr${imported}`,
    );
  }
  const choice = validation === undefined ? "" : ` (the best on ${validation.count} held-out images)`;
  const robust = robustAccuracy === undefined ? "" : `, under PGD-20 ${percent(robustAccuracy)}`;
  context.print(
    `${out}: ${steps} steps, epoch ${epoch}${choice}; accuracy on ${test.count} test images ${percent(accuracy)}${robust}`,
  );
  return result;
};

const commonResult = (run: RunFolder, { scheme, epochs }: Finetuning, trained: Trained): Common => {
  const { steps, epoch, stoppedAfter, metrics, waitSeconds } = trained;
  const stopped = stoppedAfter !== undefined && { stoppedAfter };
  return { out: run.path, scheme, steps, epochs, epoch, ...stopped, metrics, waitSeconds };
};

/** Figures that a finetuning will have, for conditions to be checked by. */
const figureNames = (step: Step, { evaluate, validationSteps }: Finetuning, images: FinetuningImages): FigureNames => ({
  followed: [
    ...measuredBy(step),
    ...(images.validation === undefined ? [] : ["validation", ...(validationSteps > 0 ? ["robustValidation"] : [])]),
  ],
  final: images.test === undefined ? [] : ["accuracy", ...(evaluate ? ["robustAccuracy"] : [])],
});

/** With first and best values, and how conditions came out. */
const withConditions = async (
  conditions: readonly Condition[],
  result: FinetuneResult | Common,
): Promise<FinetuneResult> => {
  const { out, metrics } = result;
  const { accuracy, robustAccuracy }: Partial<FinetuneResult> = result;
  const extremes = await readExtremes(out, metrics);
  const figures: Figures = { ...figuresOf(metrics, extremes), ...lastFigures({ accuracy, robustAccuracy }) };
  return { ...result, ...extremes, ...judged(conditions, figures) };
};

const run = async (given: GivenFinetuning, context: VerbContext): Promise<FinetuneResult> => {
  checkValidation(given);
  const conditions = parseConditions(given);
  const settings = wholeFinetuning(given);
  const { scheme, seed, batch, epochs, eps, stepSize, saveEvery } = settings;
  const { objective, headOnly } = schemes[scheme];
  const plugins = await loadPlugins(given.plugin);
  const loss = given.loss === undefined ? undefined : pickNamed("loss", given.loss, plugins.losses);
  const origin = await originOf(given, context);
  const images = await loadFinetuningImages(settings, origin?.network.size ?? given.size, context.warn);
  const network = origin?.network ?? freshNetwork(settings, images.side);
  const branch = network.evaluatedBranch;
  const collective = await joinRanks(given);
  // Losses of finetuning set no image against another.
  const { ranks, spoken } = sharedBatch(collective, { ...given, negatives: "local" });
  const { engine, target } = await trainingEngine(settings, context, collective, spoken);
  const classes = images.classes.length;
  const start = origin && startOf(origin, headOnly, images.classes);
  const model = { ...network, classes, branch, encoder: headOnly ? origin?.tensors : undefined };
  const step = finetuneStep({
    ...settings,
    ...model,
    objective,
    loss,
    batch: partOf(shareOf(batch, collective), settings.accumulate),
    ranks,
  });
  checkConditions(conditions, figureNames(step, settings, images));
  const basis = {
    images: datasetFingerprint(images.training),
    stepsPerEpoch: Math.floor(images.training.count / batch),
    plugins: plugins.files,
  };
  const folder = await context.openRun({ collective, basis, target });
  const loader = loaderOf(settings, images, collective);
  const measured = { ...model, eps, stepSize, seed };
  const validation = await createValidation(engine, measured, settings, images, collective);
  context.log(
    `${scheme}: ${encoderName(network)} width ${network.width}, branch ${network.branches ? branch : "only one"}, ` +
      `${images.training.count} images of ${images.name} in ${classes} classes, ${loader.stepsPerEpoch} steps of ${batch} an epoch${partsText(settings.accumulate)}, ` +
      `${ranksText(ranks, collective)}on ${engine.provider} (${engine.reason})`,
  );
  try {
    const trained = await train({
      ...{ step, engine, loader, run: folder, reporter: context, signal: context.signal, seed, epochs, batch },
      record: { network: networkRecord(network), classes: images.classes, scheme },
      rate: (epoch) => stepRate(settings.lr, settings.milestones, epoch),
      ...{ collective, rankCheck: given.rankCheck, saveEvery, accumulate: settings.accumulate },
      ...start,
      ...(validation && { chooseBy: validation.chooseBy, evaluate: validation.evaluate, patience: settings.patience }),
    });
    if (trained.interrupted) throw new Interrupted(`stopped after step ${trained.steps}; go on with --resume`);
    const common = commonResult(folder, settings, trained);
    const finished = await finish(settings, images, engine, measured, trained, common, collective, context);
    // The first rank has the figures of every step on its disk.
    return collective.rank > 0 ? finished : await withConditions(conditions, finished);
  } finally {
    await validation?.release();
    await loader.close();
    await folder.close();
  }
};

/**
 * Finetunes the encoder of a run (`from`), or trains a classifier from the start, into a run folder (`out`).
 *
 * @throws RequestError where the request is wrong, RunError where a loss is not finite, Interrupted where the signal was
 *   aborted (what was done is saved)
 */
export const finetune = defineVerb(
  { name: "finetune", settings: finetuneSettings, presets: finetunePresets, complete: completeFinetuning },
  run,
);
