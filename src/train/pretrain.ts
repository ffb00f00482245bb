/** Pretraining of an encoder without labels: AdvCL (Fan et al. 2021) and its rivals. */
import { apDpeTasks } from "../../graphs/methods/ap-dpe.ts";
import type { NamedMethod } from "../../graphs/methods/index.ts";
import { encoderName } from "../../graphs/nn/encoder.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Ranks } from "../../graphs/ops/ranks.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { checkDataset, type Dataset, type DatasetOptions, loadDataset } from "../data/dataset.ts";
import { datasetFingerprint } from "../data/digest.ts";
import { createLoader } from "../data/loader.ts";
import { checkPseudoLabels, type PseudoLabels, readPseudoLabels } from "../data/pseudo-labels.ts";
import type { Collective } from "../distributed/collective.ts";
import { joinRanks, ranksText, sharedBatch, shareOf } from "../distributed/ranks.ts";
import type { Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { percent } from "../evaluate/accuracy.ts";
import { createExtractor, knnAccuracy } from "../evaluate/knn.ts";
import { collapseWarning, featureSpread } from "../evaluate/spread.ts";
import { chanceOf } from "../models/chance.ts";
import { loadPlugins, pickNamed } from "../plugins/plugins.ts";
import { writeReport } from "../report/write.ts";
import { loadRun, type Network, networkDefaultsOf, networkRecord, shapeOf } from "../runs/network.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import { nearestName } from "../settings/resolve.ts";
import type { Resolved } from "../settings/spec.ts";
import { checkConditions, type Judged, judged, parseConditions } from "../verbs/conditions.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { partOf, partsText } from "./accumulate.ts";
import { trainingEngine } from "./engine.ts";
import { checkOptions, feedOf, rateOf, teacherState } from "./feeds.ts";
import { type Extremes, figuresOf, measuredBy, readExtremes } from "./figures.ts";
import { train } from "./loop.ts";
import { type PortraitOptions, writePortrait } from "./portrait.ts";
import { pretrainPresets, pretrainSettings } from "./pretrain-settings.ts";
import { beginningOf, networkDefaultsFrom } from "./start.ts";

type Settings = Resolved<typeof pretrainSettings>;

/** What a pretraining ends with. */
export interface PretrainResult extends Partial<Extremes>, Judged {
  /** The run folder. */
  readonly out: string;
  /** Steps in all, those before a resume included. */
  readonly steps: number;
  readonly epochs: number;
  /** Figures of the last step and evaluation, by name: `loss`, `knnAccuracy`, … */
  readonly metrics: Readonly<Record<string, number>>;
  /** Seconds that the engine waited for data. */
  readonly waitSeconds: number;
}

/** The dataset that is asked for, without its part. */
const imagesOf = (
  { dataset, data, size, seed, testShare, skipBroken }: Settings,
  { warn }: VerbContext,
): Omit<DatasetOptions, "split"> => ({
  name: dataset,
  seed,
  testShare,
  skipBroken,
  warn,
  ...(data !== undefined && { data }),
  ...(size > 0 && { size }),
});

const loadTraining = async (settings: Settings, context: VerbContext): Promise<Dataset> => {
  const { split, limit, batch } = settings;
  const dataset = await loadDataset({ ...imagesOf(settings, context), ...(limit > 0 && { limit }), split });
  const { height, width, count } = dataset;
  if (height !== width) throw new RequestError(`images are ${width}×${height}; give --size to make them square`);
  if (count < batch)
    throw new RequestError(`the dataset has ${count} images, fewer than a batch of ${batch}; lower --batch`);
  return dataset;
};

/** The method, ours or a plugin's, and whence the plugins are. */
const methodOf = async ({ method, plugin }: Pick<Settings, "method" | "plugin">) => {
  const { methods, files } = await loadPlugins(plugin);
  return { method: pickNamed("method", method, methods), plugins: files };
};

const networkOf = (settings: Settings, { branches, evaluatedBranch }: NamedMethod, size: number): Network => ({
  ...shapeOf(settings, size),
  size,
  branches,
  evaluatedBranch,
});

const stepOf = (settings: Settings, method: NamedMethod, network: Network, ranks: Ranks | undefined): Step => {
  const tasks = apDpeTasks.filter((task) => settings.tasks.includes(task));
  if (tasks.length === 0 || tasks.length < settings.tasks.length) {
    const [unknown = ""] = settings.tasks.filter((name) => !apDpeTasks.some((task) => task === name));
    const nearest = nearestName(unknown, apDpeTasks);
    const remedy = nearest === undefined ? "" : `; did you mean ${nearest}?`;
    throw new RequestError(`tasks ${settings.tasks.join(", ")}: give some of ${apDpeTasks.join(", ")}${remedy}`);
  }
  const radius = settings.highFrequency ? settings.radius : 0;
  // Options of a method that are no settings are as in its paper.
  return method.build({ ...method.paper, ...settings, ...network, tasks, radius, ranks });
};

const labelsFor = async (
  { pseudoLabels: path, clusters }: Settings,
  dataset: Dataset,
  { warn }: VerbContext,
): Promise<PseudoLabels | undefined> => {
  if (clusters.length === 0) return undefined;
  if (path === undefined)
    throw new RequestError(
      `clusters ${clusters.join(", ")} need --pseudo-labels FILE (make one with advcl cluster); or train without them: --no-clusters`,
    );
  const labels = await readPseudoLabels(path);
  checkPseudoLabels(labels, dataset, clusters, warn);
  return labels;
};

/** What DeACL's student starts beside: the weights of its frozen teacher, as inputs of the step. */
const teacherFor = async (
  { teacher }: Settings,
  { name: method, given }: NamedMethod,
  network: Network,
  context: VerbContext,
): Promise<Map<string, Tensor> | undefined> => {
  if (given === undefined) return undefined;
  if (teacher === undefined)
    throw new RequestError(`${method} needs --teacher RUN: a run of pretrain --method simclr with the same network`);
  const found = await loadRun(teacher, context.warn);
  const shape = ({ arch = "resnet", depth, width, stem, branches }: Network) =>
    JSON.stringify([arch, depth, width, stem, branches ?? null]);
  if (found.network.normalisation !== undefined)
    throw new RequestError(
      `the teacher in ${teacher} normalises its pixels and the student would not; give a run of pretrain --method simclr`,
    );
  if (shape(found.network) !== shape(network) || !found.tensors.has("head_proj.fc3.weight"))
    throw new RequestError(
      `the teacher in ${teacher} is not a simclr network like ${encoderName(network)} of width ${network.width}; give one, or set --arch, --depth and --width to its own`,
    );
  return teacherState(found.tensors);
};

/** The test images that kNN accuracy asks for; none, said so, where there are none. Looked for before any image is decoded. */
const testImagesOf = async (settings: Settings, context: VerbContext): Promise<DatasetOptions | undefined> => {
  await checkDataset({ ...imagesOf(settings, context), split: settings.split });
  if (settings.knnEvery === 0) return undefined;
  const test = { ...imagesOf(settings, context), split: "test" } as const;
  try {
    await checkDataset(test);
    return test;
  } catch (error) {
    context.warn(`kNN accuracy is not measured: ${(error as Error).message}`);
    return undefined;
  }
};

/** How good features are: kNN accuracy of the test images in a bank of the training images, and how they are spread; nothing where there are no such images or no labels. */
const createKnn = async (
  engine: Engine,
  network: Network,
  bank: Dataset,
  test: DatasetOptions | undefined,
  ranks: Collective,
) => {
  if (bank.labels === undefined || test === undefined)
    return { figures: async () => ({}), chance: 0, release: async () => {} };
  const { labels } = bank;
  const queries = await loadDataset(test);
  const extractor = await createExtractor(engine, network, network.evaluatedBranch);
  return {
    figures: async (weights: ReadonlyMap<string, Tensor>) => {
      const known = { features: await extractor.extract(bank, weights, ranks), labels };
      const features = await extractor.extract(queries, weights, ranks);
      const asked = { features, labels: queries.labels ?? new Int32Array() };
      const accuracy = await knnAccuracy(engine, known, asked, bank.classes.length, ranks);
      return { knnAccuracy: accuracy, ...featureSpread(known.features) };
    },
    chance: chanceOf(queries.labels ?? new Int32Array()),
    release: () => extractor.release(),
  };
};

/** What the loop is told of learning rates, other scalars and figures after an epoch. */
const schedulesOf = (settings: Settings, method: NamedMethod, stepsPerEpoch: number) => {
  const { scalars } = feedOf(method);
  const { epochs } = settings;
  return {
    rate: rateOf(settings, stepsPerEpoch),
    ...(scalars && {
      scalars: (epoch: number, at: number) => scalars(settings, epoch, (epoch - 1 + at / stepsPerEpoch) / epochs),
    }),
  };
};

/** Warns where features of the end tell the classes apart no better than chance. */
const warnOfChance = (accuracy: number | undefined, chance: number, out: string, { warn }: VerbContext): void => {
  if (accuracy === undefined || accuracy > chance || chance >= 1) return;
  warn(
    `the features of ${out} tell classes apart no better than chance (kNN accuracy ${percent(accuracy)}; chance gives up to ${percent(chance)}): train longer (--epochs), on more images, or at another --lr`,
  );
};

/** Steps from which on features are expected to tell images apart. */
const LEARNING = 100;

/** Warns where features of the end are hardly told apart. */
const warnOfCollapse = ({ steps, metrics }: PretrainResult, { warn }: VerbContext): void => {
  const { participationRatio, meanCosine } = metrics;
  if (steps < LEARNING || participationRatio === undefined || meanCosine === undefined) return;
  const warning = collapseWarning({ participationRatio, meanCosine });
  if (warning !== undefined) warn(warning);
};

const printEnd = ({ out, steps, metrics, waitSeconds }: PretrainResult, context: VerbContext): void => {
  const figures = Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
  context.print(`${out}: ${steps} steps, ${figures.join(", ")}`);
  context.log(`the engine waited ${waitSeconds.toFixed(1)} s for data in all`);
};

/** The report with its pictures; a run whose training is done does not fail for want of these. */
const leaveReport = async ({
  settings,
  method,
  context,
  folder: { path },
  ...given
}: Pick<PortraitOptions, "engine" | "network" | "dataset" | "pseudoLabels"> & {
  readonly settings: Settings;
  readonly method: NamedMethod;
  readonly context: VerbContext;
  readonly folder: RunFolder;
}): Promise<void> => {
  const { seed, eps, radius } = settings;
  try {
    const { tensors: weights } = await loadRun(path, context.warn);
    const highFrequency = settings.highFrequency && method.options.includes("radius");
    const inputs = feedOf(method).inputs(settings, 1);
    await writePortrait(path, { ...given, weights, inputs, seed, eps, radius, highFrequency });
  } catch (error) {
    context.warn(`the report of ${path} has no pictures: ${error instanceof Error ? error.message : error}`);
  }
  await writeReport(path);
};

const run = async (settings: Settings, context: VerbContext): Promise<PretrainResult> => {
  const { seed, batch, epochs, clusters, saveEvery, stepsPerRun, knnEvery, accumulate } = settings;
  const conditions = parseConditions(settings);
  const { method, plugins } = await methodOf(settings);
  checkOptions(method, settings);
  const test = await testImagesOf(settings, context);
  const dataset = await loadTraining(settings, context);
  const pseudoLabels = await labelsFor(settings, dataset, context);
  const collective = await joinRanks(settings);
  const { ranks, spoken } = sharedBatch(collective, settings);
  const { engine, target } = await trainingEngine(settings, context, collective, spoken);
  const network = networkOf(settings, method, dataset.height);
  const step = stepOf({ ...settings, batch: partOf(shareOf(batch, collective), accumulate) }, method, network, ranks);
  const knnNames =
    test !== undefined && dataset.labels !== undefined ? ["knnAccuracy", "participationRatio", "meanCosine"] : [];
  checkConditions(conditions, { followed: [...measuredBy(step), ...knnNames] });
  const teacher = await teacherFor(settings, method, network, context);
  const initial = new Map([...((await beginningOf(settings, step, network, context)) ?? []), ...(teacher ?? [])]);
  const loader = createLoader({
    dataset,
    batch,
    seed,
    workers: settings.workers,
    inputs: (epoch) => feedOf(method).inputs(settings, epoch),
    dropLast: true,
    share: collective,
    ...(pseudoLabels && { pseudoLabels }),
  });
  const folder = await context.openRun({
    ...{ collective, target },
    basis: { images: datasetFingerprint(dataset), stepsPerEpoch: loader.stepsPerEpoch, plugins },
  });
  const knn = await createKnn(engine, network, dataset, test, collective);
  context.log(
    `${method.title}: ${encoderName(network)} width ${network.width}, ${dataset.count} images of ${network.size}×${network.size}, ` +
      `${loader.stepsPerEpoch} steps of ${batch} an epoch${partsText(accumulate)}, ${ranksText(ranks, collective)}on ${engine.provider} (${engine.reason})`,
  );
  try {
    const trained = await train({
      ...{ step, engine, loader, run: folder, reporter: context, signal: context.signal, seed, epochs, batch },
      ...{ collective, rankCheck: settings.rankCheck, stepsPerRun, accumulate, saveEvery },
      ...schedulesOf(settings, method, loader.stepsPerEpoch),
      record: { network: networkRecord(network), method: method.name, clusters },
      replay: (accumulate ?? 1) === 1, // advcl step takes a batch whole
      initial,
      evaluate: async (epoch, weights) =>
        knnEvery > 0 && (epoch % knnEvery === 0 || epoch === epochs) ? knn.figures(weights) : {},
    });
    const { steps, metrics, waitSeconds } = trained;
    if (trained.interrupted) throw new Interrupted(`stopped after step ${steps}; go on with --resume`);
    const result = { out: folder.path, steps, epochs, metrics, waitSeconds };
    if (collective.rank === 0)
      await leaveReport({ settings, method, context, folder, engine, network, dataset, pseudoLabels });
    printEnd(result, context);
    warnOfChance(metrics.knnAccuracy, knn.chance, folder.path, context);
    warnOfCollapse(result, context);
    if (collective.size > 1) context.log(`${collective.seconds.toFixed(1)} s of communication in all`);
    if (collective.rank > 0) return result;
    const extremes = await readExtremes(folder.path, metrics);
    return { ...result, ...extremes, ...judged(conditions, figuresOf(metrics, extremes)) };
  } finally {
    await knn.release();
    await loader.close();
    await folder.close();
  }
};

/**
 * Pretrains an encoder into a run folder (`out`); with `resume` goes on with the run that is there.
 *
 * @throws RequestError where the request is wrong, RunError where a loss is not finite, Interrupted where the signal was
 *   aborted (what was done is saved)
 */
export const pretrain = defineVerb(
  {
    name: "pretrain",
    settings: pretrainSettings,
    presets: pretrainPresets,
    complete: async ({ method, arch, plugin = [], from }) => ({
      ...(method && (feedOf((await methodOf({ method, plugin })).method).paper as Partial<Settings>)),
      ...(from === undefined ? networkDefaultsOf(arch) : await networkDefaultsFrom(from)),
    }),
  },
  run,
);
