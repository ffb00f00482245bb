import { join } from "node:path";
import { type Dataset, datasetNames, loadDataset, splits } from "../../data/dataset.ts";
import { chooseEngine, type Engine, targetRow } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import { type GridCell, writeAttackGrid } from "../../evaluate/attack-grid.ts";
import { printRadius } from "../../evaluate/attacks/ball.ts";
import { askModel, inLanes } from "../../evaluate/attacks/questions.ts";
import { type LoadedClassifier, loadClassifier } from "../../evaluate/classifier.ts";
import { type CorruptionFigures, evaluateCorruptions, findCorruptions } from "../../evaluate/corruptions.ts";
import {
  type AttackFigures,
  attackNames,
  checkClasses,
  type EvaluatedImages,
  type EvaluationLog,
  type EvaluationProgress,
  type EvaluationResult,
  evaluateRobustness,
} from "../../evaluate/evaluation.ts";
import { type DiskLog, memoryLog, openEvaluationLog } from "../../evaluate/evaluation-log.ts";
import { writeFileAtomic } from "../../files/atomic.ts";
import { writeReport } from "../../report/write.ts";
import { type Context, defineCommand } from "../command.ts";

/** Radius that the field reports, by norm. */
const usualEps = { linf: 8 / 255, l2: 0.5 } as const;

export const evaluate = defineCommand({
  name: "evaluate",
  summary: "accuracy of a classifier on clean, attacked and corrupted images",
  description:
    "Attacks: clean, fgsm, pgdN (pgd20), apgd-ce, apgd-dlr, apgd-t, fab-t, square, autoattack (its standard version), corruptions. Each runs on the images that the model gets right. Images are in [0, 1]. With --out the results are files too, and a killed evaluation goes on with --resume.",
  settings: {
    model: { type: "path", required: true, help: "an ONNX file, or a run folder of finetune", group: "Model" },
    branch: { type: "string", help: "batch-norm branch of a run (default: the run's own)", group: "Model" },
    size: {
      type: "integer",
      min: 1,
      max: 4096,
      help: "side of the images where the file leaves it open",
      group: "Model",
    },
    mean: { type: "numbers", default: [], help: "mean that the model expects to be subtracted", group: "Model" },
    std: { type: "numbers", default: [], help: "deviation to divide by", group: "Model" },
    dataset: { type: "enum", values: datasetNames, default: "cifar10", help: "which images", group: "Data" },
    data: { type: "path", help: "folder or archive of the dataset", group: "Data" },
    split: { type: "enum", values: splits, default: "test", help: "which part of it", group: "Data" },
    limit: { type: "integer", min: 1, help: "only the first so many images", group: "Data" },
    corruptionsData: { type: "path", help: "folder of CIFAR-10-C or -100-C .npy files", group: "Data" },
    attacks: {
      type: "strings",
      default: ["clean", "pgd20", "autoattack"],
      help: "what to run, in order",
      group: "Attack",
    },
    norm: { type: "enum", values: ["linf", "l2"], default: "linf", help: "of the perturbation", group: "Attack" },
    eps: { type: "number", min: 0, help: "radius of the ball (default 8/255 for linf, 0.5 for l2)", group: "Attack" },
    stepSize: { type: "number", min: 0, help: "of PGD (default eps/4)", group: "Attack" },
    restarts: { type: "integer", default: 1, min: 1, help: "runs of each attack from other starts", group: "Attack" },
    iterations: { type: "integer", default: 100, min: 1, help: "of APGD and FAB", group: "Attack" },
    targets: { type: "integer", default: 9, min: 1, help: "classes that targeted attacks aim at", group: "Attack" },
    queries: { type: "integer", default: 5000, min: 1, help: "of the Square attack", group: "Attack" },
    batch: { type: "integer", default: 128, min: 1, help: "images a run of the model", group: "Computing" },
    target: { ...targetRow, group: "Computing" },
    saveAdversarial: { type: "boolean", default: false, help: "keep all adversarial images (--out)", group: "Results" },
    grid: {
      type: "integer",
      default: 12,
      min: 0,
      max: 100,
      help: "images in the picture of attacks (--out)",
      group: "Results",
    },
    resume: { type: "boolean", default: false, help: "go on with the evaluation in --out", group: "Results" },
  },
  run: async (settings, context) => {
    const { warn } = context;
    const corrupted = settings.attacks.includes("corruptions") || settings.corruptionsData !== undefined;
    if (corrupted && settings.corruptionsData === undefined)
      throw new RequestError("corruptions needs --corruptions-data, the folder of CIFAR-10-C's .npy files");
    const attacks = attackNames(settings.attacks.filter((name) => name !== "corruptions"));
    const { mean, std, size, branch } = settings;
    if (std.some((s) => s <= 0)) throw new RequestError("--std must be above 0");
    if (settings.saveAdversarial && settings.out === undefined)
      throw new RequestError("--save-adversarial needs --out, the folder to write to");
    if (settings.resume && settings.out === undefined)
      throw new RequestError("--resume needs --out, the folder of the evaluation to go on with");
    const corruptions = corrupted ? await findCorruptions(settings.corruptionsData as string) : undefined;
    const classifier = await loadClassifier(settings.model, { mean, std, size, branch, warn });
    checkClasses(attacks, classifier.classes);
    const images = await loadImages(settings, classifier);
    const { norm, restarts, iterations, targets, queries, seed } = settings;
    const eps = settings.eps ?? usualEps[norm];
    const engine = await chooseEngine(settings);
    const { image, fixedBatch, build } = classifier;
    const batch = fixedBatch ?? Math.min(settings.batch, images.count);
    const asking = (share: number, load: Engine["loadEvaluation"]) =>
      askModel({ classifier: build, image, batch: share, fixed: fixedBatch !== undefined, load });
    const lanes = fixedBatch === undefined && engine.provider === "cpu" ? lanesFor(batch, settings.threads) : 1;
    const threads = lanes > 1 ? engine.lanes(lanes) : [];
    const questions =
      lanes > 1
        ? inLanes(
            threads.map((lane) => asking(Math.ceil(batch / lanes), lane.loadEvaluation)),
            batch,
          )
        : asking(batch, engine.loadEvaluation);
    const shown = firstRight(settings.grid);
    const disk = await openLog(settings, context, classifier, images, (i) => settings.saveAdversarial || shown.has(i));
    const log = disk === undefined ? memoryLog() : shown.watch(disk);
    context.log(
      `${classifier.source}: ${classifier.classes} classes, ${images.count} ${settings.split} images of ${settings.dataset}, ` +
        `${norm === "linf" ? "L-inf" : "L2"} radius ${printRadius(norm, eps)}, on ${engine.provider} (${engine.reason})`,
    );
    const follow = () => {
      const line = context.progress({ steps: 1, unit: "%" });
      let last = "";
      const progress = ({ stage, of, share, accuracy, images: answered }: EvaluationProgress) => {
        if (stage !== last) context.log(`${stage}: ${of} images`);
        last = stage;
        line.update({ step: share, images: answered, figures: { accuracy } });
      };
      return { line, progress };
    };
    const { signal } = context;
    const stopped = () => context.log(settings.out === undefined ? "stopped" : "stopped; go on with --resume");
    try {
      const attack = {
        norm,
        eps,
        stepSize: settings.stepSize ?? eps / 4,
        restarts,
        iterations,
        targets,
        queries,
        seed,
      };
      const attacking = follow();
      const result = await evaluateRobustness({
        questions,
        images,
        attacks,
        settings: attack,
        log,
        signal,
        progress: attacking.progress,
      });
      attacking.line.stop();
      if (result === undefined) return stopped();
      const scoring = follow();
      const corruptionFigures =
        corruptions === undefined
          ? undefined
          : await evaluateCorruptions({
              ...corruptions,
              questions,
              size: classifier.image[1],
              limit: settings.limit,
              log,
              signal,
              progress: scoring.progress,
            });
      scoring.line.stop();
      if (corrupted && corruptionFigures === undefined) return stopped();
      for (const warning of result.warnings) warn(warning);
      context.print(table(result.figures, corruptionFigures));
      const summary = {
        model: classifier.source,
        digest: classifier.digest,
        dataset: settings.dataset,
        count: images.count,
        norm,
        eps,
        seed,
        attacks: Object.fromEntries(result.figures.map((f) => [f.attack, plain(f)])),
        ...(corruptionFigures && { corruptions: corruptionFigures }),
        warnings: result.warnings,
      };
      if (disk !== undefined && settings.out !== undefined) {
        await writeResults(settings.out, result, summary);
        await writePictures(settings, classifier, images, result, disk);
        await writeReport(settings.out);
      }
      context.result(summary);
    } finally {
      await questions.release();
      for (const lane of threads) await lane.close();
    }
  },
});

/** Threads that each attack a share of a batch: enough to use small machines well, few enough for their memory. */
const lanesFor = (batch: number, threads: number): number => Math.min(threads, 4, Math.ceil(batch / 8));

type Settings = Parameters<Parameters<typeof defineCommand>[0]["run"]>[0];
interface DataSettings {
  readonly dataset: Dataset["name"];
  readonly data?: string | undefined;
  readonly split: Dataset["split"];
  readonly limit?: number | undefined;
  readonly seed: number;
}

const loadImages = async (
  { dataset: name, data, split, limit, seed }: DataSettings,
  { image, classes, source }: LoadedClassifier,
): Promise<EvaluatedImages & { readonly classNames: readonly string[] }> => {
  const [channels, height, width] = image;
  if (channels !== 3 || height !== width)
    throw new RequestError(`${source} takes images [${image.join(",")}]; datasets give [3,S,S]`);
  const dataset = await loadDataset({ name, data, split, limit, size: height, seed });
  const { labels, index, count } = dataset;
  if (labels === undefined)
    throw new RequestError(`the ${split} images of ${name} have no labels; choose another split`);
  const most = labels.reduce((a, b) => Math.max(a, b), 0);
  if (most >= classes)
    throw new RequestError(
      `${source} has ${classes} classes but ${name} has labels up to ${most}; give the model's dataset`,
    );
  const length = 3 * height * width;
  return {
    count,
    shape: image,
    labels,
    index,
    classNames: dataset.classes,
    pixels: (i) => Float32Array.from(dataset.images.subarray(i * length, (i + 1) * length), (v) => v / 255),
  };
};

/** The first images that are right when clean: those that the picture shows. */
const firstRight = (count: number) => {
  const chosen = new Set<number>();
  const look = (log: EvaluationLog): void => {
    chosen.clear();
    for (let chunk = 0; chosen.size < count; chunk++) {
      const record = log.finished.get(`clean/${chunk}`);
      if (record === undefined) return;
      for (const { i, broken } of record.images) if (!broken && chosen.size < count) chosen.add(i);
    }
  };
  return {
    has: (i: number) => chosen.has(i),
    all: () => [...chosen],
    watch: (log: DiskLog): DiskLog => {
      look(log);
      return {
        ...log,
        append: (record) => {
          log.append(record);
          if (record.stage === "clean") look(log);
        },
      };
    },
  };
};

const openLog = async (
  settings: { readonly out?: string | undefined },
  context: Context,
  { digest }: LoadedClassifier,
  images: EvaluatedImages,
  keeps: (i: number) => boolean,
): Promise<DiskLog | undefined> =>
  settings.out === undefined ? undefined : openEvaluationLog(await context.openRun(), { images, digest, keeps });

const rounded = (x: number): number => Number(x.toFixed(6));

/** Figures as JSON keeps them. */
const plain = ({ accuracy, interval, right, count, attacked, queries, parts }: AttackFigures): object => ({
  accuracy: rounded(accuracy),
  interval: interval.map(rounded),
  right,
  count,
  attacked,
  queries,
  ...(parts && { parts: Object.fromEntries(parts.map((p) => [p.attack, plain(p)])) }),
});

const percent = (x: number): string => (100 * x).toFixed(2);

const table = (figures: readonly AttackFigures[], corruptions: CorruptionFigures | undefined): string => {
  const rows: string[][] = [["attack", "accuracy %", "95 % interval", "right", "queries/attacked image"]];
  const add = (name: string, f: AttackFigures) =>
    rows.push([
      name,
      percent(f.accuracy),
      f.interval.map(percent).join(" to "),
      `${f.right}/${f.count}`,
      (f.queries / Math.max(1, f.attacked)).toFixed(1),
    ]);
  for (const f of figures) {
    for (const part of f.parts ?? []) add(`  + ${part.attack}`, part);
    add(f.attack, f);
  }
  for (const [name, accuracy] of Object.entries(corruptions?.byCorruption ?? {}))
    rows.push([`  ${name}`, percent(accuracy)]);
  if (corruptions !== undefined) rows.push(["corruptions", percent(corruptions.accuracy)]);
  const widths = rows[0]!.map((_, k) => Math.max(...rows.map((row) => (row[k] ?? "").length)));
  return rows
    .map((row) => row.map((text, k) => (k === 0 ? text.padEnd(widths[k]!) : text.padStart(widths[k]!))).join("  "))
    .join("\n");
};

const writeResults = async (out: string, { rows }: EvaluationResult, summary: object): Promise<void> => {
  await writeFileAtomic(join(out, "images.jsonl"), `${rows.map((row) => JSON.stringify(row)).join("\n")}\n`);
  await writeFileAtomic(join(out, "evaluation.json"), `${JSON.stringify(summary, null, 2)}\n`);
};

const writePictures = async (
  settings: Pick<Settings, never> & { out?: string | undefined; grid: number; saveAdversarial: boolean },
  classifier: LoadedClassifier,
  images: EvaluatedImages & { readonly classNames: readonly string[] },
  { rows }: EvaluationResult,
  disk: DiskLog,
): Promise<void> => {
  const out = settings.out as string;
  const kept = await disk.kept();
  const names = classifier.classNames.length > 0 ? classifier.classNames : images.classNames;
  const nameOf = (k: number): string => names[k] ?? `class ${k}`;
  const cells: GridCell[] = [];
  let range = 0;
  for (const [i, row] of rows.entries()) {
    if (cells.length >= settings.grid) break;
    const stages = [...kept].filter(([, found]) => found.has(i));
    if (stages.length === 0 || row.brokenBy === "clean") continue;
    const broke = stages.find(([stage]) => stage === row.brokenBy?.replaceAll("/", "."));
    const shown = (broke ?? stages.at(-1)!)[1].get(i)!;
    const clean = images.pixels(i);
    clean.forEach((v, k) => {
      range = Math.max(range, Math.abs(v - shown.x[k]!));
    });
    cells.push({
      clean,
      adversarial: shown.x,
      label: nameOf(row.label),
      prediction: nameOf(shown.prediction),
      // Of AutoAttack the part: the whole name is wider than a picture.
      attack: broke === undefined ? undefined : row.brokenBy?.split("/").at(-1),
    });
  }
  if (cells.length > 0) {
    const title = `${classifier.source}: clean, perturbation (±${(255 * range).toFixed(1)}/255), adversarial`;
    await writeAttackGrid(join(out, "attacks.png"), cells, {
      shape: images.shape,
      range: Math.max(range, 1e-6),
      title,
    });
  }
  if (settings.saveAdversarial) await disk.merge();
  else await disk.clear();
};
