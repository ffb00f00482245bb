import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { deployedWeights, outputName, type What, whats } from "../../../graphs/deploy/network.ts";
import { bind } from "../../../graphs/deploy/rewrite.ts";
import { toFloat16 } from "../../../graphs/onnx/float16.ts";
import type { Value } from "../../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../../graphs/onnx/tensor.ts";
import { type Dataset, type DatasetName, datasetNames, loadDataset } from "../../data/dataset.ts";
import { accuracyOf, attackImages, cleanImages, pgd20 } from "../../deploy/accuracy.ts";
import { authorsWeights, isWhole, layouts, torchvisionWeights } from "../../deploy/export-layout.ts";
import { classNames, metadataOf } from "../../deploy/metadata.ts";
import { type ExportOptions, exportModel, floatGraph, precisions } from "../../deploy/model.ts";
import { deployedOptions, namesOfClasses, openSource, type Source } from "../../deploy/source.ts";
import { trainingFiles } from "../../deploy/training.ts";
import { chooseEngine } from "../../engine/engine.ts";
import type { SessionOptions } from "../../engine/session.ts";
import { RequestError } from "../../errors.ts";
import { percent } from "../../evaluate/accuracy.ts";
import { checkWritable, writeFileAtomic, writeFolderAtomic } from "../../files/atomic.ts";
import { fileError } from "../../files/file-error.ts";
import { writeSafetensors } from "../../files/safetensors.ts";
import type { SettingRows } from "../../settings/resolve.ts";
import { type CommandSettings, type Context, defineCommand } from "../command.ts";

const rows = {
  from: { type: "path", required: true, help: "run folder to export" },
  out: { type: "path", required: true, help: "file to write; for ort-training a folder" },
  what: { type: "enum", values: [...whats, "auto"], default: "auto", help: "auto: the classifier where there is one" },
  format: { type: "enum", values: ["onnx", "safetensors", "ort-training"], default: "onnx", help: "what to write" },
  branch: { type: "string", default: "auto", help: "batch-norm branch; auto: the one that the run is evaluated by" },
  precision: {
    type: "enum",
    values: precisions,
    default: "fp32",
    help: "of weights and activations",
    group: "onnx",
  },
  io: {
    type: "enum",
    values: ["float32", "float16"],
    default: "float32",
    help: "element type of the inputs and outputs of fp16",
    group: "onnx",
  },
  preprocess: {
    type: "boolean",
    default: false,
    help: "take photographs (uint8, batch × height × width × RGB) of any size, resized and scaled inside",
    group: "onnx",
  },
  dataset: {
    type: "enum",
    values: datasetNames,
    help: "images to calibrate and measure on (default: the run's)",
    group: "onnx",
  },
  data: { type: "path", help: "folder or archive of that dataset (default: the run's)", group: "onnx" },
  calibrationImages: {
    type: "integer",
    default: 256,
    min: 1,
    help: "training images that int8 is calibrated on",
    group: "onnx",
  },
  limit: {
    type: "integer",
    default: 500,
    min: 0,
    help: "test images to measure accuracy on; 0 measures nothing",
    group: "onnx",
  },
  layout: {
    type: "enum",
    values: [...layouts, "auto"],
    default: "auto",
    help: "names: the whole network as the authors' code has it, or one branch as torchvision's ResNet; auto: the authors' where the run holds every branch",
    group: "safetensors",
  },
  trains: {
    type: "enum",
    values: ["head", "all"],
    default: "head",
    help: "a linear probe, or the encoder too (batch norms stay folded, as in evaluation mode)",
    group: "ort-training",
  },
  classes: {
    type: "integer",
    min: 2,
    help: "classes of a fresh head (default: the run's head)",
    group: "ort-training",
  },
  batch: { type: "integer", default: 16, min: 1, help: "images of a training step", group: "ort-training" },
  momentum: { type: "number", default: 0.9, min: 0, max: 1, help: "of SGD", group: "ort-training" },
  weightDecay: { type: "number", default: 2e-4, min: 0, help: "on every parameter", group: "ort-training" },
} as const satisfies SettingRows;

type Settings = CommandSettings<typeof rows>;

export const exportCommand = defineCommand({
  name: "export",
  summary: "write a trained encoder or classifier for other runtimes",
  description:
    "onnx: a plain ONNX file (opset 17, of int8 19, IR 8, standard ops; any batch size) of one batch-norm branch, folded into the convolutions. A classifier's accuracy, and its robust accuracy under PGD-20 on L-inf 8/255, are measured on test images where a dataset is known; the adversarial images are made through the float32 classifier, so that for fp16 and int8 the attack is a transferred one. safetensors: the weights in PyTorch's names, to be loaded with strict=True. ort-training: graphs and checkpoint for training in a browser or in Node with onnxruntime-web 1.17 to 1.19.2 (entry onnxruntime-web/training); manifest.json tells what is in them.",
  settings: rows,
  run: async (settings, context) => {
    const source = await openSource(settings.from, settings.branch, context.warn);
    const what = settings.what === "auto" ? (source.classes === undefined ? "encoder" : "classifier") : settings.what;
    if (settings.format !== "ort-training") await checkWritable(settings.out);
    await writers[settings.format](source, what, settings, context);
  },
});

type Write = (source: Source, what: What, settings: Settings, context: Context) => Promise<void>;

const writeOnnx: Write = async (source, what, settings, context) => {
  const { precision, io, preprocess, out } = settings;
  const options = deployedOptions(source, what, settings.from);
  const engine = await chooseEngine(settings);
  const load = datasetOf(source, settings, context);
  const calibration = precision === "int8" ? await load("train", settings.calibrationImages, true) : undefined;
  const test = what === "classifier" && settings.limit > 0 ? await load("test", settings.limit, false) : undefined;
  const build = (chosen: Partial<ExportOptions>) =>
    exportModel(
      { ...options, precision, io, preprocess, metadata: {}, ...chosen },
      source.weights,
      source.branch?.index,
      calibration,
      engine.options,
    );
  const accuracies: Record<string, number> = {};
  if (test?.labels !== undefined) {
    const names = [...new Set(["fp32", precision] as const)];
    const models = await Promise.all(
      names.map(async (name) => (await build({ precision: name, preprocess: false })).bytes),
    );
    const { image, outputs } = floatGraph(options, source.weights, source.branch?.index);
    const logits = (x: Value): Value => bind({ logits: outputs.logits as Value }, new Map([[image, x]])).logits;
    const sets = {
      clean: cleanImages(test),
      pgd20: await attackImages(logits, test, pgd20, settings.seed, engine),
    };
    for (const [i, name] of names.entries()) {
      const prepare = name === "fp16" && io === "float16" ? halvedImages : undefined;
      const measure = (images: Tensor[], session: SessionOptions) =>
        accuracyOf(models[i] as Uint8Array, images, test.labels as Int32Array, prepare, session);
      const clean = await measure(sets.clean, engine.options);
      const attacked = await measure(sets.pgd20, engine.options);
      accuracies[`clean ${name}`] = clean;
      accuracies[`pgd20 ${name}`] = attacked;
      context.print(
        `${name}: accuracy ${percent(clean)}, under ${name === "fp32" ? "PGD-20" : "the PGD-20 of fp32"} ${percent(attacked)} (L-inf 8/255, ${test.count} test images)`,
      );
    }
  }
  const classes = classNames(source.classes ?? 0, namesOfClasses(source) ?? test?.classes);
  const model = await build({ metadata: metadataOf({ source, what, precision, preprocess, classes, accuracies }) });
  await writeFileAtomic(out, model.bytes);
  const { branch } = source;
  context.print(
    `${out}: ${what} of ${source.folder}${branch === undefined ? "" : `, branch ${branch.name}`}, ${precision}, ${megabytes(model.bytes)}, output ${outputName(what)}`,
  );
  context.result({ out, what, precision, branch: branch?.name ?? null, bytes: model.bytes.length, accuracies });
};

const writeWeights: Write = async (source, what, { out, ...settings }, context) => {
  const layout = settings.layout === "auto" ? (isWhole(source) ? "authors" : "torchvision") : settings.layout;
  const tensors = layout === "authors" ? authorsWeights(source) : torchvisionWeights(source, what === "classifier");
  const kept = source.run.checkpoint.state.metadata as Record<string, string> | undefined;
  await writeSafetensors(out, tensors, kept ?? {});
  context.print(`${out}: ${tensors.size} tensors of ${source.folder} in the names of ${layout}`);
  context.result({ out, tensors: tensors.size, layout });
};

/** Files of a folder for training on the device. */
const trainingNames = ["training_model.onnx", "eval_model.onnx", "checkpoint", "manifest.json"];

const writeTraining: Write = async (source, _, settings, context) => {
  const { out, trains, batch, momentum, weightDecay, seed } = settings;
  const classes = settings.classes ?? source.classes;
  if (classes === undefined)
    throw new RequestError(`${source.folder} holds no classifier: give the --classes of the head to be trained`);
  const options = { ...deployedOptions(source, "encoder", settings.from), classes };
  const weights = deployedWeights(options, source.weights, source.branch?.index);
  if (settings.classes === undefined || settings.classes === source.classes)
    for (const name of ["fc.weight", "fc.bias"]) {
      const value = source.weights.get(name);
      if (value !== undefined) weights.set(name, value);
    }
  const known = { source, what: "classifier", precision: "fp32", preprocess: false, accuracies: {} } as const;
  const metadata = metadataOf({ ...known, classes: classNames(classes, namesOfClasses(source)) });
  const others = await readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw fileError(error, "replace", out);
  });
  const other = others.find((name) => !trainingNames.includes(name));
  if (other !== undefined)
    throw new RequestError(
      `${out} is a folder with other things in it (${other}), which would be lost; give one of its own`,
    );
  const files = trainingFiles({ ...options, batch, trains, momentum, weightDecay }, weights, seed, metadata);
  const { trainingModel, evalModel, checkpoint, manifest } = files;
  const contents = [trainingModel, evalModel, checkpoint, `${JSON.stringify(manifest, null, 2)}\n`];
  await writeFolderAtomic(out, async (folder) => {
    for (const [i, content] of contents.entries())
      await writeFileAtomic(join(folder, trainingNames[i] as string), content);
  });
  context.print(
    `${out}: training of ${trains === "head" ? "a linear head" : "encoder and head"}, ${classes} classes, ${batch} images a step, ${megabytes(files.checkpoint)} of weights`,
  );
  context.result({ out, trains, classes, batch, checkpointBytes: files.checkpoint.length });
};

const writers: Readonly<Record<Settings["format"], Write>> = {
  onnx: writeOnnx,
  safetensors: writeWeights,
  "ort-training": writeTraining,
};

const megabytes = ({ length }: Uint8Array): string => `${(length / 1e6).toFixed(1)} MB`;

const halvedImages = (images: Tensor): Tensor =>
  tensor("float16", images.shape, toFloat16(images.data as Float32Array));

/** Loads images for a source: of the dataset asked for, or of the run's own; none where neither is known. */
export const datasetOf =
  (
    source: Source,
    settings: { readonly dataset?: string | undefined; readonly data?: string | undefined; readonly seed: number },
    context: Pick<Context, "warn">,
  ) =>
  async (split: "train" | "test", limit: number, demanded: boolean): Promise<Dataset | undefined> => {
    const trained = source.run.config.settings;
    const name = (settings.dataset ?? trained.dataset) as DatasetName | undefined;
    const data = settings.data ?? (settings.dataset === undefined ? (trained.data as string | undefined) : undefined);
    if (name === undefined) {
      if (demanded) throw new RequestError("no images are known: give --dataset and --data");
      return undefined;
    }
    try {
      return await loadDataset({ name, data, split, size: source.network.size, limit, seed: settings.seed });
    } catch (error) {
      if (demanded || settings.dataset !== undefined) throw error;
      context.warn(`accuracy is not measured: ${(error as Error).message}`);
      return undefined;
    }
  };
