/** How features are spread: whether an encoder tells images apart at all. */
import type { Tensor } from "../../graphs/onnx/tensor.ts";

export interface FeatureSpread {
  /**
   * Along how many directions features vary: the participation ratio (tr C)²/tr C² of their covariance C, from 1 (all on a
   * line) to D (alike in all directions).
   */
  readonly participationRatio: number;
  /** Mean cosine of the features of two images, from 0 (spread over the sphere) to 1 (all alike). */
  readonly meanCosine: number;
}

/** Sum of squares of the entries of a Gram matrix of columns, [D, D], of rows [N, D] less `mean`; and its trace. */
const moments = (data: Float32Array, width: number, mean: Float64Array): { trace: number; squares: number } => {
  const count = data.length / width;
  const gram = new Float64Array(width * width);
  const row = new Float64Array(width);
  for (let n = 0; n < count; n++) {
    for (let i = 0; i < width; i++) row[i] = data[n * width + i]! - mean[i]!;
    for (let i = 0; i < width; i++) {
      const value = row[i]!;
      for (let j = 0; j <= i; j++) gram[i * width + j]! += value * row[j]!;
    }
  }
  let [trace, squares] = [0, 0];
  for (let i = 0; i < width; i++) {
    trace += gram[i * width + i]!;
    for (let j = 0; j <= i; j++) squares += (i === j ? 1 : 2) * gram[i * width + j]! ** 2;
  }
  return { trace, squares };
};

/** Of features [N, D], of which the first 2,000 count; N is at least 2. */
export const featureSpread = ({ data, shape: [, width = 0] }: Tensor<"float32">): FeatureSpread => {
  const used = data.subarray(0, Math.min(data.length, 2_000 * width));
  const count = used.length / width;
  const mean = new Float64Array(width);
  const direction = new Float64Array(width);
  for (let n = 0; n < count; n++) {
    const row = used.subarray(n * width, (n + 1) * width);
    const norm = Math.hypot(...row) || 1;
    for (let i = 0; i < width; i++) {
      mean[i]! += row[i]! / count;
      direction[i]! += row[i]! / norm;
    }
  }
  const { trace, squares } = moments(used, width, mean);
  // Each pair once: the square of the sum of unit vectors, less each with itself.
  const pairs = direction.reduce((sum, x) => sum + x * x, 0) - count;
  return {
    participationRatio: squares === 0 ? 1 : trace ** 2 / squares,
    meanCosine: pairs / (count * (count - 1)),
  };
};

/** A sentence where features tell images hardly apart; undefined where they do. */
export const collapseWarning = ({ participationRatio, meanCosine }: FeatureSpread): string | undefined =>
  participationRatio >= 2 && meanCosine <= 0.9
    ? undefined
    : `the features hardly tell images apart (they vary in ${participationRatio.toFixed(1)} directions, their mean cosine is ${meanCosine.toFixed(2)}): ` +
      "pretraining has collapsed or hardly begun; try more --epochs, a larger --batch or another --lr";
