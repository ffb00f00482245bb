/** Ways of the gradients of convolutions on CUDA: which is fastest depends on the device (scripts/benchmarks/gpu.py measures each). */
import { type Attributes, constant, filled, type Type, type Value } from "../../onnx/graph.ts";
import {
  concat,
  conv,
  convGradInput,
  convGradWeight,
  type GradInput,
  type GradWeight,
  gemm,
  type OpDefinition,
  pad,
  reshape,
  slice,
  transpose,
} from "../../ops/index.ts";

/**
 * dw[o,i,k] = Σ_(n,p) dy[n,o,p] · x[n,i,s·p + k]: for each tap k the pixels that it sees, and one product over all images and
 * pixels. As a convolution with batch and channels exchanged the result has so few elements (9·64² in the first stage of a
 * ResNet-18, where each sums 2.6 million products at batch 512) that five tiles of 128×64 hold them all, and leave most of
 * a GPU idle; a product may be split along the sum. It also asks cuDNN for filters as large as images.
 */
const byTaps = (x: Value, dy: Value, window: GradWeight): Value | undefined => {
  const { pads, strides, dilations, group, kernel } = window;
  if (group !== 1) return undefined;
  const [height, width] = [dy.dim(2), dy.dim(3)];
  const [top = 0, left = 0, bottom = 0, right = 0] = pads;
  const [sy = 1, sx = 1] = strides;
  const [kh = 1, kw = 1] = kernel;
  const channelsFirst = (v: Value) => transpose(v, { perm: [1, 0, 2, 3] });
  const flat = (v: Value) => reshape(v, [v.dim(0), -1]);
  const padded = pad(channelsFirst(x), { begin: { 2: top, 3: left }, end: { 2: bottom, 3: right } });
  if (kh * kw > 1 && [...strides, ...dilations].every((s) => s === 1)) {
    const frame = { 2: padded.dim(2) - height, 3: padded.dim(3) - width };
    const framed = pad(channelsFirst(dy), { begin: {}, end: frame });
    if (framed.size <= MOST_FRAME * dy.size) return atOnce(flat(padded), flat(framed), padded.dim(3), [kh, kw]);
  }
  const gradient = flat(channelsFirst(dy));
  const taps = Array.from({ length: kh * kw }, (_, t) => {
    const [row, column] = [Math.floor(t / kw) * (dilations[0] ?? 1), (t % kw) * (dilations[1] ?? 1)];
    const seen = slice(padded, [
      { axis: 2, start: row, end: row + (height - 1) * sy + 1, step: sy },
      { axis: 3, start: column, end: column + (width - 1) * sx + 1, step: sx },
    ]);
    return reshape(gemm(gradient, flat(seen), { transB: 1 }), [1, dy.dim(1), x.dim(1)]);
  });
  return reshape(transpose(concat(taps, { axis: 0 }), { perm: [1, 2, 0] }), [dy.dim(1), x.dim(1), kh, kw]);
};

/**
 * How many times as large the frame of padding may make dy. At 8×8 pixels (1.6) the products with its zeros cost half of
 * what the memory saves, by the figures of an H100; at 4×4 (2.25) twice as much.
 */
const MOST_FRAME = 1.6;

/**
 * All taps in one product, where no stride leaves pixels out. With x and dy in frames of one width, one after the other, tap
 * (r,c) of all images is dw[o,i] = Σ_f dy[o,f] · x[i, f + r·width + c]: so copies of dy moved by whole rows times copies of x
 * moved by columns give every tap, [kh·o, kw·i]. For 3×3 that is 9 passes over each operand (3 read and 3 written by the
 * copies, 3 read by the product), where slices and products of 9 taps took 18. Where x has few channels it alone is moved.
 * @param x [i, images · frame]
 * @param dy [o, images · frame], zero where the frame is not image
 */
const atOnce = (x: Value, dy: Value, width: number, [kh, kw]: readonly [number, number]): Value => {
  const rows = Array.from({ length: kh }, (_, r) => r * width);
  const columns = Array.from({ length: kw }, (_, c) => c);
  const onlyX = dy.dim(0) > kw * x.dim(0);
  const seen = onlyX ? rows.flatMap((r) => columns.map((c) => r + c)) : columns;
  const farthest = seen.at(-1) as number;
  const down = (onlyX ? [0] : rows).map((r) => r + farthest);
  // Rows of whole sixteens keep tensor cores' operands aligned.
  const length = Math.ceil((dy.dim(1) + (down.at(-1) as number)) / 16) * 16;
  const back = seen.map((offset) => farthest - offset);
  const products = gemm(copiesOf(dy, down, length), copiesOf(x, back, length), { transB: 1 });
  const taps = reshape(products, [dy.dim(0), down.length, x.dim(0), seen.length]);
  return reshape(transpose(taps, { perm: [0, 2, 1, 3] }), [dy.dim(0), x.dim(0), kh, kw]);
};

/** v [n,L] once for each offset, there in a row of zeros: [n·offsets, length]. One Concat writes all. */
const copiesOf = (v: Value, offsets: readonly number[], length: number): Value => {
  const gap = (size: number) => (size > 0 ? [constant(filled(v.dtype, [v.dim(0), size], 0))] : []);
  const [first = 0] = offsets;
  const parts = offsets.flatMap((offset, i) => {
    const after = length - offset - v.dim(1) + (offsets[i + 1] ?? 0);
    return [v, ...gap(after)];
  });
  return reshape(concat([...gap(first), ...parts], { axis: 1 }), [v.dim(0) * offsets.length, length]);
};

/** dx = dy * turned w: a convolution with the taps in reverse order and in- and output channels exchanged (stride 1). */
const turned = (dy: Value, w: Value, { pads, strides, dilations, group, size }: GradInput): Value | undefined => {
  if (group !== 1 || strides.some((s) => s !== 1)) return undefined;
  const back = (axis: number) => ({ axis, start: -1, end: -(2 ** 31 - 1), step: -1 });
  const reach = [0, 1].map((i) => (w.dim(2 + i) - 1) * dilations[i]!);
  const kernel = transpose(slice(w, [back(2), back(3)]), { perm: [1, 0, 2, 3] });
  const [top = 0, left = 0] = pads;
  const before = [reach[0]! - top, reach[1]! - left];
  const after = [0, 1].map((i) => size[i]! - dy.dim(2 + i) + reach[i]! - before[i]!);
  if ([...before, ...after].some((p) => p < 0)) return undefined;
  return conv(dy, kernel, { pads: [...before, ...after], dilations });
};

/** Computes an op's first output from its operands. */
export type Way = (operands: readonly Value[], attributes: Attributes, types: readonly Type[]) => Value;

/** The portable lowering of a composite op, as a way. */
const portably =
  ({ lower }: OpDefinition): Way =>
  (operands, attributes, types) =>
    (lower as NonNullable<OpDefinition["lower"]>)(operands, attributes, types)[0] as Value;

const asConvolution = portably(convGradWeight.definition);
export const gradWeightWays: { readonly taps: Way; readonly convolution: Way } = {
  taps: (operands, attributes, types) =>
    byTaps(operands[0]!, operands[1]!, attributes as unknown as GradWeight) ??
    asConvolution(operands, attributes, types),
  convolution: asConvolution,
};

const transposed = portably(convGradInput.definition);
export const gradInputWays: { readonly transposed: Way; readonly turned: Way } = {
  transposed,
  turned: (operands, attributes, types) =>
    turned(operands[0]!, operands[1]!, attributes as unknown as GradInput) ?? transposed(operands, attributes, types),
};
