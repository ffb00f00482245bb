import { open } from "node:fs/promises";
import sharp, { type Metadata, type Sharp } from "sharp";
import { RequestError } from "../errors.ts";
import { defaultBudget, type ReadOptions } from "../files/budget.ts";
import { fileError } from "../files/file-error.ts";
import { readExactly } from "../files/read-exactly.ts";
import { sniff, whatItIs } from "../files/sniff.ts";
import { type Bitmap, decodeBmp, decodePnm } from "./bitmap.ts";
import { squareBytes } from "./resize.ts";

/** Suffixes of the files that are taken for images; what they are is told by their bytes. */
export const imageSuffixes: ReadonlySet<string> = new Set([
  ".png",
  ".jpg",
  ".jpeg",
  ".jpe",
  ".jfif",
  ".webp",
  ".gif",
  ".tif",
  ".tiff",
  ".avif",
  ".bmp",
  ".ppm",
  ".pgm",
  ".pnm",
]);

/** What is decoded. Not SVG, which may name other files. */
const formats: ReadonlySet<string> = new Set(["jpeg", "png", "webp", "gif", "tiff", "heif", "raw"]);

/** An image whose header was read, upright as its EXIF data says. */
export interface ImageFile {
  readonly width: number;
  readonly height: number;
  /** Memory that decoding takes, in bytes. */
  readonly cost: number;
  /**
   * The image laid over black, RGB or gray rows [height, width, channels].
   * @throws RequestError where it cannot be decoded
   */
  pixels(): Promise<{ readonly bytes: Uint8Array; readonly channels: number }>;
  /**
   * The image as planar RGB [3, height, width] as it is; with a size, its central square [3, size, size] as `squareBytes` has it.
   * @throws RequestError where it cannot be decoded
   */
  decode(size: number | undefined, out: Uint8Array): Promise<void>;
}

const refusal = (path: string, reason: string, cause?: unknown): RequestError =>
  new RequestError(
    `data: ${path} cannot be decoded (${reason}); replace or remove it, or leave such images out with --skip-broken.`,
    { cause },
  );

/** Bytes of a file, of which only regular ones within the budget are read. */
export const readImageBytes = async (path: string, { budget = defaultBudget }: ReadOptions): Promise<Buffer> => {
  try {
    const handle = await open(path, "r");
    try {
      const { size } = await handle.stat();
      if (size === 0) throw refusal(path, "it is empty");
      if (size > budget) throw refusal(path, `its ${size} bytes are more than the ${budget} that are read`);
      return Buffer.from(
        (await readExactly(handle, 0, size, (at) => refusal(path, `it ended at byte ${at} while being read`))).buffer,
      );
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError(error, "read", path);
  }
};

const ofBitmap = ({ data, width, height, channels }: Bitmap): Sharp =>
  sharp(data, { raw: { width, height, channels } });

/** A decoder for the bytes; interlaced images unfold in memory, so no more pixels are taken than the budget allows. */
const openBytes = (bytes: Buffer, budget: number): Sharp => {
  if (bytes[0] === 0x42 && bytes[1] === 0x4d) return ofBitmap(decodeBmp(bytes));
  if (bytes[0] === 0x50 && (bytes[1] === 0x35 || bytes[1] === 0x36)) return ofBitmap(decodePnm(bytes));
  return sharp(bytes, { failOn: "error", limitInputPixels: Math.max(1, Math.floor(budget / 4)) });
};

/** Floating-point pixels, which the decoder would cut off at 255, as bytes: of [0, 1] where they lie there. */
const ofFloat = async (bytes: Buffer, budget: number): Promise<Sharp> => {
  const { data, info } = await openBytes(bytes, budget).raw({ depth: "float" }).toBuffer({ resolveWithObject: true });
  const values = new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  const { low, high } = values.reduce(({ low, high }, v) => ({ low: Math.min(low, v), high: Math.max(high, v) }), {
    low: Infinity,
    high: -Infinity,
  });
  if (!(low >= 0 && high <= 255)) throw new Error(`its pixels are floating-point numbers of ${low} to ${high}`);
  const scale = high <= 1 ? 255 : 1;
  const { width, height, channels } = info;
  return sharp(
    Uint8Array.from(values, (v) => Math.round(v * scale)),
    { raw: { width, height, channels } },
  );
};

const bytesOf: ReadonlyMap<string, number> = new Map([
  ["uchar", 1],
  ["char", 1],
  ["ushort", 2],
  ["short", 2],
  ["uint", 4],
  ["int", 4],
  ["float", 4],
  ["double", 8],
]);

const decoded = async (source: Sharp, pixels: number): Promise<{ bytes: Uint8Array; channels: number }> => {
  const bytes = await source.autoOrient().flatten({ background: "#000000" }).toColourspace("srgb").raw().toBuffer();
  return { bytes, channels: bytes.length / pixels };
};

/** Rows of pixels as planes, gray in all three. */
const planar = (bytes: Uint8Array, channels: number, pixels: number, out: Uint8Array): void => {
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) out[c * pixels + i] = bytes[i * channels + (channels >= 3 ? c : 0)]!;
};

/** What the decoder says, where that says anything. */
const reasonOf = (cause: unknown, budget: number): string => {
  const { message } = cause as Error;
  if (/exceeds pixel limit/i.test(message))
    return `it has more than the ${Math.floor(budget / 4)} pixels that an image may`;
  return message === "Unknown error" ? "it is cut short or damaged" : message;
};

/**
 * Reads the header of an image.
 * @param bytes the whole file
 * @throws RequestError saying what the file is where it is no image, and where it is too large
 */
export const openImage = async (
  path: string,
  bytes: Buffer,
  { budget = defaultBudget }: ReadOptions,
): Promise<ImageFile> => {
  let metadata: Metadata;
  try {
    metadata = await openBytes(bytes, budget).metadata();
  } catch (cause) {
    const kind = sniff(bytes, bytes.length);
    const isImage = ["png", "jpeg", "gif", "webp", "bmp", "tiff", "unknown"].includes(kind);
    throw refusal(path, isImage ? reasonOf(cause, budget) : whatItIs(kind), cause);
  }
  const { format, width: stored, height: rows, autoOrient, channels, depth } = metadata;
  if (!formats.has(format)) throw refusal(path, `${format} files are not read`);
  const { width = stored, height = rows } = autoOrient ?? {};
  const cost = width * height * Math.max(channels, 4) * (bytesOf.get(depth) ?? 8);
  if (!(cost <= budget))
    throw refusal(path, `its ${width}×${height} pixels take ${cost} bytes of the ${budget} that an image may`);
  const isFloat = depth === "float" || depth === "double";
  const pixels: ImageFile["pixels"] = async () => {
    try {
      return await decoded(isFloat ? await ofFloat(bytes, budget) : openBytes(bytes, budget), width * height);
    } catch (cause) {
      throw refusal(path, reasonOf(cause, budget), cause);
    }
  };
  return {
    width,
    height,
    cost,
    pixels,
    decode: async (size, out) => {
      const { bytes: rows, channels: held } = await pixels();
      if (size === undefined || (size === width && size === height)) return planar(rows, held, width * height, out);
      const plane = held >= 3 ? 1 : 0;
      squareBytes(rows, { height, width, plane, row: width * held, pixel: held }, size, out);
    },
  };
};
