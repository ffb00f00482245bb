/** What a classifier takes an image for. */
import type { Tensor } from "../../graphs/onnx/tensor.ts";

/** Said of an image of which the model tells nothing: it is no class, so no label equals it. */
export const NO_CLASS = -1;

/** The class of the largest logit, the first of equal ones; NO_CLASS where any logit is not finite. */
export const predictionOf = (logits: ArrayLike<number>): number => {
  let best = NO_CLASS;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i]!;
    if (!Number.isFinite(logit)) return NO_CLASS;
    if (best === NO_CLASS || logit > logits[best]!) best = i;
  }
  return best;
};

/** The same of each row of float32 [rows,classes]. */
export const predictionsOf = ({ data, shape }: Tensor): number[] => {
  const [rows = 0, columns = 0] = shape;
  const values = data as Float32Array;
  return Array.from({ length: rows }, (_, r) => predictionOf(values.subarray(r * columns, (r + 1) * columns)));
};
