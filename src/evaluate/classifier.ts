/** Classifiers to attack: an ONNX file from anywhere, or a run of finetuning. */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { basename } from "node:path";
import { readLogits } from "../../graphs/import/logits.ts";
import type { ReadModel, ReadOptions } from "../../graphs/import/read.ts";
import { classifier } from "../../graphs/nn/classifier.ts";
import { FrozenStore } from "../../graphs/nn/frozen.ts";
import { Scope } from "../../graphs/nn/scope.ts";
import { constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { type FileInput, type FileModel, parseModel } from "../../graphs/onnx/parse.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { div, sub } from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { loadRun } from "../runs/network.ts";

export interface LoadedClassifier {
  /** What was loaded, for people. */
  readonly source: string;
  /** SHA-256 of the weights: the same model has the same. */
  readonly digest: string;
  readonly classes: number;
  /** Names of the classes, where the model says them. */
  readonly classNames: readonly string[];
  readonly image: readonly [channels: number, height: number, width: number];
  /** The batch size that the file fixes. */
  readonly fixedBatch: number | undefined;
  /** Images [B,C,H,W] in [0, 1] to logits [B,classes]; weights are constants. */
  readonly build: Classifier;
}

export interface ClassifierOptions {
  /** Side of the images, where the file leaves it open. */
  readonly size?: number | undefined;
  /** What the model expects of its input: (pixel - mean)/std, one number a channel or one for all; default none. */
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
  /** Batch-norm branch of a run; default: the one that the run was finetuned with. */
  readonly branch?: string | undefined;
  readonly warn: (message: string) => void;
}

/**
 * Loads a classifier.
 * @throws RequestError where the path holds none; GraphError where an ONNX file asks for what is not supported
 */
export const loadClassifier = async (path: string, options: ClassifierOptions): Promise<LoadedClassifier> => {
  try {
    const entry = await stat(path);
    if (!entry.isDirectory() && options.branch !== undefined)
      throw new RequestError(`--branch is of a run, and ${path} is a file; leave it out`);
    return entry.isDirectory() ? await ofRun(path, options) : ofFile(await readFile(path), path, options);
  } catch (error) {
    throw fileError(error, "read", path);
  }
};

/** Subtracts the mean and divides by the deviation, where they are given. */
const normalising = (build: Classifier, channels: number, { mean, std }: ClassifierOptions): Classifier => {
  if ((mean ?? []).length === 0 && (std ?? []).length === 0) return build;
  const given = (name: string, values: readonly number[] | undefined, otherwise: number): Value => {
    const list = (values ?? []).length === 0 ? [otherwise] : (values as readonly number[]);
    if (list.length !== 1 && list.length !== channels)
      throw new RequestError(
        `--${name} has ${list.length} numbers but the images have ${channels} channels; give 1 or ${channels}`,
      );
    return constant(float32([1, list.length, 1, 1], list));
  };
  const [m, s] = [given("mean", mean, 0), given("std", std, 1)];
  return (x) => build(div(sub(x, m), s));
};

const ofFile = (bytes: Uint8Array, path: string, options: ClassifierOptions): LoadedClassifier => {
  const file = parseModel(bytes);
  const images = imagesOf(file, path);
  const [batch, channels, height, width] = images.dims.map((d) => (typeof d === "number" ? d : undefined));
  const sides = [height, width].map((side) => side ?? options.size);
  if (channels === undefined || sides.some((side) => side === undefined))
    throw new RequestError(`${path} leaves the size of its images open; give --size`);
  const image = [channels, sides[0], sides[1]] as [number, number, number];
  const build: Classifier = (x) => readClassifier(file, path, { batch: x.dim(0), bind: { [images.name]: x } }).logits;
  const trial = build(input("images", { dtype: "float32", shape: [batch ?? 1, ...image] }));
  return {
    source: basename(path),
    digest: createHash("sha256").update(bytes).digest("hex"),
    classes: trial.dim(1),
    classNames: namesOf(file.metadata.classes),
    image,
    fixedBatch: batch,
    build: normalising(build, channels, options),
  };
};

/** The list of names that exports of this project carry, as JSON. */
export const namesOf = (text: string | undefined): string[] => {
  try {
    const names: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(names) && names.every((name) => typeof name === "string") ? names : [];
  } catch {
    return [];
  }
};

/** The input of a classifier: its images. */
export const imagesOf = (file: FileModel, path: string): FileInput => {
  const [only, ...others] = file.inputs;
  if (only === undefined || others.length > 0)
    throw new RequestError(`${path} has ${file.inputs.length} inputs; a classifier has one, the images`);
  if (only.dtype !== "float32" || only.dims.length !== 4)
    throw new RequestError(
      `the input ${only.name} of ${path} is ${only.dtype}[${only.dims.map((d) => d ?? "?").join(",")}]; a classifier takes float32[batch,channels,height,width]`,
    );
  if (only.dims.includes(0))
    throw new RequestError(
      `the input ${only.name} of ${path} is declared as [${only.dims.join(",")}], which holds no image; declare the batch as dynamic or at least 1`,
    );
  return only;
};

/** A file read up to its first output that is a row of logits an image. */
export const readClassifier = (
  file: FileModel,
  path: string,
  options: ReadOptions & { readonly batch: number },
): ReadModel & { readonly logits: Value } => {
  const read = readLogits(file, options);
  if (read === undefined) throw new RequestError(`no output of ${path} is float32[batch,classes]; give a classifier`);
  return read;
};

const ofRun = async (path: string, options: ClassifierOptions): Promise<LoadedClassifier> => {
  const { network, tensors } = await loadRun(path, options.warn);
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
  const store = new FrozenStore((name) => tensors.get(name));
  const scope = new Scope(store, { mode: "eval", branches: [branch] });
  const layer = classifier({ ...network, classes });
  const build: Classifier = (x) => layer(scope, x);
  return {
    source: basename(path),
    digest: digest.update(branch).digest("hex"),
    classes,
    classNames: [],
    image: [3, network.size, network.size],
    fixedBatch: undefined,
    build: normalising(build, 3, options),
  };
};
