/** Accuracy of a classifier on clean, attacked and corrupted images. */
import { deserialize, serialize } from "node:v8";
import { type Dataset, type DatasetOptions, loadDataset } from "../data/dataset.ts";
import { datasetFingerprint } from "../data/digest.ts";
import type { Collective } from "../distributed/collective.ts";
import { joinRanks } from "../distributed/ranks.ts";
import { chooseEngine, type Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { chanceWarning } from "../models/chance.ts";
import { type LoadedClassifier, type OpenedClassifier, openClassifier } from "../models/classifier.ts";
import { type Fitted, fitDataset } from "../models/fit.ts";
import { imageAt } from "../models/images.ts";
import { loadPlugins, type Plugins } from "../plugins/plugins.ts";
import { writeReport } from "../report/write.ts";
import {
  type Condition,
  checkConditions,
  type Judged,
  judged,
  lastFigures,
  parseConditions,
} from "../verbs/conditions.ts";
import { defineVerb, Interrupted, type VerbContext } from "../verbs/verb.ts";
import { type AttackSpec, checkClasses, parseAttacks } from "./attack-list.ts";
import { asIsOracle } from "./attacks/as-is-oracle.ts";
import { printRadius } from "./attacks/ball.ts";
import type { Oracle } from "./attacks/oracle.ts";
import { parallelOracle } from "./attacks/parallel-oracle.ts";
import { openOracle, programsOf } from "./attacks/programs.ts";
import { openReplica, sharedModels } from "./attacks/replica.ts";
import {
  type CorruptionFigures,
  type Corruptions,
  evaluateCorruptions,
  findCorruptions,
  readCorruptions,
} from "./corruptions.ts";
import { evaluateSettings, type Settings } from "./evaluate-settings.ts";
import { memoryLog, openEvaluationLog } from "./evaluation-log.ts";
import { evaluateRadii, type RadiiResult, type RadiusFigures, sortedRadii } from "./radii.ts";
import {
  curveTable,
  figuresTable,
  firstRight,
  type NamedImages,
  type PlainFigures,
  plainFigures,
  writePictures,
  writeResults,
} from "./results.ts";
import type { ChunkRecord, EvaluationLog, EvaluationProgress } from "./types.ts";

export interface EvaluateResult extends Judged {
  /** The file or run folder. */
  readonly model: string;
  /** SHA-256 of it. */
  readonly digest: string;
  readonly dataset: string;
  readonly count: number;
  /** Names of the classes, in the order of their numbers in `images.jsonl`; empty where the images have none. */
  readonly classes: readonly string[];
  readonly norm: "linf" | "l2";
  /** The largest of the radii. */
  readonly eps: number;
  readonly seed: number;
  /** At that radius by attack, in the order of the request. */
  readonly attacks: Readonly<Record<string, PlainFigures>>;
  /** Accuracies at each radius, where several were asked for. */
  readonly curve?: readonly RadiusFigures[];
  /** Whose gradients attacks followed, where not the model's own. */
  readonly gradients?: "float32 shadow";
  readonly corruptions?: CorruptionFigures;
  /** Signs that attacks cannot judge the model. */
  readonly warnings: readonly string[];
}

/** Radius that the field reports, by norm. */
const usualEps = { linf: 8 / 255, l2: 0.5 } as const;

/** The radii asked for, from the smallest on. */
const radiiOf = ({ eps, norm }: Settings): readonly number[] => sortedRadii(eps ?? [usualEps[norm]]);

const largestRadius = (settings: Settings): number => radiiOf(settings).at(-1)!;

/** The dataset of the evaluation: as asked for, or the one that the model was trained on. */
const datasetOf = (
  { source, trainedOn }: OpenedClassifier,
  { dataset, data, testShare = trainedOn?.testShare, skipBroken = trainedOn?.skipBroken }: Settings,
  { log }: Pick<VerbContext, "log">,
): Pick<DatasetOptions, "name" | "data" | "testShare" | "skipBroken"> => {
  const rules = { testShare, skipBroken };
  if (dataset !== undefined) return { name: dataset, data, ...rules };
  if (trainedOn === undefined) return { name: "cifar10", data, ...rules };
  log(`images of ${trainedOn.dataset}, which ${source} was trained on; --dataset takes others`);
  return { name: trainedOn.dataset, data: data ?? trainedOn.data, ...rules };
};

/** What is asked for, checked as far as it can be before anything is read. */
const checkRequest = (
  settings: Settings,
  plugins: Plugins,
): { attacks: readonly AttackSpec[]; corruptions: string | undefined; conditions: readonly Condition[] } => {
  const { corruptionsData, std, saveAdversarial, resume, out } = settings;
  if (settings.attacks.includes("corruptions") && corruptionsData === undefined)
    throw new RequestError("corruptions needs --corruptions-data, the folder of CIFAR-10-C's .npy files");
  const attacks = parseAttacks(
    settings.attacks.filter((name) => name !== "corruptions"),
    plugins,
  );
  if (std.some((s) => s <= 0)) throw new RequestError("--std must be above 0");
  if (saveAdversarial && out === undefined)
    throw new RequestError("--save-adversarial needs --out, the folder to write to");
  if (resume && out === undefined)
    throw new RequestError("--resume needs --out, the folder of the evaluation to go on with");
  const conditions = parseConditions(settings);
  const names = attacks.map(({ name }) => name);
  checkConditions(conditions, { final: [...names, ...(corruptionsData === undefined ? [] : ["corruptions"])] });
  return { attacks, corruptions: corruptionsData, conditions };
};

/** The images, with labels that number the model's classes. */
const loadImages = async (
  settings: Settings,
  opened: OpenedClassifier,
  context: Pick<VerbContext, "warn" | "log">,
): Promise<Fitted> => {
  const { split, limit, seed, matchClasses } = settings;
  const { warn } = context;
  const chosen = datasetOf(opened, settings, context);
  const dataset = await loadDataset({ ...chosen, split, limit, size: opened.image[1], seed, warn });
  return fitDataset(opened, dataset, { matchClasses, warn });
};

const attackedImages = (dataset: Fitted["dataset"], { image }: LoadedClassifier): NamedImages => {
  const { count, labels, index, classes } = dataset;
  return { count, shape: image, labels, index, classNames: classes, pixels: (i) => imageAt(dataset, i) };
};

/** Threads that each attack a share of a batch: enough to use small machines well, few enough for their memory. */
const threadsFor = (batch: number, threads: number): number => Math.min(threads, 4, Math.ceil(batch / 8));

/** The classifier as attacks see it, in threads of its own where that is faster. */
const openModel = async (
  { image, fixedBatch, build, asIs }: LoadedClassifier,
  { batch: wanted, threads }: Settings,
  count: number,
  engine: Engine,
  losses: Plugins["losses"],
): Promise<Oracle> => {
  const batch = fixedBatch ?? Math.min(wanted, count);
  const fixed = fixedBatch !== undefined;
  const programs = { classifier: build, image, losses };
  const open = (batch: number, among?: number) =>
    openOracle({ ...programs, batch, fixed, load: (outputs) => engine.loadEvaluation(outputs, among) });
  if (asIs !== undefined)
    return asIsOracle(open(batch), await asIs({ ...engine.options, threads }), { image, batch, fixed });
  const parallel = !fixed && engine.provider === "cpu" ? threadsFor(batch, threads) : 1;
  if (parallel === 1) return open(batch);
  const share = Math.ceil(batch / parallel);
  // Sessions of the native engine run in threads of their own as it is.
  if (engine.name === "native")
    return parallelOracle(
      Array.from({ length: parallel }, () => open(share, parallel)),
      batch,
    );
  const outputsOf = programsOf(programs);
  const model = sharedModels((program) => engine.evaluationModel(outputsOf(program)));
  const session = engine.evaluationOptions(parallel);
  const replicas = Array.from({ length: parallel }, () => openReplica({ image, batch: share, session, model }));
  return parallelOracle(replicas, batch);
};

/** A progress line in percent, and the update that moves it. */
const followProgress = (context: VerbContext) => {
  const line = context.progress({ steps: 1, unit: "%", atMost: true });
  let last = "";
  const progress = ({ stage, total, share, accuracy, images }: EvaluationProgress) => {
    if (stage !== last) context.log(`${stage}: ${total} images`);
    last = stage;
    line.update({ step: share, images, figures: { accuracy } });
  };
  return { line, progress };
};

interface Evaluated extends RadiiResult {
  readonly corruptions: CorruptionFigures | undefined;
}

interface Measuring {
  readonly oracle: Oracle;
  readonly images: NamedImages;
  readonly log: EvaluationLog;
  readonly model: LoadedClassifier;
  readonly ranks: Collective;
}

/** Runs attacks, then corruptions. */
const measure = async (
  settings: Settings,
  attacks: readonly AttackSpec[],
  corruptions: Corruptions | undefined,
  { oracle, images, log, model, ranks }: Measuring,
  context: VerbContext,
): Promise<Evaluated> => {
  const { norm, restarts, iterations, targets, queries, seed, out } = settings;
  const { signal } = context;
  const stopped = new Interrupted(out === undefined ? "stopped" : "stopped; go on with --resume");
  const attacking = followProgress(context);
  const radii = await evaluateRadii({
    ...{ oracle, images, attacks, log, signal, ranks, progress: attacking.progress, radii: radiiOf(settings) },
    ...(model.asIs && { gradients: "float32 shadow" as const }),
    settingsAt: (eps) => ({
      ...{ norm, eps, restarts, iterations, targets, queries, seed },
      stepSize: settings.stepSize ?? eps / 4,
    }),
  });
  attacking.line.stop();
  if (radii === undefined) throw stopped;
  if (corruptions === undefined) return { ...radii, corruptions };
  const scoring = followProgress(context);
  const options = { ...corruptions, oracle, size: model.image[1], log, signal, ranks, progress: scoring.progress };
  const figures = await evaluateCorruptions(options);
  scoring.line.stop();
  if (figures === undefined) throw stopped;
  return { ...radii, corruptions: figures };
};

/** With a warning where the model is no better than chance on clean images. */
const withChance = async (
  evaluated: Evaluated,
  classifier: LoadedClassifier,
  dataset: Fitted["dataset"],
  engine: Engine,
): Promise<Evaluated> => {
  const { rows, warnings } = evaluated.result;
  const right = rows.filter(({ brokenBy }) => brokenBy !== "clean").length;
  const warning = await chanceWarning(right / rows.length, classifier, dataset, engine);
  return warning === undefined
    ? evaluated
    : { ...evaluated, result: { ...evaluated.result, warnings: [...warnings, warning] } };
};

/** A log that holds on every rank what that of the first does. */
const sameLog = async (log: EvaluationLog, ranks: Collective): Promise<EvaluationLog> => {
  if (ranks.size === 1) return log;
  const told = await ranks.broadcast(ranks.rank === 0 ? serialize([...log.finished]) : new Uint8Array());
  return ranks.rank === 0 ? log : memoryLog(new Map(deserialize(told) as [string, ChunkRecord][]));
};

const summaryOf = (
  settings: Settings,
  { source, digest, asIs }: LoadedClassifier,
  { name, count, classes }: Dataset,
  { result, curve, corruptions }: Evaluated,
): EvaluateResult => ({
  model: source,
  digest,
  dataset: name,
  count,
  classes,
  norm: settings.norm,
  eps: largestRadius(settings),
  seed: settings.seed,
  attacks: Object.fromEntries(result.figures.map((figures) => [figures.attack, plainFigures(figures)])),
  ...(curve && { curve }),
  ...(asIs && { gradients: "float32 shadow" as const }),
  ...(corruptions && { corruptions }),
  warnings: result.warnings,
});

const run = async (settings: Settings, context: VerbContext): Promise<EvaluateResult> => {
  const plugins = await loadPlugins(settings.plugin);
  const request = checkRequest(settings, plugins);
  const { mean, std, size, branch, layout, output, norm, grid, saveAdversarial, out } = settings;
  const { warn } = context;
  const files = request.corruptions === undefined ? undefined : await findCorruptions(request.corruptions);
  const opened = await openClassifier(settings.model, { mean, std, size, branch, layout, output, warn });
  const { classifier, dataset, places } = await loadImages(settings, opened, context);
  checkClasses(request.attacks, classifier.classes);
  if (classifier.asIs !== undefined)
    warn(
      `${classifier.source} computes on integers: it is asked as it is, and attacks that need gradients follow those of its float32 shadow`,
    );
  const corruptions =
    files &&
    (await readCorruptions(files, { ...settings, classes: places?.length ?? dataset.classes.length, places, warn }));
  const images = attackedImages(dataset, classifier);
  const ranks = await joinRanks(settings);
  const engine = await chooseEngine({ ...settings, device: ranks.localRank });
  const oracle = await openModel(classifier, settings, images.count, engine, plugins.losses);
  const shown = firstRight(grid);
  const keeps = (i: number) => saveAdversarial || shown.has(i);
  const { digest, source, classes } = classifier;
  const basis = { images: datasetFingerprint(dataset), plugins: plugins.files };
  const folder = out === undefined ? undefined : await context.openRun({ collective: ranks, basis });
  const disk = folder && ranks.rank === 0 ? openEvaluationLog(folder, { images, digest, keeps }) : undefined;
  const log = await sameLog(disk === undefined ? memoryLog() : shown.watch(disk), ranks);
  const radius = radiiOf(settings)
    .map((eps) => printRadius(norm, eps))
    .join(", ");
  context.log(
    `${source}: ${classes} classes, ${images.count} ${settings.split} images of ${dataset.name}, ` +
      `${norm === "linf" ? "L-inf" : "L2"} radius ${radius}, on ${engine.provider} (${engine.reason})`,
  );
  try {
    const given = { oracle, images, log, model: classifier, ranks };
    const measured = await measure(settings, request.attacks, corruptions, given, context);
    const evaluated = await withChance(measured, classifier, dataset, engine);
    for (const warning of evaluated.result.warnings) warn(warning);
    context.print(figuresTable(evaluated.result.figures, evaluated.corruptions));
    if (evaluated.curve !== undefined) context.print(curveTable(evaluated.curve, (eps) => printRadius(norm, eps)));
    const summary = summaryOf(settings, classifier, dataset, evaluated);
    if (disk !== undefined && out !== undefined) {
      await writeResults(out, evaluated.result, summary);
      await writePictures({ out, grid, saveAdversarial }, classifier, images, evaluated.result, disk);
      await writeReport(out);
    }
    const accuracies = Object.entries(summary.attacks).map(([attack, { accuracy }]) => [attack, accuracy]);
    const figures = { ...Object.fromEntries(accuracies), corruptions: summary.corruptions?.accuracy };
    return { ...summary, ...judged(request.conditions, lastFigures(figures)) };
  } finally {
    await oracle.release();
  }
};

/**
 * Evaluates a run or any ONNX classifier. With `out` the results are files too, and a killed evaluation goes on with
 * `resume`.
 *
 * @throws RequestError where the request is wrong, Interrupted where the signal was aborted (finished batches are kept)
 */
export const evaluate = defineVerb({ name: "evaluate", settings: evaluateSettings }, run);
