import { constant, named, type Value } from "../onnx/graph.ts";
import { tensor } from "../onnx/tensor.ts";
import {
  div,
  equal,
  matMul,
  matrixTranspose,
  mul,
  reduceLogSumExp,
  reduceMean,
  reduceSum,
  reshape,
  sub,
  where,
} from "../ops/index.ts";

export interface ContrastiveOptions {
  readonly temperature: number;
  /** SupCon scales its loss by temperature / base; it matters for the learning rate. NT-Xent proper has base = temperature. */
  readonly baseTemperature: number;
}

/**
 * NT-Xent over several views ("all" mode of SupCon without labels, Khosla et al. 2020; AdvCL eq. 3). An anchor's positives
 * are its image's other views, its denominator is everything but itself; mean over positives, then over anchors.
 *
 * z: unit rows [B·views,D] with view v of image b in row b·views + v. Returns a scalar.
 */
export const contrastive = (z: Value, views: number, { temperature, baseTemperature }: ContrastiveOptions): Value =>
  named("contrastive", () => {
    const [rows, width] = [z.dim(0), z.dim(1)];
    const similarity = div(matMul(z, matrixTranspose(z)), temperature);
    const place = (shape: number[]) =>
      constant(
        tensor(
          "int64",
          shape,
          BigInt64Array.from({ length: rows }, (_, i) => BigInt(i)),
        ),
      );
    const others = where(equal(place([rows, 1]), place([1, rows])), -1e9, similarity);
    const denominator = reduceLogSumExp(others, { axes: [1], keepdims: 0 });
    // Σ over positives of z·p = z · (sum of the image's views) - z·z
    const perImage = reshape(z, [rows / views, views, width]);
    const withAll = reduceSum(mul(perImage, reduceSum(perImage, { axes: [1] })), { axes: [2], keepdims: 0 });
    const withItself = reduceSum(mul(perImage, perImage), { axes: [2], keepdims: 0 });
    const positives = div(reshape(sub(withAll, withItself), [rows]), temperature * (views - 1));
    return mul(reduceMean(sub(denominator, positives), { keepdims: 0 }), temperature / baseTemperature);
  });
