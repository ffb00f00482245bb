import type { Canvas, NamedRecipes } from "./painter.ts";

/**
 * What the loader and its workers share. Batches are cut into chunks of rows, numbered through the epoch; a worker takes
 * the next chunk off a counter, waits until the chunk's slot is free, and paints it. All of this goes on while the main
 * thread is blocked in ONNX Runtime; the main thread only copies a finished slot out and frees it.
 */

/** Rows of a chunk. */
export const chunkRows = 16;

/** Places in the shared Int32Array of control numbers; from `painted` on, one for each slot. */
export const control = {
  /** The epoch's serial number; a worker leaves an epoch whose number is no longer this. */
  generation: 0,
  /** Batches that the main thread has taken out; `stopped` once the epoch is over. */
  released: 1,
  /** The next chunk that no worker has taken. */
  next: 2,
  /** Chunks of the slot's batch that are painted. */
  painted: 3,
} as const;

/** Wakes workers that wait for a slot when there is nothing more to wait for. */
export const stopped = -1;

/** Given to a worker when it starts. */
export interface WorkerSetup {
  readonly canvas: Canvas;
  readonly seed: number;
  readonly batch: number;
  /** How many batches fit ahead. */
  readonly slots: number;
  /** Views of a batch. */
  readonly views: number;
  /** Shared; see `control`. */
  readonly numbers: Int32Array;
  /** Shared [slots, views, batch, 3, height, width]. */
  readonly pixels: Float32Array;
}

/** Starts an epoch in a worker. */
export interface EpochRequest {
  readonly generation: number;
  readonly epoch: number;
  /** Positions of the images in the order of this epoch, from its first step to make on. */
  readonly order: Int32Array;
  /** Batches to make. */
  readonly steps: number;
  readonly recipes: NamedRecipes;
}

/** What a worker says: a batch is whole, the worker has left the epoch, or it failed. */
export type WorkerReport =
  | { readonly kind: "ready" }
  | { readonly kind: "idle"; readonly generation: number }
  | { readonly kind: "failed"; readonly error: Error };

/** The views of one slot, each [batch, 3, height, width]. */
export const slotViews = ({ pixels, slots, views }: WorkerSetup, slot: number): Float32Array[] => {
  const length = pixels.length / (slots * views);
  return Array.from({ length: views }, (_, v) => {
    const from = (slot * views + v) * length;
    return pixels.subarray(from, from + length);
  });
};
