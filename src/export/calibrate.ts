/** Ranges of the values that are quantised, from what they are on calibration images. */
import { affineOf, quantizedValues, type Range } from "../../graphs/deploy/quantize.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import type { Dataset } from "../data/dataset.ts";
import { createSession, type SessionOptions } from "../runtime.ts";
import { floatImages } from "./images.ts";

// Bound once: under jest every look-up of a global is slow.
const { min, max, floor } = Math;

const bins = 2048;
/** Values of one tensor that are looked at, at most. */
const mostValues = 1_000_000;

/** How often values fell in each of `bins` equal parts of [low, high]. */
interface Histogram {
  readonly low: number;
  readonly high: number;
  readonly counts: Float64Array;
}

const histogramOf = (low: number, high: number, pieces: readonly Float32Array[]): Histogram => {
  const counts = new Float64Array(bins);
  const scale = bins / max(high - low, 1e-30);
  const total = pieces.reduce((n, values) => n + values.length, 0);
  const stride = 2 * floor(total / mostValues / 2) + 1; // odd, so that it meets every column of an image
  for (const values of pieces)
    for (let i = 0; i < values.length; i += stride) {
      const at = min(bins - 1, floor(((values[i] as number) - low) * scale));
      counts[at] = (counts[at] as number) + 1;
    }
  return { low, high, counts };
};

/** Mean squared error of quantising to a range: clipped values by their distance, the others by a step's variance. */
const errorOf = ({ low, high, counts }: Histogram, range: Range): number => {
  const { scale } = affineOf(range);
  let error = 0;
  for (let i = 0; i < bins; i++) {
    const x = low + ((i + 0.5) / bins) * (high - low);
    const beyond = max(range.low - x, x - range.high, 0);
    error += (counts[i] as number) * (beyond * beyond + (beyond === 0 ? (scale * scale) / 12 : 0));
  }
  return error;
};

/** The range that loses least in the squared mean, among shares of the range seen. */
const bestRange = (histogram: Histogram): Range => {
  let best: Range = histogram;
  let least = Number.POSITIVE_INFINITY;
  for (let share = 1; share > 0.3; share -= 0.02) {
    const range = { low: min(0, histogram.low * share), high: max(0, histogram.high * share) };
    const error = errorOf(histogram, range);
    if (error < least) [best, least] = [range, error];
  }
  return { low: best.low, high: best.high };
};

/**
 * Runs the float graph on images of a dataset, in batches of the size that the graph is built for, and finds the range
 * of each value that quantisation rounds.
 */
export const calibrate = async (
  outputs: Readonly<Record<string, Value>>,
  image: Value,
  images: Dataset,
  options: SessionOptions = {},
): Promise<Map<Value, Range>> => {
  const values = quantizedValues(outputs);
  const named = Object.fromEntries(values.map((value, i) => [`value_${i}`, value]));
  const session = await createSession(buildModel(lower(named, portable), [image]), options);
  try {
    const batch = image.dim(0);
    const pieces = values.map((): Float32Array[] => []);
    for (let start = 0; start + batch <= images.count; start += batch) {
      const results = await session.run({ image: floatImages(images, start, start + batch) });
      values.forEach((_, i) => {
        (pieces[i] as Float32Array[]).push(results[`value_${i}`]?.data as Float32Array);
      });
    }
    return new Map(
      values.map((value, i) => {
        const seen = pieces[i] as Float32Array[];
        let [low, high] = [0, 0];
        for (const piece of seen)
          for (const x of piece) {
            if (x < low) low = x;
            if (x > high) high = x;
          }
        return [value, bestRange(histogramOf(low, high, seen))];
      }),
    );
  } finally {
    await session.release();
  }
};
