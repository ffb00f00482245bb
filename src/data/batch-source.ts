/** Where batches' views come from: made when they are asked for, or ahead in threads. */
import { types } from "node:util";
import { Worker } from "node:worker_threads";
import { compiledFile } from "../engine/compiled.ts";
import { RunError } from "../errors.ts";
import {
  chunkRows,
  control,
  type EpochRequest,
  slotViews,
  stopped,
  type WorkerReport,
  type WorkerSetup,
} from "./loader-channel.ts";
import { type Canvas, createPainter } from "./painter.ts";

/** An epoch being made. */
export interface EpochSource {
  /** The views of the next batch, in the order of the recipes. */
  take(): Promise<Float32Array[]>;
  /** Leaves the epoch, unless another has begun since. */
  end(): Promise<void>;
}

export interface BatchSource {
  startEpoch(request: Omit<EpochRequest, "generation">): Promise<EpochSource>;
  close(): Promise<void>;
}

/** Batches that are made when they are asked for. */
export const inProcess = (canvas: Canvas, seed: number, batch: number): BatchSource => ({
  startEpoch: async ({ epoch, order, recipes }) => {
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

/** Threads that make the batches of an epoch ahead, into slots of shared memory. */
class WorkerPool {
  readonly #setup: WorkerSetup;
  readonly #workers: readonly Worker[];
  /** Workers that are at an epoch. */
  #working = 0;
  #failure: RunError | undefined;
  #closing = false;
  #wake: () => void = () => {};
  /** Number of the epoch that the workers are at. */
  generation = 0;

  constructor(count: number, setup: WorkerSetup) {
    this.#setup = setup;
    const file = compiledFile("data/loader-worker.js");
    this.#workers = Array.from({ length: count }, () => this.#start(file));
  }

  #start(file: URL): Worker {
    const worker = new Worker(file, { workerData: this.#setup });
    worker.on("message", (report: WorkerReport) => {
      if (report.kind === "failed") this.#fail(report.error);
      if (report.kind === "idle") this.#working--;
      this.#wake();
    });
    worker.on("error", (error) => this.#fail(error));
    worker.on("exit", (code) => {
      if (!this.#closing) this.#fail(new Error(`it ended with code ${code}`));
    });
    worker.unref(); // a loader that nobody closed does not keep the process alive
    return worker;
  }

  #fail(cause: unknown): void {
    const reason = types.isNativeError(cause) ? cause.message : String(cause); // instanceof fails across realms
    this.#failure ??= new RunError(`a data worker failed: ${reason}`, { cause });
    this.#wake();
  }

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Sleeps until `done` or a failure, which it throws. */
  async until(done: () => boolean): Promise<void> {
    if (this.#failure === undefined && done()) return;
    for (const worker of this.#workers) worker.ref();
    try {
      while (this.#failure === undefined && !done()) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      for (const worker of this.#workers) worker.unref();
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Has the workers leave their epoch, and waits until they have. */
  async stop(): Promise<void> {
    const { numbers } = this.#setup;
    Atomics.store(numbers, control.generation, ++this.generation);
    Atomics.store(numbers, control.released, stopped);
    Atomics.notify(numbers, control.released);
    await this.until(() => this.#working === 0);
  }

  /** Has the workers begin an epoch. Returns its number. */
  begin(request: Omit<EpochRequest, "generation">): number {
    const { numbers } = this.#setup;
    numbers.fill(0);
    const generation = ++this.generation;
    Atomics.store(numbers, control.generation, generation);
    this.#working = this.#workers.length;
    for (const worker of this.#workers) worker.postMessage({ generation, ...request } satisfies EpochRequest);
    return generation;
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#failure ??= new RunError("the data loader was closed");
    this.#wake();
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

/** Batches that threads make ahead. */
export const inThreads = (count: number, setup: WorkerSetup): BatchSource => {
  const { numbers, batch, slots } = setup;
  const chunks = Math.ceil(batch / chunkRows);
  const slotOuts = Array.from({ length: slots }, (_, slot) => slotViews(setup, slot));
  const length = setup.pixels.length / (slots * setup.views * batch);
  const pool = new WorkerPool(count, setup);
  const startEpoch: BatchSource["startEpoch"] = async (request) => {
    await pool.stop();
    const mine = pool.begin(request);
    let step = 0;
    return {
      take: async () => {
        const slot = step % slots;
        const painted = control.painted + slot;
        await pool.until(() => pool.generation !== mine || Atomics.load(numbers, painted) === chunks);
        if (pool.generation !== mine) throw new RunError("internal: a batch was asked of an epoch that was given up");
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
        if (pool.generation === mine && !pool.failed) await pool.stop();
      },
    };
  };
  return { startEpoch, close: () => pool.close() };
};
