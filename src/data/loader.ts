/** Batches of images, in views keyed by (seed, epoch, image), with labels and other numbers beside them. */
import { types } from "node:util";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import type { InputRecipe, InputRecipes } from "../../graphs/views/recipe.ts";
import { RequestError } from "../errors.ts";
import { type BatchSource, inProcess, inThreads } from "./batch-source.ts";
import type { Dataset } from "./dataset.ts";
import { control } from "./loader-channel.ts";
import type { Canvas, NamedRecipes } from "./painter.ts";
import { checkPseudoLabels, type PseudoLabels } from "./pseudo-labels.ts";
import { epochOrder, random } from "./random.ts";
import { checkRecipe, type ViewRecipe } from "./view.ts";

export type LoaderInput = InputRecipe;
export type LoaderInputs = InputRecipes;

export interface LoaderOptions {
  readonly dataset: Dataset;
  /** Images of a batch. */
  readonly batch: number;
  readonly seed: number;
  /** Threads that make batches ahead; 0 makes each when it is asked for. The batches are the same. */
  readonly workers: number;
  /** The same for all epochs, or for each epoch its own with as many views. */
  readonly inputs: LoaderInputs | ((epoch: number) => LoaderInputs);
  /** Where `inputs` is a function: the epoch whose inputs are checked at once. Default 1. */
  readonly firstEpoch?: number | undefined;
  /** Needed by inputs of kind pseudo-label. */
  readonly pseudoLabels?: PseudoLabels | undefined;
  /** Whether to leave out the last batch of an epoch where it is not full. */
  readonly dropLast: boolean;
  /** Whether each epoch has its own random order (default), or all go by the dataset's. */
  readonly shuffle?: boolean | undefined;
  /** The part of each batch that is made: of `size` equal parts the one numbered `rank` (default: all of it). */
  readonly share?: { readonly rank: number; readonly size: number } | undefined;
  /** Batches that workers may be ahead, at least 2 (default). */
  readonly prefetch?: number | undefined;
}

export interface Batch {
  readonly epoch: number;
  /** From 0 in each epoch. */
  readonly step: number;
  /** [B] place of each image in the official dataset. */
  readonly indices: Int32Array;
  /** Views float32 [B, 3, H, W], the rest int32 [B]; memory of their own, fit for ONNX Runtime and free to keep. */
  readonly tensors: Readonly<Record<string, Tensor>>;
}

export interface Loader {
  readonly stepsPerEpoch: number;
  /** Seconds that batches have kept the caller waiting so far (all of their making where there are no workers). */
  readonly waitSeconds: number;
  /**
   * The batches of an epoch, from `startStep` (default 0) on: the same whether or not earlier ones were read. One epoch
   * is read at a time; starting another gives up the one before.
   */
  epoch(epoch: number, options?: { readonly startStep?: number }): AsyncGenerator<Batch, void, void>;
  /** Ends the workers. */
  close(): Promise<void>;
}

const isView = (input: LoaderInput): input is ViewRecipe =>
  input.kind !== "label" && input.kind !== "pseudo-label" && input.kind !== "index" && input.kind !== "random";

const checkInputs = ({ dataset, pseudoLabels }: LoaderOptions, inputs: LoaderInputs): void => {
  for (const [name, input] of Object.entries(inputs)) {
    if (isView(input)) checkRecipe(name, input);
    else if (input.kind === "label" && dataset.labels === undefined)
      throw new RequestError(
        `input ${name}: ${dataset.name} ${dataset.split} has no labels; choose a labelled dataset or split.`,
      );
    else if (input.kind === "pseudo-label") {
      if (pseudoLabels === undefined)
        throw new RequestError(`input ${name} needs pseudo-labels; give a file made by \`advcl cluster\`.`);
      checkPseudoLabels(pseudoLabels, dataset, [input.k]);
    }
  }
};

const whole = (setting: string, value: number, least: number): number => {
  if (!(Number.isInteger(value) && value >= least))
    throw new RequestError(`${setting} must be a whole number from ${least}, not ${value}.`);
  return value;
};

const shared = <A extends Uint8Array | Int32Array>(values: A, make: (buffer: SharedArrayBuffer) => A): A => {
  if (types.isSharedArrayBuffer(values.buffer)) return values;
  const copy = make(new SharedArrayBuffer(values.byteLength));
  copy.set(values);
  return copy;
};

const viewsOf = (inputs: LoaderInputs): NamedRecipes =>
  Object.entries(inputs).filter((entry): entry is [string, ViewRecipe] => isView(entry[1]));

const int32 = (values: Int32Array): Tensor<"int32"> => tensor("int32", [values.length], values);

/** Images of a batch: their places in what was loaded, and in the official dataset. */
interface Rows {
  readonly epoch: number;
  readonly positions: Int32Array;
  readonly indices: Int32Array;
}

/** An input of a batch; `pixels` are the views' in their order. */
const makeTensor = (
  { dataset, pseudoLabels, seed }: LoaderOptions,
  [name, input]: readonly [string, LoaderInput],
  { epoch, positions, indices }: Rows,
  pixels: Iterator<Float32Array>,
): Tensor => {
  switch (input.kind) {
    case "label":
      return int32(positions.map((p) => dataset.labels![p]!));
    case "index":
      return int32(indices.slice());
    case "random":
      return int32(indices.map((i) => random(seed, epoch, i, name).int(input.below)));
    case "pseudo-label": {
      const labels = pseudoLabels!.labels(input.k);
      return int32(indices.map((i) => labels[i]!));
    }
    default:
      return tensor("float32", [positions.length, 3, dataset.height, dataset.width], pixels.next().value);
  }
};

/** What makes the views: workers that share the images, or this thread. */
const sourceOf = ({ dataset, batch, seed, workers, prefetch }: LoaderOptions, views: number): BatchSource => {
  const slots = whole("prefetch", prefetch ?? 2, 2);
  const { height, width } = dataset;
  if (workers === 0 || views === 0)
    return inProcess({ images: dataset.images, index: dataset.index, height, width }, seed, batch);
  const canvas: Canvas = {
    images: shared(dataset.images, (buffer) => new Uint8Array(buffer)),
    index: shared(dataset.index, (buffer) => new Int32Array(buffer)),
    height,
    width,
  };
  return inThreads(workers, {
    ...{ canvas, seed, batch, slots, views },
    numbers: new Int32Array(new SharedArrayBuffer(4 * (control.painted + slots))),
    pixels: new Float32Array(new SharedArrayBuffer(4 * slots * views * batch * 3 * height * width)),
  });
};

/** Every step's rows of one share, in the order of whole batches. */
const shareRows = (order: Int32Array, batch: number, { rank, size }: { rank: number; size: number }): Int32Array => {
  const rows = batch / size;
  return order.filter((_, place) => Math.floor((place % batch) / rows) === rank);
};

const checkOptions = ({ dataset, batch, workers, seed, dropLast, share }: LoaderOptions): number => {
  whole("batch", batch, 1);
  whole("workers", workers, 0);
  whole("seed", seed, 0);
  if (share !== undefined && !(dropLast && batch % share.size === 0))
    throw new RangeError(`a batch of ${batch} has not ${share.size} equal parts`);
  const stepsPerEpoch = dropLast ? Math.floor(dataset.count / batch) : Math.ceil(dataset.count / batch);
  if (stepsPerEpoch === 0)
    throw new RequestError(
      `batch ${batch} is larger than the ${dataset.count} images of ${dataset.name} ${dataset.split}; give a smaller batch.`,
    );
  return stepsPerEpoch;
};

/**
 * Makes the batches of a training or an evaluation. A batch depends on (seed, epoch, step) and the dataset alone: not on
 * the number of workers, nor on which batches were read before.
 * @throws RequestError where a setting does not fit the dataset
 */
export const createLoader = (options: LoaderOptions): Loader => {
  const { dataset, seed, dropLast, shuffle = true, share = { rank: 0, size: 1 } } = options;
  const batch = options.batch / share.size;
  const stepsPerEpoch = checkOptions(options);
  const inputsOf = (epoch: number): LoaderInputs =>
    typeof options.inputs === "function" ? options.inputs(epoch) : options.inputs;
  let checked = inputsOf(options.firstEpoch ?? 1);
  checkInputs(options, checked);
  const views = viewsOf(checked).length;
  const source = sourceOf({ ...options, batch }, views);
  let waitSeconds = 0;

  async function* epochBatches(epoch: number, startStep: number): AsyncGenerator<Batch, void, void> {
    const inputs = inputsOf(epoch);
    if (inputs !== checked) {
      checkInputs(options, inputs);
      if (viewsOf(inputs).length !== views) throw new RangeError(`epoch ${epoch} has not the views of the others`);
      checked = inputs;
    }
    const order = shuffle
      ? epochOrder(seed, epoch, dataset.count)
      : Int32Array.from({ length: dataset.count }, (_, i) => i);
    const all = order.subarray(startStep * options.batch, dropLast ? stepsPerEpoch * options.batch : dataset.count);
    const ahead = share.size === 1 ? all : shareRows(all, options.batch, share);
    const steps = stepsPerEpoch - startStep;
    const made = await source.startEpoch({ epoch, order: ahead, steps, recipes: viewsOf(inputs) });
    try {
      for (let step = startStep; step < stepsPerEpoch; step++) {
        const asked = performance.now();
        const pixels = (await made.take()).values();
        waitSeconds += (performance.now() - asked) / 1000;
        const positions = ahead.subarray((step - startStep) * batch, (step - startStep + 1) * batch);
        const indices = positions.map((p) => dataset.index[p]!);
        const rows = { epoch, positions, indices };
        const tensors = Object.entries(inputs).map(
          (entry) => [entry[0], makeTensor(options, entry, rows, pixels)] as const,
        );
        yield { epoch, step, indices, tensors: Object.fromEntries(tensors) };
      }
    } finally {
      await made.end();
    }
  }

  return {
    stepsPerEpoch,
    get waitSeconds() {
      return waitSeconds;
    },
    epoch: (epoch, { startStep = 0 } = {}) => {
      whole("epoch", epoch, 0);
      if (whole("startStep", startStep, 0) > stepsPerEpoch)
        throw new RequestError(`startStep ${startStep} is past the ${stepsPerEpoch} steps of an epoch.`);
      return epochBatches(epoch, startStep);
    },
    close: () => source.close(),
  };
};
