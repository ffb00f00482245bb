/** Row-major images on their way to a volume and back, their pixels in blocks as its channels (`Convolution.depth`). */
import { type Convolution, imageShape } from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import type { Strided, Type } from "./maker.ts";
import { BYTES, type Primitives } from "./primitives.ts";

/** Copies `count` images from `first` on; addresses are those of all images and of the volume. */
type Copy = (from: bigint, to: bigint) => void;

/** The same elements twice, along [images, row in a block, column in it, channel, H, W]. */
const viewsOf = (
  convolution: Convolution,
  count: number,
  type: Type,
): { readonly images: Strided; readonly volume: Strided; readonly imageBytes: number } => {
  const {
    channels: [all = 0],
    input: [h = 0, w = 0],
    depth: [s = 1, t = 1],
  } = convolution;
  const [, c = 0, height = 0, row = 0] = imageShape(convolution);
  const plane = height * row;
  const dims = [count, s, t, c, h, w];
  return {
    images: { dims, strides: [c * plane, row, 1, plane, s * row, t], type: "float32" },
    volume: { dims, strides: [all, t * c, c, 1, w * count * all, count * all], type },
    imageBytes: BYTES.float32 * c * plane,
  };
};

/** Images to a volume of their own in bfloat16. */
export const fromImages = (primitives: Primitives, c: Convolution, first: number, count: number): Copy => {
  const { images, volume, imageBytes } = viewsOf(c, count, "bfloat16");
  const run = primitives.reorder(images, volume);
  const skipped = BigInt(first * imageBytes);
  return (from, to) => run(from + skipped, to);
};

/** A volume in float32 to its images among all. */
export const toImages = (primitives: Primitives, c: Convolution, first: number, count: number): Copy => {
  const { images, volume, imageBytes } = viewsOf(c, count, "float32");
  const run = primitives.reorder(volume, images);
  const skipped = BigInt(first * imageBytes);
  return (from, to) => run(from, to + skipped);
};
