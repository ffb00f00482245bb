import { availableParallelism } from "node:os";
import { join } from "node:path";
import { RequestError } from "../errors.ts";
import { defaultBudget } from "../files/budget.ts";
import { forEach } from "../files/concurrency.ts";
import type { Dataset, FormatOptions } from "./dataset.ts";
import { digestBytes, imageDigest } from "./digest.ts";
import { findImages } from "./folder-splits.ts";
import { openImage, readImageBytes } from "./image-file.ts";
import { allocateImages } from "./memory.ts";
import { samplePlaces } from "./sample.ts";
import { subset } from "./subset.ts";

/** Runs at most so much at once that the costs together stay within a bound; what costs more runs alone. */
const createGate = (bound: number): (<T>(cost: number, run: () => Promise<T>) => Promise<T>) => {
  let used = 0;
  const waiting: (() => void)[] = [];
  return async (cost, run) => {
    while (used > 0 && used + cost > bound) await new Promise<void>((resolve) => waiting.push(resolve));
    used += cost;
    try {
      return await run();
    } finally {
      used -= cost;
      for (const resolve of waiting.splice(0)) resolve();
    }
  };
};

/** Images that are opened at once. */
const atOnce = (): number => 2 * availableParallelism();

/** Images that cannot be read, by their place, with what is wrong: left out where that is asked for, else the end. */
class BrokenImages {
  readonly #faults = new Map<number, RequestError>();
  readonly #skip: boolean;
  constructor({ skipBroken }: FormatOptions) {
    this.#skip = skipBroken;
  }

  /** Reads the image at a place, unless it is known to be broken. */
  async try(place: number, read: () => Promise<void>): Promise<void> {
    if (this.#faults.has(place)) return;
    try {
      await read();
    } catch (error) {
      if (!this.#skip || !(error instanceof RequestError)) throw error;
      this.#faults.set(place, error);
    }
  }

  /** The places of `count` that are whole; says how many are not. */
  whole(count: number, { data, warn }: FormatOptions): readonly number[] {
    const [first] = [...this.#faults].sort(([a], [b]) => a - b);
    if (first === undefined) return Array.from({ length: count }, (_, i) => i);
    const [, fault] = first;
    const left = this.#faults.size;
    if (left === count) throw fault;
    const named = fault.message.replace(/^data: /, "").replace(/; [^;]*$/, "");
    warn(
      `${left} of ${count} images of ${data} ${left === 1 ? "is" : "are"} left out as broken: ${named}${left === 1 ? "" : ", …"}`,
    );
    return Array.from({ length: count }, (_, i) => i).filter((i) => !this.#faults.has(i));
  }
}

/** The one size of all images, which are refused where they have several. */
const commonSize = async (
  paths: readonly string[],
  options: FormatOptions,
  broken: BrokenImages,
): Promise<{ width: number; height: number }> => {
  const sizes = new Map<string, { width: number; height: number }>();
  const measure = async (path: string) => {
    const { width, height } = await openImage(path, await readImageBytes(path, options), options);
    sizes.set(`${width}×${height}`, { width, height });
  };
  await forEach(paths.length, atOnce(), (i) => broken.try(i, () => measure(paths[i]!)));
  const [first] = sizes.values();
  if (first === undefined) broken.whole(paths.length, options); // all are broken
  if (sizes.size !== 1 || first === undefined) {
    const smallest = [...sizes].sort(([, a], [, b]) => a.width * a.height - b.width * b.height).map(([name]) => name);
    throw new RequestError(
      `data: the images of ${options.data} have ${sizes.size} sizes, ${smallest[0]} to ${smallest.at(-1)}; give --size to make them alike.`,
    );
  }
  return first;
};

const requestOf = ({ data, split, testShare, warn }: FormatOptions) => {
  if (data === undefined) throw new RangeError("internal: a folder without a place");
  return { data, split, testShare, warn };
};

/** Refuses what `folder` would before it reads the images. */
export const checkFolder = async (options: FormatOptions): Promise<void> => {
  await findImages({ ...requestOf(options), warn: () => {} });
};

/** An image as it is: rows of RGB [height, width, 3]. */
export interface Photograph {
  readonly height: number;
  readonly width: number;
  readonly bytes: Uint8Array;
  /** Its place in the full split. */
  readonly index: number;
}

/** The images that `folder` would read, one after the other, at their own sizes. */
export async function* folderPhotographs(options: FormatOptions): AsyncGenerator<Photograph> {
  const { root, names, labels, places } = await findImages(requestOf(options));
  const { split, limit = Infinity, seed, skipBroken } = options;
  const chosen = samplePlaces({ count: names.length, limit, labels, seed, stream: `folder:${split}` });
  const read = async (path: string) => {
    const image = await openImage(path, await readImageBytes(path, options), options);
    return { ...image, ...(await image.pixels()) };
  };
  for (const i of chosen) {
    const image = await read(join(root, names[i]!)).catch((error: unknown) => {
      if (skipBroken && error instanceof RequestError) return undefined;
      throw error;
    });
    if (image === undefined) continue;
    const { height, width, bytes, channels } = image;
    const rgb = new Uint8Array(3 * height * width);
    for (let p = 0; p < height * width; p++)
      for (let c = 0; c < 3; c++) rgb[3 * p + c] = bytes[p * channels + (channels >= 3 ? c : 0)]!;
    yield { height, width, bytes: rgb, index: places[i]! };
  }
}

/**
 * A folder of images: `train/<class>/…` and `test/<class>/…` (`val` serves as test), `<class>/…` (of which a share is held
 * out for testing), or images alone (no labels, all of them in every split). Images are taken in the order of their
 * names, turned as their EXIF data says, and with a size cropped to their central square and resized to it; without one
 * they must be of one size.
 */
export const folder = async (options: FormatOptions): Promise<Dataset> => {
  const { split, size, limit = Infinity, seed, budget = defaultBudget } = options;
  const { root, names, classes, labels, places, total } = await findImages(requestOf(options));
  const chosen = samplePlaces({ count: names.length, limit, labels, seed, stream: `folder:${split}` });
  const count = chosen.length;
  const paths = Array.from(chosen, (i) => join(root, names[i]!));
  const broken = new BrokenImages(options);
  const { width, height } =
    size === undefined ? await commonSize(paths, options, broken) : { width: size, height: size };
  const length = 3 * height * width;
  const images = allocateImages(count, height, width);
  const digests = new Uint8Array(count * digestBytes);
  const gate = createGate(budget);
  const read = async (i: number) => {
    const path = paths[i]!;
    const bytes = await readImageBytes(path, options);
    digests.set(imageDigest(names[chosen[i]!]!, bytes), i * digestBytes);
    const image = await openImage(path, bytes, options);
    await gate(image.cost, () => image.decode(size, images.subarray(i * length, (i + 1) * length)));
  };
  await forEach(count, atOnce(), (i) => broken.try(i, () => read(i)));
  const whole = broken.whole(count, options);
  const dataset: Dataset = {
    name: "folder",
    split,
    count,
    height,
    width,
    classes,
    images,
    ...(labels && { labels: Int32Array.from(chosen, (i) => labels[i]!) }),
    index: Int32Array.from(chosen, (i) => places[i]!),
    officialCount: total,
    digests,
  };
  return whole.length === count ? dataset : subset(dataset, whole);
};
