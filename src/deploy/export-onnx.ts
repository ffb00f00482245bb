/** Export as a plain ONNX file; a classifier's accuracy is measured on the way. */
import { type NetworkPart, outputName } from "../../graphs/deploy/network.ts";
import { bind } from "../../graphs/deploy/rewrite.ts";
import { toFloat16 } from "../../graphs/onnx/float16.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import type { Model } from "../../graphs/onnx/write.ts";
import { type Dataset, type DatasetOptions, photographs } from "../data/dataset.ts";
import { chooseEngine, type Engine } from "../engine/engine.ts";
import { createSession } from "../engine/session.ts";
import { percent } from "../evaluate/accuracy.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { chanceWarning } from "../models/chance.ts";
import { type Fitted, fitLabels, placesOf } from "../models/fit.ts";
import { predictionsOf } from "../models/prediction.ts";
import type { Reporter } from "../verbs/reporter.ts";
import { accuracyOf, attackImages, cleanImages, pgd20 } from "./accuracy.ts";
import type { ExportSettings } from "./export-settings.ts";
import { imagesOf, loadImagesOf, megabytes } from "./images.ts";
import { classNames, metadataOf } from "./metadata.ts";
import { buildExport, type ExportOptions, floatGraph, type Precision } from "./model.ts";
import { deployedOptions, namesOfClasses, type Source } from "./source.ts";

/** An ONNX file that was written. */
export interface OnnxExport {
  /** The file. */
  readonly out: string;
  readonly what: NetworkPart;
  readonly precision: Precision;
  /** Batch-norm branch that it has; null where the run has only one. */
  readonly branch: string | null;
  /** Length of the file. */
  readonly bytes: number;
  /** Shares from 0 to 1 by what was measured: `clean fp32`, `pgd20 fp32`, …; none where nothing was. */
  readonly accuracies: Readonly<Record<string, number>>;
}

const halvedImages = (images: Tensor): Tensor =>
  tensor("float16", images.shape, toFloat16(images.data as Float32Array));

type Build = (chosen: Partial<ExportOptions>) => Promise<Model>;

/** Accuracy in float32 and in the precision of the export, clean and under PGD-20 through the float32 classifier. */
const measureAccuracies = async (
  source: Source,
  settings: ExportSettings,
  build: Build,
  test: Dataset & { readonly labels: Int32Array },
  engine: Engine,
  reporter: Reporter,
): Promise<Record<string, number>> => {
  const { precision, io, from, seed } = settings;
  const { labels } = test;
  const names = [...new Set(["fp32", precision] as const)];
  const models = await Promise.all(
    names.map(async (name) => (await build({ precision: name, preprocess: false })).bytes),
  );
  const options = deployedOptions(source, "classifier", from);
  const { image, outputs } = floatGraph(options, source.weights, source.branch?.index);
  const logits = (x: Value): Value => bind({ logits: outputs.logits as Value }, new Map([[image, x]])).logits;
  const clean = cleanImages(test);
  const attacked = await attackImages(logits, test, pgd20, seed, engine);
  const accuracies: Record<string, number> = {};
  for (const [i, name] of names.entries()) {
    const prepare = name === "fp16" && io === "float16" ? halvedImages : undefined;
    const measure = (images: Tensor[]) => accuracyOf(models[i] as Uint8Array, images, labels, prepare, engine.options);
    const onClean = await measure(clean);
    const onAttacked = await measure(attacked);
    accuracies[`clean ${name}`] = onClean;
    accuracies[`pgd20 ${name}`] = onAttacked;
    const judged = {
      source: from,
      unnormalised: logits,
      fixedBatch: undefined,
      image: [3, test.height, test.width],
    } as const;
    const chance = name === "fp32" ? await chanceWarning(onClean, judged, test, engine) : undefined;
    if (chance !== undefined) reporter.warn(chance);
    reporter.print(
      `${name}: accuracy ${percent(onClean)}, under ${name === "fp32" ? "PGD-20" : "the PGD-20 of fp32"} ${percent(onAttacked)} (L-inf 8/255, ${test.count} test images)`,
    );
  }
  return accuracies;
};

/** Accuracy of the file itself on photographs as they are, which it resizes inside. */
const throughFile = async (
  { bytes }: Model,
  options: DatasetOptions,
  places: Int32Array | undefined,
  engine: Engine,
): Promise<{ readonly accuracy: number; readonly count: number }> => {
  const session = await createSession(bytes, engine.options);
  try {
    let [right, count] = [0, 0];
    for await (const { height, width, bytes: photo, label } of photographs(options)) {
      const { logits } = await session.run({ image: tensor("uint8", [1, height, width, 3], photo) }, ["logits"]);
      if (predictionsOf(logits as Tensor)[0] === (places?.[label] ?? label)) right++;
      count++;
    }
    return { accuracy: right / Math.max(count, 1), count };
  } finally {
    await session.release();
  }
};

/** Test images with labels that number the run's classes; none where their classes aren't known. */
const labelledImages = (
  test: Dataset | undefined,
  source: Source,
  { from, matchClasses }: ExportSettings,
  { warn }: Reporter,
): (Pick<Fitted, "dataset"> & { readonly places: Int32Array | undefined }) | undefined => {
  if (test?.labels === undefined) return undefined;
  const known = { source: from, classes: source.classes ?? 0, classNames: namesOfClasses(source) ?? [] };
  const places = placesOf(test, known, { matchClasses, warn: () => {} });
  return { dataset: fitLabels(known, test, { matchClasses, warn }), places };
};

/** Writes one branch of a run as an ONNX file. */
export const exportOnnx = async (
  source: Source,
  what: NetworkPart,
  settings: ExportSettings,
  reporter: Reporter,
): Promise<OnnxExport> => {
  const { precision, io, preprocess, out } = settings;
  const options = deployedOptions(source, what, settings.from);
  const engine = await chooseEngine({ ...settings, precision: undefined });
  const load = loadImagesOf(source, settings, reporter);
  const calibration = precision === "int8" ? await load("train", settings.calibrationImages, true) : undefined;
  const loaded = what === "classifier" && settings.limit > 0 ? await load("test", settings.limit, false) : undefined;
  const fitted = labelledImages(loaded, source, settings, reporter);
  const build: Build = (chosen) =>
    buildExport(
      { ...options, precision, io, preprocess, metadata: {}, ...chosen },
      source.weights,
      source.branch?.index,
      calibration,
      engine.options,
    );
  const accuracies =
    fitted === undefined ? {} : await measureAccuracies(source, settings, build, fitted.dataset, engine, reporter);
  const photos = imagesOf(source, settings, "test", settings.limit, () => {});
  if (preprocess && fitted !== undefined && photos !== undefined) {
    const { accuracy, count } = await throughFile(await build({}), photos, fitted.places, engine);
    accuracies[`photographs ${precision}`] = accuracy;
    reporter.print(`through the file: accuracy ${percent(accuracy)} (${count} test images at their own size)`);
  }
  const classes = classNames(source.classes ?? 0, namesOfClasses(source) ?? fitted?.dataset.classes);
  const model = await build({ metadata: metadataOf({ source, what, precision, preprocess, classes, accuracies }) });
  await writeFileAtomic(out, model.bytes);
  const { branch } = source;
  reporter.print(
    `${out}: ${what} of ${source.folder}${branch === undefined ? "" : `, branch ${branch.name}`}, ${precision}, ${megabytes(model.bytes)}, output ${outputName(what)}`,
  );
  return { out, what, precision, branch: branch?.name ?? null, bytes: model.bytes.length, accuracies };
};
