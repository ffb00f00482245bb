/** Parts of datasets. */
import type { Dataset } from "./dataset.ts";
import { digestBytes } from "./digest.ts";
import { allocateImages } from "./memory.ts";

/** The same dataset with only the images at `positions`, in that order, such as a validation split. */
export const subset = (dataset: Dataset, positions: ArrayLike<number>): Dataset => {
  const count = positions.length;
  const length = 3 * dataset.height * dataset.width;
  const images = allocateImages(count, dataset.height, dataset.width);
  const digests = dataset.digests && new Uint8Array(count * digestBytes);
  const pick = (values: Int32Array): Int32Array => Int32Array.from(positions, (p) => values[p]!);
  for (let i = 0; i < count; i++) {
    const p = positions[i]!;
    if (!(Number.isInteger(p) && p >= 0 && p < dataset.count))
      throw new RangeError(`position ${p} is outside the ${dataset.count} images of ${dataset.name}`);
    images.set(dataset.images.subarray(p * length, (p + 1) * length), i * length);
    digests?.set(dataset.digests!.subarray(p * digestBytes, (p + 1) * digestBytes), i * digestBytes);
  }
  return {
    ...dataset,
    count,
    images,
    index: pick(dataset.index),
    ...(dataset.labels && { labels: pick(dataset.labels) }),
    ...(dataset.coarseLabels && { coarseLabels: pick(dataset.coarseLabels) }),
    ...(digests && { digests }),
  };
};
