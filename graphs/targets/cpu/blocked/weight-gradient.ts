/**
 * Gradients to the filters in the blocked layout.
 *
 * dw[o,i,a,b] is the sum over images n and pixels (y,z) of dy[n,o,y,z]·x[n,i,s·y + a,s·z + b]: a convolution whose input channels are
 * the images, whose filters are dy, and whose results are the places (a,b) of the kernel. A plane of x in memory, [H, W, block], is
 * an image W·block wide whose columns are pixels and channels in turn; a filter of dilation block over it sees one channel of all pixels,
 * and the columns of the result are places and channels in turn. dy in memory, [n, Co/b, H, W, b], is a filter as it lies. So
 * nothing is copied but for a border of zeros around x, where matrix products want every pixel kh·kw times.
 */
import { constant, filled, type Value } from "../../../onnx/graph.ts";
import { tensor } from "../../../onnx/tensor.ts";
import { add, concat, gather, matMul, pad, reduceSum, slice, transpose } from "../../../ops/index.ts";
import { shaped } from "../contrib.ts";
import type { Geometry } from "../im2col.ts";
import { fillsBlocks } from "./layout.ts";
import { blockedConv } from "./nchwc.ts";

/** 0 to n - 1. */
export const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Results of a convolution from which on its threads are all busy. */
const UNITS = 4;

/**
 * Images that one sum goes over, as input channels of a group: less than a block of them, or the engine would want those in
 * blocks too, and not so many that few groups are left.
 */
const summed = (n: number, blocks: number, block: number): number => {
  let images = 1;
  while (2 * images < block && n % (2 * images) === 0 && (n / (2 * images)) * blocks >= UNITS) images *= 2;
  return images;
};

/** How an axis is read: a border before and after it, and results, of which the places of the kernel are every d-th. */
interface Axis {
  readonly before: number;
  readonly after: number;
  readonly results: number;
}

const axisOf = (g: Geometry, axis: 0 | 1): Axis => {
  const wanted = g.dilations[axis] * (g.kernel[axis] - 1) + 1;
  const reach = g.strides[axis] * (g.output[axis] - 1);
  const [size, before] = [g.input[axis], g.pads[axis]];
  const results = Math.max(wanted, size + before - reach);
  return { before, after: results + reach - size - before, results };
};

/** Blocks of memory [a, b, c] of `size` elements each as [a, c, b]: by Gather, which copies with all threads, where Transpose has one. */
const turned = (x: Value, [a, b, c]: readonly [number, number, number], size: number): Value => {
  if (b === 1 || c === 1) return x;
  const order = Int32Array.from({ length: a * b * c }, (_, i) => {
    const [group, rest] = [Math.floor(i / (b * c)), i % (b * c)];
    return group * b * c + (rest % b) * c + Math.floor(rest / b);
  });
  return gather(shaped(x, [a * b * c, size]), constant(tensor("int32", [order.length], order)), { axis: 0 });
};

/** Zeros before and after every row: by Concat, which copies with all threads, where Pad has one. */
const withBorder = (x: Value, before: number, after: number): Value => {
  const zeros = (size: number) => (size === 0 ? [] : [constant(filled("float32", [...x.shape.slice(0, 3), size], 0))]);
  const pieces = [...zeros(before), x, ...zeros(after)];
  return pieces.length === 1 ? x : concat(pieces, { axis: 3 });
};

/** What groups of images give, [Ci/b, groups·Co, rows, columns·b] (b of Co in blocks), added to what earlier ones gave. */
const placesSum = (x: Value, dy: Value, block: number, g: Geometry, sum: Value | undefined): Value => {
  const [n, ci, h, w] = x.shape as [number, number, number, number];
  const [from, to] = [ci / block, dy.dim(1) / block];
  const [down, across] = [axisOf(g, 0), axisOf(g, 1)];
  const images = summed(n, from, block);
  const ordered = shaped(turned(x, [1, n, from], h * w * block), [from, n, h, w * block]);
  const bordered = withBorder(ordered, across.before * block, across.after * block);
  const size = dy.dim(2) * dy.dim(3) * block;
  const grouped = turned(dy, [n / images, images, to], size);
  return blockedConv(
    [bordered, shaped(grouped, [(n / images) * to * block, images, dy.dim(2), dy.dim(3)]), undefined, sum],
    {
      kernel_shape: g.output,
      pads: [down.before, 0, down.after, 0],
      strides: [1, 1],
      dilations: [g.strides[0], g.strides[1] * block],
      group: n / images,
    },
  );
};

/** The gradient [Co/b, b of Co, Ci/b, b of Ci, kh, kw] of what placesSum gave at last. */
const placesFilter = (sum: Value, co: number, block: number, g: Geometry): Value => {
  const [from, groups] = [sum.dim(0), sum.dim(1) / co];
  const [rows, columns] = [axisOf(g, 0).results, axisOf(g, 1).results];
  const each = shaped(sum, [from, groups, co * rows * columns * block]);
  // Summed over the first axis: over another one the engine's sums depend on its threads.
  const apart = from === 1 ? shaped(each, [groups, 1, each.dim(2)]) : transpose(each, { perm: [1, 0, 2] });
  const whole = shaped(groups === 1 ? each : reduceSum(apart, { axes: [0], keepdims: 0 }), [
    ...[from, co / block, rows, columns, block, block],
  ]);
  const taken = ([0, 1] as const)
    .map((i) => ({ axis: 2 + i, start: 0, end: g.dilations[i] * (g.kernel[i] - 1) + 1, step: g.dilations[i] }))
    .filter(({ axis, end, step }) => end !== whole.dim(axis) || step !== 1);
  return transpose(taken.length === 0 ? whole : slice(whole, taken), { perm: [1, 5, 0, 4, 2, 3] });
};

/** A chunk cut into such as the engine takes for channels: less images than a block, or whole blocks of them. */
const pieces = (part: Value, block: number): readonly Value[] => {
  const n = part.dim(0);
  if (fillsBlocks(block, n)) return [part];
  const rest = n % block;
  const cut = (start: number, end: number) => slice(part, [{ axis: 0, start, end }]);
  return [cut(0, n - rest), cut(n - rest, n)];
};

/** [Co/b, b of Co, Ci/b, b of Ci, kh, kw] of chunks x [n,Ci,H,W] and dy [n,Co,H',W'], as many images in each. */
export const placesGradWeight = (
  xs: readonly Value[],
  dys: readonly Value[],
  block: number,
  channels: number,
  g: Geometry,
): Value => {
  const backs = dys.flatMap((dy) => pieces(dy, block));
  const sums = new Map<number, Value>();
  for (const [i, x] of xs.flatMap((part) => pieces(part, block)).entries())
    sums.set(x.dim(0), placesSum(x, backs[i]!, block, g, sums.get(x.dim(0))));
  return Array.from(sums.values(), (sum) => placesFilter(sum, channels, block, g)).reduce((a, b) => add(a, b));
};

/** [Co/b, k·Ci, b] of row-major images [n,Ci,H,W] with few channels and dy, stride 1: a product for each image and block. */
export const stemGradWeight = (x: Value, dy: Value, block: number, g: Geometry): Value => {
  const [n, co] = [dy.dim(0), dy.dim(1)];
  const [h, w] = g.input;
  const [oh, ow] = g.output;
  const places = upTo(g.kernel[0]).flatMap((a) =>
    upTo(g.kernel[1]).map((b) => {
      const [down, right] = [a * g.dilations[0] - g.pads[0], b * g.dilations[1] - g.pads[1]];
      return pad(x, { begin: { 2: -down, 3: -right }, end: { 2: oh + down - h, 3: ow + right - w } });
    }),
  );
  const columns = shaped(concat(places, { axis: 1 }), [n, 1, -1, oh * ow]);
  return reduceSum(matMul(columns, shaped(dy, [n, co / block, oh * ow, block])), { axes: [0], keepdims: 0 });
};
