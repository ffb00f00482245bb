/** Classifiers that commands take: an ONNX file from anywhere, or a run of finetuning. */
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { isQuantized } from "../../graphs/import/quantized.ts";
import type { ReadModel, ReadOptions } from "../../graphs/import/read.ts";
import { classifier } from "../../graphs/nn/classifier.ts";
import { foldedUnit, foldUnits } from "../../graphs/nn/folded.ts";
import { FrozenStore } from "../../graphs/nn/frozen.ts";
import { Scope } from "../../graphs/nn/scope.ts";
import { GraphError } from "../../graphs/onnx/error.ts";
import { input, type Value } from "../../graphs/onnx/graph.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import { type DatasetName, datasetNames } from "../data/dataset.ts";
import type { SessionOptions } from "../engine/session.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { loadRun } from "../runs/network.ts";
import { holdsRun } from "../runs/run-file.ts";
import { quietReporter } from "../verbs/reporter.ts";
import { type AsIsClassifier, openAsIsClassifier } from "./as-is-classifier.ts";
import { bakedSizes } from "./baked.ts";
import { namesOf } from "./class-names.ts";
import { type ModelFile, readModelFile } from "./file.ts";
import {
  fedImages,
  floatingInput,
  type ImageInput,
  type InputRequest,
  imageInputOf,
  type Normalisation,
  normalised,
} from "./input.ts";
import { chooseOutput, classesOf, lookAtOutputs, type Outputs, type RowOutput, readLogits } from "./output.ts";

export interface ClassifierOptions extends Normalisation, InputRequest {
  /** Name of the logits: an output or any inner value of a file. */
  readonly output?: string | undefined;
  /** Batch-norm branch of a run; default: the one that the run was finetuned with. */
  readonly branch?: string | undefined;
  readonly warn: (message: string) => void;
}

/** The dataset of a training. */
export interface TrainedOn {
  readonly dataset: DatasetName;
  readonly data?: string;
  readonly testShare?: number;
  /** Whether images that cannot be decoded were left out. */
  readonly skipBroken?: boolean;
}

export interface LoadedClassifier {
  /** What was loaded, for people. */
  readonly source: string;
  /** SHA-256 of the weights: the same model has the same. */
  readonly digest: string;
  readonly classes: number;
  /** What it was trained on, where the model says so: a run with where that lies, an export without. */
  readonly trainedOn?: TrainedOn;
  /** Names of the classes, where the model says them. */
  readonly classNames: readonly string[];
  readonly image: readonly [channels: number, height: number, width: number];
  /** The batch size that the file fixes. */
  readonly fixedBatch: number | undefined;
  /** Images [B,C,H,W] in [0, 1] to logits [B,classes]; weights are constants. */
  readonly build: Classifier;
  /** Of a file. */
  readonly model?: ClassifierModel;
  /** The same without `mean` and `std`, to try others. */
  readonly unnormalised: Classifier;
  /** Of a file that computes on integers: opens the file itself, of which `build` is the float32 shadow. */
  readonly asIs?: (session: SessionOptions) => Promise<AsIsClassifier>;
}

/** The file behind a classifier, for those that train it. */
export interface ClassifierModel extends ModelFile {
  /** Images [B,C,H,W] in [0, 1], to logits. `parameter` as in ReadOptions. */
  read(x: Value, parameter?: ReadOptions["parameter"]): ReadModel & { readonly logits: Value };
}

/** A classifier whose images are known, and whose logits are chosen once the dataset is. */
export interface OpenedClassifier
  extends Pick<LoadedClassifier, "source" | "digest" | "image" | "classNames" | "trainedOn"> {
  /** The classifier for a dataset of so many classes, which tell which output is meant. */
  classifier(classes?: number): LoadedClassifier;
}

/**
 * Opens a classifier.
 * @throws RequestError where the path holds none; GraphError where an ONNX file asks for what is not supported
 */
export const openClassifier = async (path: string, options: ClassifierOptions): Promise<OpenedClassifier> => {
  try {
    if (await holdsRun(path)) return await ofRun(path, options);
    if (options.branch !== undefined)
      throw new RequestError(`--branch is of a run, and ${path} is a file; leave it out`);
    return ofFile(await readModelFile(path, options.warn), options);
  } catch (error) {
    throw fileError(error, "read", path);
  }
};

/**
 * Loads a classifier without a dataset that it is for.
 * @param options `warn` is told what is guessed (default: warnings are emitted as Node's)
 * @throws RequestError where the path holds none; GraphError where an ONNX file asks for what is not supported
 */
export const loadClassifier = async (
  path: string,
  options: Partial<ClassifierOptions> = {},
): Promise<LoadedClassifier> => (await openClassifier(path, { warn: quietReporter.warn, ...options })).classifier();

/** A batch that no exporter is likely to fix by accident. */
const UNLIKELY = 7;
interface Looked extends Outputs {
  readonly fixedBatch: number | undefined;
}

/** What the file gives for a batch that it takes. */
const look = (model: ModelFile, images: ImageInput, options: ReadOptions, side: number): Looked => {
  const file = floatingInput(model.file);
  const at = (batch: number): Outputs => {
    const x = input("images", { dtype: "float32", shape: [batch, 3, side, side] });
    return lookAtOutputs(file, { ...options, batch, bind: { [images.name]: fedImages(x, images) } });
  };
  if (images.batch !== undefined) return { ...at(images.batch), fixedBatch: images.batch };
  try {
    const open = at(UNLIKELY);
    if (open.rows.length > 0) return { ...open, fixedBatch: undefined };
  } catch (error) {
    if (!(error instanceof GraphError)) throw error;
  }
  let last: Outputs | undefined;
  let first: unknown;
  for (const size of bakedSizes(file))
    try {
      last = at(size);
      if (last.rows.length > 0) return { ...last, fixedBatch: size };
    } catch (error) {
      if (!(error instanceof GraphError)) throw error;
      first ??= error;
    }
  if (last === undefined) throw first;
  return { ...last, fixedBatch: undefined };
};

const described = (rows: readonly RowOutput[]): string =>
  rows.map(({ name, width }) => `${name} [${width}]`).join(", ");

/** Fails where no output is a row an image. */
const checkOutputs = ({ path, file }: ModelFile, { rows, others }: Looked, output: string | undefined): void => {
  if (rows.length > 0) return;
  const known = others.join(", ");
  if (output !== undefined) throw new RequestError(`the output ${known} of ${path} is no row of logits an image`);
  throw new RequestError(
    `no output of ${path} is a row of logits an image, float32[batch,classes]: it gives ${known}; ` +
      `give a classifier, or the name of its logits by --output (${file.nodes.at(-1)?.inputs[0] ?? "a value's name"})`,
  );
};

const checkName = ({ path, file }: ModelFile, output: string | undefined): void => {
  if (output === undefined || file.outputs.includes(output)) return;
  const made = file.nodes.flatMap(({ outputs }) => outputs);
  if (!made.includes(output))
    throw new RequestError(
      `--output ${output}: ${path} has no value of that name; its outputs are ${file.outputs.join(", ")}, its last inner values ${made.slice(-5).join(", ")}`,
    );
};

/** The dataset that a run's settings or a file's metadata name. */
const trainedOn = (told: Readonly<Record<string, unknown>>): { readonly trainedOn?: TrainedOn } => {
  const dataset = datasetNames.find((name) => name === told.dataset);
  if (dataset === undefined) return {};
  const { data, testShare, skipBroken } = told;
  return {
    trainedOn: {
      dataset,
      ...(typeof data === "string" && { data }),
      ...(typeof testShare === "number" && { testShare }),
      ...(typeof skipBroken === "boolean" && { skipBroken }),
    },
  };
};

const ofFile = (model: ModelFile, options: ClassifierOptions): OpenedClassifier => {
  const { path, source, digest, file } = model;
  const { warn, output } = options;
  const images = imageInputOf(file, path, options);
  const side = images.size;
  if (side === undefined)
    throw new RequestError(`${path} leaves the size of its images open; give --size, such as --size 32`);
  for (const guess of images.guesses) warn(`${source}: ${guess}`);
  if (images.dtype === "uint8")
    warn(`${source} takes bytes: pixels are rounded to 255ths for it, and gradients pass through the rounding`);
  checkName(model, output);
  const looked = look(model, images, output === undefined ? {} : { outputs: [output] }, side);
  checkOutputs(model, looked, output);
  const { rows, fixedBatch } = looked;
  if (fixedBatch !== undefined && images.batch === undefined)
    warn(`${source} declares its batch as open but works with ${fixedBatch} only, which a Reshape inside fixes`);
  const quantized = isQuantized(file.nodes);
  const classNames = namesOf(file.metadata);
  const of = (classes: number | undefined): LoadedClassifier => {
    const { chosen, why } = chooseOutput(rows, classes);
    if (rows.length > 1)
      warn(`${source} has the outputs ${described(rows)}: ${chosen.name} is taken, since ${why}; --output chooses`);
    if (chosen.width === 1)
      warn(`${source} has one ${chosen.value === chosen.name ? "logit" : "probability"}: it is that of class 1 of two`);
    const floating = floatingInput(file);
    const readPlain: ClassifierModel["read"] = (x, parameter) =>
      readLogits(floating, chosen, {
        batch: x.dim(0),
        bind: { [images.name]: fedImages(x, images) },
        ...(parameter && { parameter }),
      });
    const read: ClassifierModel["read"] = (x, parameter) => readPlain(normalised(x, options), parameter);
    const classes_ = classesOf(chosen.width);
    return {
      ...{ source, digest, fixedBatch, classes: classes_, image: [3, side, side] },
      classNames: classNames.length === classes_ ? classNames : [],
      build: (x) => read(x).logits,
      unnormalised: (x) => readPlain(x).logits,
      model: { ...model, read },
      ...(quantized && { asIs: (session) => openAsIsClassifier(model, images, chosen, options, session) }),
    };
  };
  return { source, digest, image: [3, side, side], classNames, ...trainedOn(file.metadata), classifier: of };
};

const ofRun = async (path: string, options: ClassifierOptions): Promise<OpenedClassifier> => {
  const { network, tensors, classes: classNames, config } = await loadRun(path, options.warn);
  for (const name of ["output", "layout"] as const)
    if (options[name] !== undefined)
      throw new RequestError(`--${name} is of an ONNX file, and ${path} is a run; leave it out`);
  const head = tensors.get("fc.weight");
  if (head === undefined)
    throw new RequestError(
      `the run in ${path} holds an encoder without a classifier; finetune it first (advcl finetune)`,
    );
  if (options.branch !== undefined && network.branches === undefined)
    throw new RequestError(`the run in ${path} has batch norm of only one kind; leave --branch out`);
  const branch = options.branch ?? network.evaluatedBranch;
  if (network.branches !== undefined && !network.branches.includes(branch))
    throw new RequestError(`the encoder has no batch-norm branch ${branch}; it has ${network.branches.join(", ")}`);
  const [classes = 0] = head.shape;
  const digest = createHash("sha256");
  for (const [name, { data }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1)))
    digest.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  // Folded, a convolution is one pass with its batch norm and ReLU, and a gradient has none of them to pass.
  const folded = foldUnits(network, tensors, network.branches?.indexOf(branch));
  const store = new FrozenStore((name) => folded.get(name) ?? tensors.get(name));
  const scope = new Scope(store, { mode: "eval", branches: [branch] });
  const layer = classifier({ ...network, classes, unit: foldedUnit });
  const loaded: LoadedClassifier = {
    source: basename(path),
    digest: digest.update(branch).digest("hex"),
    classes,
    classNames: classNames.length === classes ? classNames : [],
    image: [3, network.size, network.size],
    fixedBatch: undefined,
    ...trainedOn(config.settings),
    build: (x) => layer(scope, normalised(x, options)),
    unnormalised: (x) => layer(scope, x),
  };
  return { ...loaded, classifier: () => loaded };
};
