import { parentPort, workerData } from "node:worker_threads";
import {
  chunkRows,
  control,
  type EpochRequest,
  slotViews,
  type WorkerReport,
  type WorkerSetup,
} from "./loader-channel.ts";
import { createPainter } from "./painter.ts";

/** A thread that fills slots with batches ahead of the main thread; see loader-channel.ts. */

const setup = workerData as WorkerSetup;
const { numbers, batch, slots } = setup;
const port = parentPort!;
const say = (report: WorkerReport): void => port.postMessage(report);
const slotOuts = Array.from({ length: slots }, (_, slot) => slotViews(setup, slot));
const chunks = Math.ceil(batch / chunkRows);

/** Waits until `step` may use its slot; false where the epoch was given up. */
const slotFree = (step: number, generation: number): boolean => {
  for (;;) {
    const released = Atomics.load(numbers, control.released);
    if (Atomics.load(numbers, control.generation) !== generation) return false;
    if (step - released < slots) return true;
    Atomics.wait(numbers, control.released, released);
  }
};

const work = ({ generation, epoch, order, steps, recipes }: EpochRequest): void => {
  const paint = createPainter(setup.canvas, recipes, setup.seed);
  for (;;) {
    const chunk = Atomics.add(numbers, control.next, 1);
    const step = Math.floor(chunk / chunks);
    if (step >= steps || !slotFree(step, generation)) return;
    const positions = order.subarray(step * batch, (step + 1) * batch);
    const begin = (chunk % chunks) * chunkRows;
    const slot = step % slots;
    paint(epoch, positions, begin, Math.min(begin + chunkRows, positions.length), slotOuts[slot]!);
    if (Atomics.add(numbers, control.painted + slot, 1) + 1 === chunks) say({ kind: "ready" });
  }
};

port.on("message", (request: EpochRequest) => {
  try {
    work(request);
  } catch (cause) {
    say({ kind: "failed", error: cause instanceof Error ? cause : new Error(String(cause)) });
  }
  say({ kind: "idle", generation: request.generation });
});
