/**
 * Resampling of planar images as in Pillow and torchvision with antialias=True: the filter is widened by the factor of
 * reduction, and its weights are normalised over the pixels that exist.
 */

import type { Interpolation } from "../../graphs/views/recipe.ts";

export type { Interpolation } from "../../graphs/views/recipe.ts";

interface Taps {
  /** First source pixel of each output pixel. */
  readonly start: Int32Array;
  /** Weights of output pixel i at i·width, padded with zeros. */
  readonly weight: Float64Array;
  /** Taps of every output pixel. */
  readonly width: number;
}

const triangle = (x: number): number => Math.max(0, 1 - Math.abs(x));

/** Keys' cubic with a = -1/2. */
const cubic = (x: number): number => {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
};

const filters = {
  bilinear: { filter: triangle, support: 1 },
  bicubic: { filter: cubic, support: 2 },
} satisfies Record<Interpolation, { filter: (x: number) => number; support: number }>;

const makeTaps = (from: number, to: number, interpolation: Interpolation): Taps => {
  const { filter, support } = filters[interpolation];
  const ratio = from / to;
  const stretch = Math.max(ratio, 1);
  const reach = support * stretch;
  const rows = Array.from({ length: to }, (_, i) => {
    const centre = ratio * (i + 0.5);
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = Array.from({ length: end - first }, (_, j) => filter((first + j + 0.5 - centre) / stretch));
    const total = weights.reduce((sum, w) => sum + w, 0);
    const lead = weights.findIndex((w) => w !== 0);
    const last = weights.findLastIndex((w) => w !== 0);
    return { first: first + lead, weights: weights.slice(lead, last + 1).map((w) => w / total) };
  });
  const width = Math.max(...rows.map((row) => row.weights.length));
  const start = new Int32Array(to);
  const weight = new Float64Array(to * width);
  for (const [i, row] of rows.entries()) {
    start[i] = Math.min(row.first, from - width); // padding taps stay inside the row
    weight.set(row.weights, i * width + row.first - start[i]!);
  }
  return { start, weight, width };
};

/** Taps that are kept: photographs of a folder may have as many sizes as there are of them. */
const MOST_TAPS = 512;
const tapsMade = new Map<string, Taps>();

const tapsOf = (from: number, to: number, interpolation: Interpolation): Taps => {
  const key = `${interpolation}:${from}:${to}`;
  let taps = tapsMade.get(key);
  if (taps === undefined) {
    if (tapsMade.size >= MOST_TAPS) tapsMade.clear();
    taps = makeTaps(from, to, interpolation);
    tapsMade.set(key, taps);
  }
  return taps;
};

/** A rectangle of an image in pixels. */
export interface Box {
  readonly top: number;
  readonly left: number;
  readonly height: number;
  readonly width: number;
}

let columns = new Float32Array(0);

/**
 * Crops a box out of a planar image and resamples it to the size of the result.
 * @param src [3, srcHeight, srcWidth]
 * @param out [3, outHeight, outWidth], not the same memory as `src`; bicubic overshoot is clipped to [0, limit]
 * @param limit the value of a white pixel
 */
export const resizedCrop = (
  src: Float32Array,
  srcHeight: number,
  srcWidth: number,
  box: Box,
  out: Float32Array,
  outHeight: number,
  outWidth: number,
  interpolation: Interpolation,
  limit = 1,
): void => {
  const across = tapsOf(box.width, outWidth, interpolation);
  const down = tapsOf(box.height, outHeight, interpolation);
  const rows = box.height;
  if (columns.length < rows * outWidth) columns = new Float32Array(rows * outWidth);
  const middle = columns;
  for (let plane = 0; plane < 3; plane++) {
    const origin = (plane * srcHeight + box.top) * srcWidth + box.left;
    for (let y = 0; y < rows; y++) {
      const row = origin + y * srcWidth;
      for (let x = 0; x < outWidth; x++) {
        const from = row + across.start[x]!;
        const w = x * across.width;
        let sum = 0;
        for (let t = 0; t < across.width; t++) sum += across.weight[w + t]! * src[from + t]!;
        middle[y * outWidth + x] = sum;
      }
    }
    for (let y = 0; y < outHeight; y++) {
      const target = (plane * outHeight + y) * outWidth;
      const from = down.start[y]! * outWidth;
      const w = y * down.width;
      for (let x = 0; x < outWidth; x++) {
        let sum = 0;
        for (let t = 0; t < down.width; t++) sum += down.weight[w + t]! * middle[from + t * outWidth + x]!;
        out[target + x] = sum;
      }
    }
  }
  if (interpolation === "bicubic") {
    const n = 3 * outHeight * outWidth;
    for (let i = 0; i < n; i++) out[i] = Math.min(limit, Math.max(0, out[i]!));
  }
};

/** The central square of an image; a pixel that is over lies at the bottom or the right. */
export const centralSquare = (height: number, width: number): Box => {
  const side = Math.min(height, width);
  return { top: (height - side) >> 1, left: (width - side) >> 1, height: side, width: side };
};

/** How the bytes of an image lie: steps from a plane, a row and a pixel to the next. */
export interface ByteLayout {
  readonly height: number;
  readonly width: number;
  readonly plane: number;
  readonly row: number;
  readonly pixel: number;
}

/**
 * How images become what networks take, wherever that is done: training, evaluation, and the preprocessing of exports
 * (graphs/deploy/photograph.ts). The central square, resampled to size×size by the bilinear filter of Pillow and of torchvision
 * with antialias=True, rounded to bytes, a half up.
 * @param out [3, size, size]
 */
export const squareBytes = (
  src: Uint8Array,
  { height, width, plane, row, pixel }: ByteLayout,
  size: number,
  out: Uint8Array,
): void => {
  const { top, left, height: side } = centralSquare(height, width);
  const { start, weight, width: taps } = tapsOf(side, size, "bilinear");
  const each = side * size;
  if (columns.length < 3 * each) columns = new Float32Array(3 * each);
  const all = columns;
  // The three colours of a pixel at once: of large photographs this is where the time goes.
  for (let y = 0; y < side; y++) {
    const line = (top + y) * row + left * pixel;
    for (let x = 0; x < size; x++) {
      let from = line + start[x]! * pixel;
      let [red, green, blue] = [0, 0, 0];
      for (let t = x * taps; t < (x + 1) * taps; t++, from += pixel) {
        const w = weight[t]!;
        red += w * src[from]!;
        green += w * src[from + plane]!;
        blue += w * src[from + 2 * plane]!;
      }
      const at = y * size + x;
      all[at] = red;
      all[at + each] = green;
      all[at + 2 * each] = blue;
    }
  }
  for (let c = 0; c < 3; c++) {
    const middle = all.subarray(c * each, (c + 1) * each);
    for (let y = 0; y < size; y++) {
      const from = start[y]! * size;
      for (let x = 0; x < size; x++) {
        let sum = 0;
        for (let t = 0; t < taps; t++) sum += weight[y * taps + t]! * middle[from + t * size + x]!;
        out[(c * size + y) * size + x] = Math.round(Math.fround(sum));
      }
    }
  }
};

/** Makes a function that does that with uint8 planar images [3, height, width]. */
export const byteResizer = (
  height: number,
  width: number,
  size: number,
): ((src: Uint8Array, out: Uint8Array) => void) => {
  if (height === size && width === size) return (src, out) => out.set(src);
  const layout = { height, width, plane: height * width, row: width, pixel: 1 };
  return (src, out) => squareBytes(src, layout, size, out);
};
