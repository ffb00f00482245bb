/** Teachers: what turns images into the features that are clustered. A run of ours, or any ONNX model. */
import { encoderName } from "../../graphs/nn/encoder.ts";
import { fromFloat16 } from "../../graphs/onnx/float16.ts";
import type { FileModel, FileNode } from "../../graphs/onnx/parse.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Dataset } from "../data/dataset.ts";
import { alone, type Collective, isMine } from "../distributed/collective.ts";
import type { Engine } from "../engine/engine.ts";
import { RequestError } from "../errors.ts";
import { createExtractor } from "../evaluate/knn.ts";
import { fileError } from "../files/file-error.ts";
import { openAsIs } from "../models/as-is.ts";
import { bakedSizes } from "../models/baked.ts";
import { readModelFile } from "../models/file.ts";
import { imageBatch } from "../models/images.ts";
import { type ImageInput, imageInputOf } from "../models/input.ts";
import { loadRun } from "../runs/network.ts";
import { holdsRun } from "../runs/run-file.ts";

/** What a user may say of a teacher; what is left out is guessed from the model. */
export interface TeacherRequest {
  /** A run folder or an ONNX file. */
  readonly teacher: string;
  /** Side of its images, pixels. */
  readonly size?: number | undefined;
  readonly layout?: "nchw" | "nhwc" | undefined;
  /** Of the pixels in [0, 1], a number or one a channel. */
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
  /** Name of the value that holds the features: an output or any inner value. */
  readonly output?: string | undefined;
  /** Batch-norm branch of a run's encoder. */
  readonly branch?: string | undefined;
  /** Images at once, where the model leaves it open. */
  readonly batch: number;
}

export interface Teacher {
  /** Side of the images that it takes; undefined: any. */
  readonly size: number | undefined;
  /** What was given and what was guessed, for people. */
  readonly description: string;
  /**
   * Features [count, dim] of every image, un-augmented; `onBatch` is told how many are done.
   * @param ranks processes that each compute a part of the batches; every one gets all features
   */
  features(
    dataset: Dataset,
    onBatch: (images: number) => void,
    ranks?: Collective,
  ): Promise<{ data: Float32Array; dim: number }>;
  release(): Promise<void>;
}

const imageNet = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

/** @throws RequestError where the teacher cannot be read or what it takes is not an image */
export const openTeacher = async (
  request: TeacherRequest,
  engine: Engine,
  warn: (message: string) => void,
): Promise<Teacher> => {
  const isRun = await holdsRun(request.teacher).catch((error: unknown) => {
    throw fileError(error, "read", request.teacher);
  });
  return isRun ? ofRun(request, engine, warn) : ofModel(request, engine, warn);
};

const ofRun = async (request: TeacherRequest, engine: Engine, warn: (m: string) => void) => {
  const { teacher, branch, batch } = request;
  for (const name of ["layout", "output", "mean", "std"] as const)
    if (request[name] !== undefined)
      throw new RequestError(
        `--${name} is of an ONNX file, and ${teacher} is a run, which knows its own; leave it out${name === "mean" || name === "std" ? " (of imported weights it is given to advcl import)" : ""}`,
      );
  const { network, tensors } = await loadRun(teacher, warn);
  const chosen = branch ?? network.evaluatedBranch;
  if (network.branches === undefined && chosen !== network.evaluatedBranch)
    throw new RequestError(`the run in ${teacher} has batch norm of only one kind; leave --branch out`);
  if (network.branches !== undefined && !network.branches.includes(chosen))
    throw new RequestError(`branch ${chosen}: the encoder in ${teacher} has ${network.branches.join(", ")}`);
  const extractor = await createExtractor(engine, network, chosen, batch);
  return {
    size: network.size,
    description: `${encoderName(network)} of width ${network.width} in ${teacher}, branch ${chosen}, images of ${network.size}×${network.size}`,
    features: async (dataset: Dataset, onBatch: (images: number) => void, ranks?: Collective) => {
      const { data, shape } = await extractor.extract(dataset, tensors, ranks);
      onBatch(dataset.count);
      return { data, dim: shape[1]! };
    },
    release: () => extractor.release(),
  };
};

const ofModel = async (request: TeacherRequest, engine: Engine, warn: (message: string) => void): Promise<Teacher> => {
  const { teacher } = request;
  const model = await readModelFile(teacher, warn);
  const { file } = model;
  const guess = guessTeacher(file, teacher, request);
  const { images, mean, std, output } = guess;
  const session = await openAsIs(model, { images, mean, std, output }, engine.options);
  const ask = async (dataset: Dataset, from: number, batch: number) =>
    pooled(await session.run(imageBatch(dataset, from, batch)), batch, output);
  /** The batch that the model takes: another than asked for where a Reshape inside fixes one. */
  const batchFor = async (dataset: Dataset): Promise<number> => {
    if (images.batch !== undefined) return images.batch;
    const failing = async (batch: number): Promise<unknown> => {
      try {
        await ask(dataset, 0, batch);
      } catch (error) {
        return error;
      }
    };
    const failure = await failing(request.batch);
    if (failure === undefined) return request.batch;
    for (const size of bakedSizes(file)) {
      if (size === request.batch || (await failing(size)) !== undefined) continue;
      warn(
        `${teacher} takes ${size === 1 ? "one image" : `${size} images`} at a time, which a Reshape inside fixes; export it with an open batch to be faster`,
      );
      return size;
    }
    throw failure;
  };
  return {
    size: guess.size,
    description: guess.description,
    features: async (dataset, onBatch, ranks = alone) => {
      const batch = await batchFor(dataset);
      let all = new Float32Array(0);
      let dim = 0;
      for (let from = 0; from < dataset.count; from += batch) {
        const mine = isMine(ranks, from / batch);
        // The first tells every rank how long a row is.
        if (!mine && from > 0) continue;
        const { data, dim: width } = await ask(dataset, from, batch);
        if (from === 0) {
          dim = width;
          all = new Float32Array(dataset.count * dim);
        }
        const rows = Math.min(batch, dataset.count - from);
        if (mine) all.set(data.subarray(0, rows * dim), from * dim);
        onBatch(rows);
      }
      // Each number is one rank's, and zeros of the others.
      await ranks.sum(all);
      if (!all.every(Number.isFinite))
        throw new RequestError(
          `the features of ${teacher} are not finite for some images; give another teacher or --output`,
        );
      return { data: all, dim };
    },
    release: () => session.release(),
  };
};

interface Guess {
  readonly images: ImageInput;
  readonly output: string;
  readonly size: number | undefined;
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly description: string;
}

/** Names that exporters and people give to features. */
const featureName = /feature|embedding|pooled|representation|hidden/i;

/** What a model takes and gives, as far as its file says and the request does not. */
export const guessTeacher = (model: FileModel, source: string, request: TeacherRequest): Guess => {
  const images = imageInputOf(model, source, request);
  const { size, layout, name: input, dtype } = images;
  const inside = dtype === "uint8" || normalisesItself(model, input);
  const known = request.mean !== undefined || request.std !== undefined;
  const { mean, std } = known
    ? { mean: request.mean ?? [0], std: request.std ?? [1] }
    : inside
      ? { mean: [0], std: [1] }
      : imageNet;
  for (const [name, values] of Object.entries({ mean, std }))
    if (values.length !== 1 && values.length !== 3)
      throw new RequestError(`${name} ${values.join(",")}: give one number, or one for each of the three channels`);
  const how = known
    ? "as given"
    : inside
      ? "the model normalises by itself"
      : "guessed: ImageNet's; give --mean 0 --std 1 for plain pixels";

  const made = new Map(model.nodes.flatMap((node) => node.outputs.map((o) => [o, node] as const)));
  if (request.output !== undefined && !made.has(request.output)) {
    const near = [...made.keys()].slice(-5).join(", ");
    throw new RequestError(`output ${request.output}: ${source} has no value of that name; the last are ${near}`);
  }
  const output = request.output ?? guessOutput(model, made);
  const which =
    request.output !== undefined
      ? "as given"
      : model.outputs.includes(output)
        ? "the model's output"
        : "what its last linear layer reads";
  return {
    images,
    output,
    size,
    mean,
    std,
    description: `${source}: features ${output} (${which}); images ${layout}${dtype === "float32" ? "" : ` (${dtype})`} of ${size === undefined ? "the dataset's size" : `${size}×${size}`}; mean ${mean.join(",")} and std ${std.join(",")} (${how})`,
  };
};

/** Whether the model takes pixels in [0, 1]: an export of ours, or arithmetic with constants on its input. */
const normalisesItself = ({ nodes, metadata, initializers }: FileModel, input: string): boolean => {
  if (metadata.batch_norm !== undefined && metadata.preprocessing !== undefined) return true;
  const first = nodes.filter((node) => node.inputs.includes(input));
  return first.some(
    ({ op, inputs }) =>
      op === "BatchNormalization" ||
      (["Sub", "Div", "Mul", "Add"].includes(op) &&
        inputs.some(
          (name) => initializers.has(name) || nodes.some((n) => n.op === "Constant" && n.outputs.includes(name)),
        )),
  );
};

/** An output named as features are; else what a last linear layer (a classifier) reads; else the first output. */
const guessOutput = ({ outputs }: FileModel, made: ReadonlyMap<string, FileNode>): string => {
  const named = outputs.find((name) => featureName.test(name));
  if (named !== undefined) return named;
  const first = outputs[0]!;
  const last = made.get(first);
  const linear =
    last?.op === "Gemm"
      ? last
      : last?.op === "Add"
        ? last.inputs.map((i) => made.get(i)).find((n) => n?.op === "MatMul")
        : undefined;
  const read = linear?.inputs[0];
  return read !== undefined && made.has(read) ? read : first;
};

/** Rows of features: [N,D] as they are, [N,C,H,W] by the mean of each map, [N,T,D] by the mean of the tokens. */
const pooled = ({ dtype, shape, data }: Tensor, batch: number, name: string): { data: Float32Array; dim: number } => {
  if ((dtype !== "float32" && dtype !== "float16") || shape[0] !== batch || shape.length < 2 || shape.length > 4)
    throw new RequestError(
      `output ${name} is ${dtype}[${shape.join(",")}], which is not one row of features an image; choose another with --output`,
    );
  const values = dtype === "float16" ? fromFloat16(data as Uint16Array) : (data as Float32Array);
  const [, a = 1, b = 1, c = 1] = shape;
  if (shape.length === 2 || (shape.length === 4 && b * c === 1)) return { data: values, dim: a };
  const [dim, places] = shape.length === 4 ? [a, b * c] : [b, a];
  const out = new Float32Array(batch * dim);
  for (let n = 0; n < batch; n++)
    for (let d = 0; d < dim; d++) {
      let sum = 0;
      for (let p = 0; p < places; p++)
        sum += values[n * dim * places + (shape.length === 4 ? d * places + p : p * dim + d)]!;
      out[n * dim + d] = sum / places;
    }
  return { data: out, dim };
};
