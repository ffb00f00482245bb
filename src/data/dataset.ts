import { RequestError } from "../errors.ts";
import { cifar10, cifar100 } from "./cifar.ts";
import { folder } from "./folder.ts";
import { shapes } from "./shapes.ts";
import { stl10 } from "./stl10.ts";

export const splits = ["train", "test", "unlabeled"] as const;
export type Split = (typeof splits)[number];

/** Images in memory, with where each stands in the official dataset. */
export interface Dataset {
  readonly name: DatasetName;
  readonly split: Split;
  /** How many images are here. */
  readonly count: number;
  readonly height: number;
  readonly width: number;
  /** Names of the classes that `labels` number; empty where the images have none. */
  readonly classes: readonly string[];
  /** [count, 3, height, width] planar RGB, in shared memory, so that worker threads need no copy. */
  readonly images: Uint8Array;
  /** [count] class of each image. */
  readonly labels?: Int32Array;
  /** CIFAR-100's twenty superclasses. */
  readonly coarseClasses?: readonly string[];
  /** [count] superclass of each image. */
  readonly coarseLabels?: Int32Array;
  /** [count] each image's place in the full official split, which is what pseudo-labels and random keys go by. */
  readonly index: Int32Array;
  /** Images of the full official split. */
  readonly officialCount: number;
}

/** What a format's loader is asked for, after the checks that all formats share. */
export interface FormatOptions {
  readonly data: string | undefined;
  readonly split: Split;
  /** Side of the square images to make; undefined keeps the dataset's own. */
  readonly size: number | undefined;
  /** How many images to read at most; undefined is all. */
  readonly limit: number | undefined;
  /** Of generated datasets. */
  readonly seed: number;
}

const formats = { cifar10, cifar100, stl10, folder, shapes } satisfies Record<
  string,
  (options: FormatOptions) => Promise<Dataset>
>;

export type DatasetName = "cifar10" | "cifar100" | "stl10" | "folder" | "shapes";

export const datasetNames: readonly DatasetName[] = ["cifar10", "cifar100", "stl10", "folder", "shapes"];

export interface DatasetOptions {
  readonly name: DatasetName;
  /** The dataset's folder, its parent folder, or the tar.gz as downloaded; `shapes` takes none. */
  readonly data?: string | undefined;
  readonly split: Split;
  /** Resize to size×size (antialiased bilinear; folders through sharp, centre-cropped). */
  readonly size?: number | undefined;
  /** Only the first `limit` images; for `shapes`, how many to make. */
  readonly limit?: number | undefined;
  /** Of `shapes`: another seed gives other images. Default 0. */
  readonly seed?: number | undefined;
}

const positive = (setting: string, value: number | undefined): void => {
  if (value !== undefined && !(Number.isInteger(value) && value >= 1))
    throw new RequestError(`${setting} must be a whole number from 1, not ${value}.`);
};

/**
 * Loads a split of a dataset into memory.
 * @throws RequestError where a setting is wrong, or files are missing, cut off or not what they should be
 */
export const loadDataset = async (options: DatasetOptions): Promise<Dataset> => {
  const { name, data, split, size, limit, seed = 0 } = options;
  if (!Object.hasOwn(formats, name))
    throw new RequestError(`dataset must be one of ${datasetNames.join(", ")}, not ${name}.`);
  if (!splits.includes(split)) throw new RequestError(`split must be one of ${splits.join(", ")}, not ${split}.`);
  positive("size", size);
  positive("limit", limit);
  if (name !== "shapes" && data === undefined)
    throw new RequestError(`dataset ${name} needs --data: the folder or archive that holds it`);
  return formats[name]({ data, split, size, limit, seed });
};

/** The same dataset with only the images at `positions`, in that order, such as a validation split. */
export const subset = (dataset: Dataset, positions: ArrayLike<number>): Dataset => {
  const count = positions.length;
  const length = 3 * dataset.height * dataset.width;
  const images = new Uint8Array(new SharedArrayBuffer(count * length));
  const pick = (values: Int32Array): Int32Array => Int32Array.from(positions, (p) => values[p]!);
  for (let i = 0; i < count; i++) {
    const p = positions[i]!;
    if (!(Number.isInteger(p) && p >= 0 && p < dataset.count))
      throw new RangeError(`position ${p} is outside the ${dataset.count} images of ${dataset.name}`);
    images.set(dataset.images.subarray(p * length, (p + 1) * length), i * length);
  }
  return {
    ...dataset,
    count,
    images,
    index: pick(dataset.index),
    ...(dataset.labels && { labels: pick(dataset.labels) }),
    ...(dataset.coarseLabels && { coarseLabels: pick(dataset.coarseLabels) }),
  };
};
