/**
 * Photographs as networks take them, inside an exported file: the definition of `squareBytes` (src/data/resize.ts), which training
 * and evaluation use, in ops of opset 17. Resampling is two products with a matrix of weights that is made for the size at hand:
 * Resize has antialiasing only since opset 18, and runtimes differ in it.
 */

import { constant, input, ints, named, type Value } from "../onnx/graph.ts";
import { float32 } from "../onnx/tensor.ts";
import {
  abs,
  add,
  cast,
  concat,
  div,
  floor,
  matMul,
  max,
  min,
  mul,
  reduceSum,
  reshape,
  sub,
  transpose,
} from "../ops/index.ts";
import { dimensions, rangeTo, sliceTo } from "./ops.ts";

/** Where the rounding to bytes stands: the names of its nodes begin so, by which readers let gradients through. */
export const roundingName = "preprocess/round";

/** Weights [size, side] of the bilinear filter, widened where images shrink; rows sum to 1. `side` is int64 [1]. */
const weightsOf = (side: Value, size: number): Value => {
  const ratio = div(cast(side, { to: "float32" }), size);
  const stretch = max(ratio, 1);
  const centres = mul(
    constant(
      float32(
        [size, 1],
        Float32Array.from({ length: size }, (_, i) => i + 0.5),
      ),
    ),
    ratio,
  );
  const pixels = reshape(add(cast(rangeTo(side, size), { to: "float32" }), 0.5), [1, -1]);
  const weights = max(sub(1, div(abs(sub(pixels, centres)), stretch)), 0);
  return div(weights, reduceSum(weights, { axes: [1], keepdims: 1 }));
};

/**
 * uint8 [N,height,width,3] of any size to float32 [N,3,size,size] in [0, 1]: the central square, resampled, rounded to bytes, divided
 * by 255. The graph is built as for photographs of that size; nothing but types depends on it.
 */
export const photograph = (batch: number, size: number): { readonly photo: Value; readonly image: Value } => {
  const photo = input("image", { dtype: "uint8", shape: [batch, size, size, 3] });
  const image = named("preprocess", () => {
    const [height, width] = [dimensions(photo, 1, 2), dimensions(photo, 2, 3)];
    const side = min(height, width);
    const [top, left] = [div(sub(height, side), ints([2])), div(sub(width, side), ints([2]))];
    const planes = cast(transpose(photo, { perm: [0, 3, 1, 2] }), { to: "float32" });
    const starts = concat([top, left], { axis: 0 });
    const ends = concat([add(top, side), add(left, side)], { axis: 0 });
    const square = sliceTo(planes, starts, ends, ints([2, 3]), [batch, 3, size, size]);
    const weights = weightsOf(side, size);
    const resized = matMul(matMul(weights, square), transpose(weights, { perm: [1, 0] }));
    return div(
      named(roundingName, () => floor(add(resized, 0.5))),
      255,
    );
  });
  return { photo, image };
};
