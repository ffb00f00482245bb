/** Datasets that are drawn instead of read. */
import { RequestError } from "../errors.ts";
import type { Dataset, DatasetName, FormatOptions, Split } from "./dataset.ts";
import { digestBytes, imageDigest } from "./digest.ts";
import { allocateImages } from "./memory.ts";
import { type Random, random } from "./random.ts";

// Bound once: under jest every look-up of a global is slow.
const { max, min } = Math;

/** How a dataset's images are made. */
export interface Drawing {
  readonly name: DatasetName;
  readonly classes: readonly string[];
  /** Writes an image [3, size, size] of class `label`. */
  readonly draw: (r: Random, label: number, size: number, out: Uint8Array) => void;
}

const defaultCounts = { train: 2_000, test: 500 };

/** Red, green and blue in [0, 1]. */
export type Colour = readonly [red: number, green: number, blue: number];

/** A colour by hue (1 is once around), saturation and value. */
export const hue = (h: number, s: number, v: number): Colour => {
  const channel = (n: number): number => {
    const k = (n + h * 6) % 6;
    return v * (1 - s * max(0, min(k, 4 - k, 1)));
  };
  return [channel(5), channel(3), channel(1)];
};

/** A number between two, evenly distributed. */
export const between = (r: Random, low: number, high: number): number => low + (high - low) * r.uniform();

/** Refuses a split that a generated dataset has none of. */
export const checkGeneratedSplit =
  ({ name }: Drawing) =>
  async ({ split }: { readonly split: Split }): Promise<void> => {
    if (split === "unlabeled") throw new RequestError(`${name} has no split unlabeled; its splits are train and test.`);
  };

/** The loader of a drawn dataset. Image i of a split has class i mod (number of classes) and depends on (seed, split, i) alone. */
export const generated =
  (drawing: Drawing) =>
  async ({ split, size = 32, limit, seed }: FormatOptions): Promise<Dataset> => {
    const { name, classes, draw } = drawing;
    await checkGeneratedSplit(drawing)({ split });
    const count = limit ?? defaultCounts[split as "train" | "test"];
    const length = 3 * size * size;
    const images = allocateImages(count, size, size);
    const labels = Int32Array.from({ length: count }, (_, i) => i % classes.length);
    const digests = new Uint8Array(count * digestBytes);
    for (let i = 0; i < count; i++) {
      const stream = `${name}:${split}`;
      draw(random(seed, 0, i, stream), labels[i]!, size, images.subarray(i * length, (i + 1) * length));
      digests.set(imageDigest(`${stream}:${seed}:${i}`, new Uint8Array(0)), i * digestBytes);
    }
    return {
      ...{ name, split, count, height: size, width: size, classes, images, labels, digests },
      index: Int32Array.from({ length: count }, (_, i) => i),
      officialCount: max(count, defaultCounts[split as "train" | "test"]),
    };
  };
