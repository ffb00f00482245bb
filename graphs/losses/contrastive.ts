import { constant, named, type Value } from "../onnx/graph.ts";
import { float32 } from "../onnx/tensor.ts";
import {
  and,
  cast,
  div,
  equal,
  matMul,
  matrixTranspose,
  mul,
  normalizeL2,
  not,
  reduceLogSumExp,
  reduceMean,
  reduceSum,
  stopGradient,
  sub,
  where,
} from "../ops/index.ts";

export interface ContrastiveOptions {
  readonly temperature: number;
  /** SupCon scales its loss by temperature / base; it matters for the learning rate. NT-Xent proper has base = temperature. */
  readonly baseTemperature: number;
  /** Whether the second factor of each similarity is a constant to the gradient, as in RoCL's code. */
  readonly detachSecond?: boolean;
}

/**
 * NT-Xent over several views ("all" mode of SupCon without labels, Khosla et al. 2020; AdvCL eq. 3). An anchor's positives
 * are its image's other views, its denominator is everything but itself; mean over positives, then over anchors.
 *
 * z: unit rows [B·views,D] with view v of image b in row b·views + v. Returns a scalar.
 */
export const contrastive = (
  z: Value,
  views: number,
  { temperature, baseTemperature, detachSecond }: ContrastiveOptions,
): Value =>
  named("contrastive", () => {
    const rows = z.dim(0);
    const second = detachSecond ? stopGradient(z) : z;
    const similarity = div(matMul(z, matrixTranspose(second)), temperature);
    const index = (shape: number[], groupOf: (row: number) => number) =>
      constant(
        float32(
          shape,
          Array.from({ length: rows }, (_, i) => groupOf(i)),
        ),
      );
    const pairs = (groupOf: (row: number) => number) => equal(index([rows, 1], groupOf), index([1, rows], groupOf));
    const itself = pairs((row) => row);
    const denominator = reduceLogSumExp(where(itself, -1e9, similarity), { axes: [1], keepdims: 0 });
    // Both terms meet in the gradient of the similarities, where they nearly cancel, and not after the product with z.
    const positive = and(
      pairs((row) => Math.floor(row / views)),
      not(itself),
    );
    const share = mul(cast(positive, { to: "float32" }), 1 / (views - 1));
    const positives = reduceSum(mul(similarity, share), { axes: [1], keepdims: 0 });
    return mul(reduceMean(sub(denominator, positives), { keepdims: 0 }), temperature / baseTemperature);
  });

/** NT-Xent (Chen et al. 2020) of projections that need not be unit rows, laid as for `contrastive`. */
export const ntXent = (
  z: Value,
  views: number,
  temperature: number,
  options: Pick<ContrastiveOptions, "detachSecond"> = {},
): Value => contrastive(normalizeL2(z), views, { temperature, baseTemperature: temperature, ...options });
