/** What quantisation needs to know of a graph, from what its values are on calibration images. */
import { affineOf, meanShifts, quantizedValues, type Range } from "../../graphs/deploy/quantize.ts";
import type { Node, Value } from "../../graphs/onnx/graph.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import type { Dataset } from "../data/dataset.ts";
import { createSession, type SessionOptions } from "../engine/session.ts";
import { imageBatch } from "../models/images.ts";

// Bound once: under jest every look-up of a global is slow.
const { min, max, floor } = Math;

const bins = 2048;
/** Values of one tensor that are looked at, at most. */
const valueLimit = 1_000_000;

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
  const stride = 2 * floor(total / valueLimit / 2) + 1; // odd, so that it meets every column of an image
  for (const values of pieces)
    for (let i = 0; i < values.length; i += stride) {
      const at = min(bins - 1, floor((values[i]! - low) * scale));
      counts[at] = counts[at]! + 1;
    }
  return { low, high, counts };
};

/**
 * Between 2, which clips the few largest values of a tensor, and these move some images' scores a lot, and a maximum's, which makes
 * the step coarse for all.
 */
const exponent = 3;

/** Mean of |error|^exponent of quantising to a range: of clipped values their distance, of the others spread evenly over a step. */
const errorOf = ({ low, high, counts }: Histogram, range: Range): number => {
  const within = (affineOf(range).scale / 2) ** exponent / (exponent + 1);
  let error = 0;
  for (let i = 0; i < bins; i++) {
    const x = low + ((i + 0.5) / bins) * (high - low);
    const beyond = max(range.low - x, x - range.high, 0);
    error += counts[i]! * (beyond === 0 ? within : beyond ** exponent);
  }
  return error;
};

/** The range that loses least, among shares of the range seen. */
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

/** What quantisation needs to know of a graph. */
export interface Calibration {
  /** Of each value that is rounded. */
  readonly ranges: ReadonlyMap<Value, Range>;
  /** What is added to the bias of each weighted op. */
  readonly shifts: ReadonlyMap<Node, Float32Array>;
}

/** Computes values of a graph on the images of a dataset, in batches of the size that the graph is built for. */
const run = async (
  values: readonly Value[],
  image: Value,
  images: Dataset,
  options: SessionOptions,
  take: (index: number, data: Float32Array) => void,
): Promise<void> => {
  const named = Object.fromEntries(values.map((value, i) => [`value_${i}`, value]));
  const session = await createSession(buildModel(lower(named, portable), [image]), options);
  try {
    const batch = image.dim(0);
    for (let start = 0; start + batch <= images.count; start += batch) {
      const results = await session.run({ image: imageBatch(images, start, batch) });
      values.forEach((_, i) => {
        take(i, results[`value_${i}`]?.data as Float32Array);
      });
    }
  } finally {
    await session.release();
  }
};

/** Finds the range of each value that quantisation rounds, and then how far it moves the mean of each channel. */
export const calibrate = async (
  outputs: Readonly<Record<string, Value>>,
  image: Value,
  images: Dataset,
  options: SessionOptions = {},
): Promise<Calibration> => {
  const values = quantizedValues(outputs);
  const pieces = values.map((): Float32Array[] => []);
  await run(values, image, images, options, (i, data) => {
    (pieces[i] as Float32Array[]).push(data);
  });
  const ranges = new Map(
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
  const moved = [...meanShifts(outputs, ranges)];
  const sums = moved.map(([, shift]) => new Float32Array(shift.size));
  const batches = floor(images.count / image.dim(0));
  await run(
    moved.map(([, shift]) => shift),
    image,
    images,
    options,
    (i, data) => {
      const sum = sums[i]!;
      for (let c = 0; c < sum.length; c++) sum[c] = sum[c]! + data[c]! / batches;
    },
  );
  return { ranges, shifts: new Map(moved.map(([node], i) => [node, sums[i]!])) };
};
