import { RequestError } from "../errors.ts";
import type { ReadOptions } from "../files/budget.ts";
import { checkCifar10, checkCifar100, cifar10, cifar100 } from "./cifar.ts";
import { checkFolder, folder, folderPhotographs, type Photograph } from "./folder.ts";
import { checkGeneratedSplit, type Drawing, generated } from "./generated.ts";
import { shapes } from "./shapes.ts";
import { checkStl10, stl10 } from "./stl10.ts";
import { textures } from "./textures.ts";

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
  /** [count, 8] digest of each image as the dataset has it, whatever its size here: what pseudo-labels are checked by. */
  readonly digests?: Uint8Array;
}

/** What a format's loader is asked for, after the checks that all formats share. */
export interface FormatOptions extends ReadOptions {
  readonly data: string | undefined;
  readonly split: Split;
  /** Side of the square images to make; undefined keeps the dataset's own. */
  readonly size: number | undefined;
  /** How many images to read at most, as a seeded sample; undefined is all. */
  readonly limit: number | undefined;
  /** Of the sample, and of generated datasets. */
  readonly seed: number;
  /** Of each class, for folders without splits. */
  readonly testShare: number;
  /** Leave out images of a folder that cannot be decoded, instead of refusing the folder. */
  readonly skipBroken: boolean;
  /** Takes what was guessed or left out, a sentence without a full stop. */
  readonly warn: (message: string) => void;
}

interface Format {
  readonly load: (options: FormatOptions) => Promise<Dataset>;
  /** Refuses what `load` would before it reads the images, as far as that can be known. */
  readonly check: (options: FormatOptions) => Promise<void>;
}

/** Datasets that are drawn, and so take no folder. */
const generatedDatasets: readonly Drawing[] = [textures, shapes];

const isGenerated = (name: DatasetName): boolean => generatedDatasets.some((drawing) => drawing.name === name);

const formats: ReadonlyMap<string, Format> = new Map<string, Format>([
  ["cifar10", { load: cifar10, check: checkCifar10 }],
  ["cifar100", { load: cifar100, check: checkCifar100 }],
  ["stl10", { load: stl10, check: checkStl10 }],
  ["folder", { load: folder, check: checkFolder }],
  ...generatedDatasets.map((drawing): [string, Format] => [
    drawing.name,
    { load: generated(drawing), check: checkGeneratedSplit(drawing) },
  ]),
]);

export const datasetNames = ["cifar10", "cifar100", "stl10", "folder", "textures", "shapes"] as const;
export type DatasetName = (typeof datasetNames)[number];

export interface DatasetOptions extends ReadOptions {
  readonly name: DatasetName;
  /** The dataset's folder, its parent folder, or the tar.gz as downloaded; generated datasets take none. */
  readonly data?: string | undefined;
  readonly split: Split;
  /**
   * Resize to size×size (antialiased bilinear; folders through sharp, centre-cropped). 0 or undefined leaves the images
   * as they are, which those of a folder must then be alike for.
   */
  readonly size?: number | undefined;
  /**
   * Only so many images: a sample of the seed with each class's share, or of all alike where there are no labels, in the
   * order of the files. A smaller one is a part of a larger. For generated datasets, how many to make.
   */
  readonly limit?: number | undefined;
  /** Of the sample, and of generated datasets: another seed gives other images. Default 0. */
  readonly seed?: number | undefined;
  /**
   * Folders without `train` and `test`: share of each class to hold out for testing, from 0 to below 1. Which images those
   * are depends on their names alone, not on the seed. Default 0.2.
   */
  readonly testShare?: number | undefined;
  /** Folders: leave out images that cannot be decoded, and say how many, instead of refusing the folder. Default false. */
  readonly skipBroken?: boolean | undefined;
  /** Takes what was guessed or left out, a sentence without a full stop. Default: Node's warnings, on stderr. */
  readonly warn?: ((message: string) => void) | undefined;
}

const positive = (setting: string, value: number | undefined): void => {
  if (value !== undefined && !(Number.isInteger(value) && value >= 1))
    throw new RequestError(`${setting} must be a whole number from 1, not ${value}.`);
};

const prepared = (options: DatasetOptions): { readonly format: Format; readonly asked: FormatOptions } => {
  const { name, data, split, limit, seed = 0, testShare = 0.2, skipBroken = false, budget } = options;
  const size = options.size === 0 ? undefined : options.size;
  const warn = options.warn ?? ((message: string) => process.emitWarning(message, "AdvclWarning"));
  const format = formats.get(name);
  if (format === undefined) throw new RequestError(`dataset must be one of ${datasetNames.join(", ")}, not ${name}.`);
  if (!splits.includes(split)) throw new RequestError(`split must be one of ${splits.join(", ")}, not ${split}.`);
  positive("size", size);
  positive("limit", limit);
  if (!(testShare >= 0 && testShare < 1))
    throw new RequestError(`test share must be a number from 0 to below 1, not ${testShare}.`);
  if (data === undefined && !isGenerated(name))
    throw new RequestError(`dataset ${name} needs --data: the folder or archive that holds it`);
  return { format, asked: { data, split, size, limit, seed, testShare, skipBroken, warn, budget } };
};

/**
 * Loads a split of a dataset into memory.
 * @throws RequestError where a setting is wrong, or files are missing, cut off or not what they should be
 */
export const loadDataset = async (options: DatasetOptions): Promise<Dataset> => {
  const { format, asked } = prepared(options);
  return format.load(asked);
};

/**
 * Refuses a split that `loadDataset` would refuse for its settings or for files that are missing, without reading the
 * images: what a command calls before it reads another split. What lies inside an archive is not known before.
 * @throws RequestError as `loadDataset` does
 */
export const checkDataset = async (options: DatasetOptions): Promise<void> => {
  const { format, asked } = prepared(options);
  await format.check(asked);
};

/**
 * The images of a split at their own sizes, in the order of `loadDataset`, as a camera or a file gives them: what a model is
 * given that resizes by itself. Those of generated datasets, which are drawn at any size, are of the size that is asked for.
 * @throws RequestError as `loadDataset` does
 */
export async function* photographs(options: DatasetOptions): AsyncGenerator<Photograph> {
  const { format, asked } = prepared(options);
  if (options.name === "folder") {
    yield* folderPhotographs(asked);
    return;
  }
  const size = isGenerated(options.name) ? asked.size : undefined;
  const { images, count, height, width, index } = await format.load({ ...asked, size });
  const plane = height * width;
  for (let i = 0; i < count; i++) {
    const own = images.subarray(3 * i * plane, 3 * (i + 1) * plane);
    const bytes = new Uint8Array(3 * plane);
    for (let p = 0; p < plane; p++) for (let c = 0; c < 3; c++) bytes[3 * p + c] = own[c * plane + p]!;
    yield { height, width, bytes, index: index[i]! };
  }
}
