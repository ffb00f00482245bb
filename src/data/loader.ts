import { types } from "node:util";
import { Worker } from "node:worker_threads";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import type { InputRecipe, InputRecipes } from "../../graphs/views/recipe.ts";
import { compiledFile } from "../engine/compiled.ts";
import { RequestError, RunError } from "../errors.ts";
import type { Dataset } from "./dataset.ts";
import {
  chunkRows,
  control,
  type EpochRequest,
  slotViews,
  stopped,
  type WorkerReport,
  type WorkerSetup,
} from "./loader-channel.ts";
import { type Canvas, createPainter, type NamedRecipes } from "./painter.ts";
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

/** An epoch being made. */
interface Making {
  /** The views of the next batch, in the order of the recipes. */
  take(): Promise<Float32Array[]>;
  /** Leaves the epoch, unless another has begun since. */
  end(): Promise<void>;
}

interface Source {
  begin(request: Omit<EpochRequest, "generation">): Promise<Making>;
  close(): Promise<void>;
}

const inProcess = (canvas: Canvas, seed: number, batch: number): Source => ({
  begin: async ({ epoch, order, recipes }) => {
    const paint = createPainter(canvas, recipes, seed);
    let step = 0;
    return {
      take: async () => {
        const positions = order.subarray(step * batch, ++step * batch);
        const outs = recipes.map(() => new Float32Array(positions.length * 3 * canvas.height * canvas.width));
        paint(epoch, positions, 0, positions.length, outs);
        return outs;
      },
      end: async () => {},
    };
  },
  close: async () => {},
});

const threads = (count: number, setup: WorkerSetup): Source => {
  const { numbers, batch, slots } = setup;
  const chunks = Math.ceil(batch / chunkRows);
  const slotOuts = Array.from({ length: slots }, (_, slot) => slotViews(setup, slot));
  const length = setup.pixels.length / (slots * setup.views * batch);
  let generation = 0;
  let working = 0;
  let failure: RunError | undefined;
  let wake: () => void = () => {};
  let closing = false;

  const fail = (cause: unknown): void => {
    const reason = types.isNativeError(cause) ? cause.message : String(cause); // instanceof fails across realms
    failure ??= new RunError(`a data worker failed: ${reason}`, { cause });
    wake();
  };
  const file = compiledFile("data/loader-worker.js");
  const workers = Array.from({ length: count }, () => {
    const worker = new Worker(file, { workerData: setup });
    worker.on("message", (report: WorkerReport) => {
      if (report.kind === "failed") fail(report.error);
      if (report.kind === "idle") working--;
      wake();
    });
    worker.on("error", fail);
    worker.on("exit", (code) => {
      if (!closing) fail(new Error(`it ended with code ${code}`));
    });
    worker.unref(); // a loader that nobody closed does not keep the process alive
    return worker;
  });

  /** Sleeps until `done` or a failure, which it throws. */
  const until = async (done: () => boolean): Promise<void> => {
    if (failure === undefined && done()) return;
    for (const worker of workers) worker.ref();
    try {
      while (failure === undefined && !done()) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      for (const worker of workers) worker.unref();
    }
    if (failure !== undefined) throw failure;
  };

  const stop = async (): Promise<void> => {
    Atomics.store(numbers, control.generation, ++generation);
    Atomics.store(numbers, control.released, stopped);
    Atomics.notify(numbers, control.released);
    await until(() => working === 0);
  };

  return {
    begin: async (request) => {
      await stop();
      numbers.fill(0);
      const mine = ++generation;
      Atomics.store(numbers, control.generation, mine);
      working = count;
      for (const worker of workers) worker.postMessage({ generation: mine, ...request } satisfies EpochRequest);
      let step = 0;
      return {
        take: async () => {
          const slot = step % slots;
          const painted = control.painted + slot;
          await until(() => generation !== mine || Atomics.load(numbers, painted) === chunks);
          if (generation !== mine) throw new RunError("internal: a batch was asked of an epoch that was given up");
          const rows = Math.min(batch, request.order.length - step * batch);
          // ONNX Runtime refuses shared memory, and the slot is needed again.
          const outs = slotOuts[slot]!.map((pixels) => pixels.slice(0, rows * length));
          step++;
          Atomics.store(numbers, painted, 0);
          Atomics.add(numbers, control.released, 1);
          Atomics.notify(numbers, control.released);
          return outs;
        },
        end: async () => {
          if (generation === mine && failure === undefined) await stop();
        },
      };
    },
    close: async () => {
      closing = true;
      failure ??= new RunError("the data loader was closed");
      wake();
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
};

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

/**
 * Makes the batches of a training or an evaluation. A batch depends on (seed, epoch, step) and the dataset alone: not on
 * the number of workers, nor on which batches were read before.
 * @throws RequestError where a setting does not fit the dataset
 */
export const createLoader = (options: LoaderOptions): Loader => {
  const { dataset, pseudoLabels, seed, dropLast, shuffle = true } = options;
  const batch = whole("batch", options.batch, 1);
  const workers = whole("workers", options.workers, 0);
  const slots = whole("prefetch", options.prefetch ?? 2, 2);
  whole("seed", seed, 0);
  const inputsOf = (epoch: number): LoaderInputs =>
    typeof options.inputs === "function" ? options.inputs(epoch) : options.inputs;
  const viewsOf = (inputs: LoaderInputs): NamedRecipes =>
    Object.entries(inputs).filter((entry): entry is [string, ViewRecipe] => isView(entry[1]));

  const stepsPerEpoch = dropLast ? Math.floor(dataset.count / batch) : Math.ceil(dataset.count / batch);
  if (stepsPerEpoch === 0)
    throw new RequestError(
      `batch ${batch} is larger than the ${dataset.count} images of ${dataset.name} ${dataset.split}; give a smaller batch.`,
    );
  let checked = inputsOf(options.firstEpoch ?? 1);
  checkInputs(options, checked);
  const views = viewsOf(checked).length;

  const canvas: Canvas = {
    images: workers > 0 ? shared(dataset.images, (buffer) => new Uint8Array(buffer)) : dataset.images,
    index: workers > 0 ? shared(dataset.index, (buffer) => new Int32Array(buffer)) : dataset.index,
    height: dataset.height,
    width: dataset.width,
  };
  const imageLength = 3 * dataset.height * dataset.width;
  const source =
    workers === 0 || views === 0
      ? inProcess(canvas, seed, batch)
      : threads(workers, {
          canvas,
          seed,
          batch,
          slots,
          views,
          numbers: new Int32Array(new SharedArrayBuffer(4 * (control.painted + slots))),
          pixels: new Float32Array(new SharedArrayBuffer(4 * slots * views * batch * imageLength)),
        });
  let waitSeconds = 0;

  const int32 = (values: Int32Array): Tensor<"int32"> => tensor("int32", [values.length], values);

  const makeTensor = (
    name: string,
    input: LoaderInput,
    epoch: number,
    positions: Int32Array,
    indices: Int32Array,
    pixels: () => Float32Array,
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
        return tensor("float32", [positions.length, 3, dataset.height, dataset.width], pixels());
    }
  };

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
    const ahead = order.subarray(startStep * batch, dropLast ? stepsPerEpoch * batch : dataset.count);
    const recipes = viewsOf(inputs);
    const making = await source.begin({ epoch, order: ahead, steps: stepsPerEpoch - startStep, recipes });
    try {
      for (let step = startStep; step < stepsPerEpoch; step++) {
        const asked = performance.now();
        const pixels = await making.take();
        waitSeconds += (performance.now() - asked) / 1000;
        const positions = ahead.subarray((step - startStep) * batch, (step - startStep + 1) * batch);
        const indices = positions.map((p) => dataset.index[p]!);
        let view = 0;
        const tensors = Object.fromEntries(
          Object.entries(inputs).map(([name, input]) => [
            name,
            makeTensor(name, input, epoch, positions, indices, () => pixels[view++]!),
          ]),
        );
        yield { epoch, step, indices, tensors };
      }
    } finally {
      await making.end();
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
