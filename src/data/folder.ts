import { readdir, stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { extname, join } from "node:path";
import sharp from "sharp";
import { RequestError } from "../errors.ts";
import type { Dataset, FormatOptions } from "./dataset.ts";

const imageSuffixes = new Set([".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".avif", ".bmp"]);

interface Listing {
  readonly folders: readonly string[];
  readonly images: readonly string[];
}

const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

const list = async (path: string): Promise<Listing> => {
  const folders: string[] = [];
  const images: string[] = [];
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (entry.name.startsWith(".")) continue;
    const isFolder = entry.isSymbolicLink() ? (await stat(join(path, entry.name))).isDirectory() : entry.isDirectory();
    if (isFolder) folders.push(entry.name);
    else if (imageSuffixes.has(extname(entry.name).toLowerCase())) images.push(entry.name);
  }
  return { folders: folders.sort(byName), images: images.sort(byName) };
};

const imagesUnder = async (path: string): Promise<string[]> => {
  const { folders, images } = await list(path);
  const nested = await Promise.all(folders.map((name) => imagesUnder(join(path, name))));
  return [...images.map((name) => join(path, name)), ...nested.flat()];
};

interface Found {
  readonly paths: readonly string[];
  readonly classes: readonly string[];
  readonly labels: readonly number[] | undefined;
}

const find = async (data: string, split: string): Promise<Found> => {
  const top = await list(data).catch((cause: NodeJS.ErrnoException) => {
    throw new RequestError(`data: ${data} is not a folder that can be read (${cause.code}); give a folder of images.`, {
      cause,
    });
  });
  const hasSplits = ["train", "test", "unlabeled"].some((name) => top.folders.includes(name));
  if (hasSplits && !top.folders.includes(split))
    throw new RequestError(`data: ${data} has no folder ${split}; its folders are ${top.folders.join(", ")}.`);
  const path = hasSplits ? join(data, split) : data;
  const { folders, images } = hasSplits ? await list(path) : top;
  if (folders.length === 0) return { paths: images.map((name) => join(path, name)), classes: [], labels: undefined };
  if (images.length > 0)
    throw new RequestError(
      `data: ${path} holds both images (${images[0]}) and class folders (${folders[0]}); move the images into a class.`,
    );
  // A class may be absent from the test images without moving the numbers of the others.
  const named =
    hasSplits && split === "test" && top.folders.includes("train") ? await list(join(data, "train")) : undefined;
  const classes = named !== undefined && named.folders.length > 0 ? named.folders : folders;
  const paths: string[] = [];
  const labels: number[] = [];
  for (const name of folders) {
    const label = classes.indexOf(name);
    if (label < 0)
      throw new RequestError(
        `data: ${join(path, name)} is a class that ${join(data, "train")} does not have; remove it.`,
      );
    const inside = (await imagesUnder(join(path, name))).sort(byName);
    paths.push(...inside);
    labels.push(...inside.map(() => label));
  }
  return { paths, classes, labels };
};

const decode = async (path: string, size: number, out: Uint8Array): Promise<void> => {
  let bytes: Buffer;
  try {
    bytes = await sharp(path, { failOn: "error" })
      .autoOrient()
      .resize(size, size, { fit: "cover", position: "centre" })
      .flatten({ background: "#000000" })
      .toColourspace("srgb")
      .raw()
      .toBuffer();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RequestError(`data: ${path} cannot be decoded (${reason}); replace or remove it.`, { cause });
  }
  const pixels = size * size;
  const channels = bytes.length / pixels;
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) out[c * pixels + i] = bytes[i * channels + (channels >= 3 ? c : 0)]!;
};

/**
 * A folder of images: `train/<class>/…` and `test/<class>/…`, `<class>/…`, or images alone (no labels). Images are taken
 * in the order of their names, turned as their EXIF data says, cropped to their central square and resized to
 * `size`×`size` (32 where not given).
 */
export const folder = async ({ data, split, size = 32, limit = Infinity }: FormatOptions): Promise<Dataset> => {
  const { paths, classes, labels } = await find(data!, split);
  if (paths.length === 0)
    throw new RequestError(
      `data: ${data} has no images for split ${split} (${[...imageSuffixes].join(", ")} were looked for); give another folder.`,
    );
  const count = Math.min(paths.length, limit);
  const length = 3 * size * size;
  const images = new Uint8Array(new SharedArrayBuffer(count * length));
  let next = 0;
  const decodeSome = async (): Promise<void> => {
    while (next < count) {
      const i = next++;
      await decode(paths[i]!, size, images.subarray(i * length, (i + 1) * length)).catch((cause: unknown) => {
        next = count; // the others stop too
        throw cause;
      });
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: availableParallelism() * 2 }, decodeSome));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return {
    name: "folder",
    split,
    count,
    height: size,
    width: size,
    classes,
    images,
    ...(labels && { labels: Int32Array.from(labels.slice(0, count)) }),
    index: Int32Array.from({ length: count }, (_, i) => i),
    officialCount: paths.length,
  };
};
