/**
 * ONNX Runtime on WebGPU. Besides what GPUs share, exceptions are the ops that its provider leaves to the CPU (each would
 * bring its operands over the bus), as read from profiles of onnxruntime-node 1.30, and those that it computes wrongly for
 * some shapes. scripts/parity/check-webgpu.ts counts the former anew, and compares every op with the CPU.
 */
import { absent, isAbsent, type Type, type Value } from "../onnx/graph.ts";
import {
  add,
  alongChannels,
  type ConvAttributes,
  cast,
  conv,
  convTranspose,
  exp,
  greater,
  less,
  log,
  logSoftmax,
  type OpDefinition,
  pad,
  type Reduction,
  rangesOf,
  reduceLogSumExp,
  reduceMax,
  reduceSum,
  reshape,
  sign,
  slice,
  sub,
  sum,
} from "../ops/index.ts";
import { gpuLowerings } from "./gpu.ts";
import type { Lowering, Target } from "./lower.ts";

/** sign(x) = [x > 0] - [x < 0]: Sign has no kernel. */
const signByComparison: Lowering = ({ inputs: [x] }) => {
  const { plain } = x!;
  const side = (hit: Value) => cast(hit, { to: plain.dtype });
  return [sub(side(greater(plain, 0)), side(less(plain, 0)))];
};

/**
 * logΣexp(x) = m + logΣexp(x - m) with m = max(x): the provider's kernel adds up exp(x) as it is, which overflows from 89 on,
 * and a shader's exp loses digits as |x| grows (WGSL allows it 3 + 2|x| units in the last place).
 */
const logSumExp = (x: Value, { axes, keepdims = 1 }: Reduction): Value => {
  const over = (keep: number): Reduction => ({ ...(axes && { axes }), keepdims: keep });
  const largest = reduceMax(x, over(1));
  const rest = log(reduceSum(exp(sub(x, largest)), over(keepdims)));
  return add(rest, reshape(largest, rest.shape));
};
const stableLogSumExp: Lowering = ({ inputs: [x], attributes }) => [logSumExp(x!.plain, attributes)];

/** log softmax(x) = x - logΣexp(x): LogSoftmax has no kernel. */
const logSoftmaxByReduction: Lowering = ({ inputs: [x], attributes }) => {
  const { plain } = x!;
  return [sub(plain, logSumExp(plain, { axes: [(attributes.axis as number | undefined) ?? -1] }))];
};

/** Sum of several values as a chain of additions: the variadic op has no kernel. */
const sumByAdditions: Lowering = ({ inputs }) => [inputs.map((x) => x.plain).reduce((a, b) => add(a, b))];

/**
 * Channels of zeros up to a multiple of 4, where the provider reads channels by threes (a multiple of 3 but not of 4, filters
 * a multiple of 4) and looks for all but the first three at a quarter of their place: onnxruntime's issue 29651. The
 * gradient of weights is such a convolution in a batch of 6, 9, 15, … images.
 */
const convInFours: Lowering = ({ inputs, attributes }) => {
  const [x, w, bias] = inputs.map(({ plain }) => plain) as [Value, Value, Value];
  const { group = 1 } = attributes as ConvAttributes;
  const channels = x.dim(1);
  if (group !== 1 || channels === 3 || channels % 3 !== 0 || channels % 4 === 0 || w.dim(0) % 4 !== 0) return undefined;
  const [wide, filters] = [x, w].map((v) => pad(v, { begin: {}, end: { 1: 4 - (channels % 4) } })) as [Value, Value];
  return [conv.outputs(wide, filters, bias, attributes)[0] as Value];
};

/** A second channel of zeros, where each group gives one from several: there the provider's results are wrong. */
const convTransposeInPairs: Lowering = ({ inputs, attributes, types: [y] }) => {
  const [x, w, bias] = inputs.map(({ plain }) => plain) as [Value, Value, Value];
  const { group = 1 } = attributes as ConvAttributes;
  if (group === 1 || w.dim(1) !== 1 || w.dim(0) === group) return undefined;
  const { shape } = y as Type;
  const pairs = convTranspose(x, pad(w, { begin: {}, end: { 1: 1 } }), absent, attributes);
  const split = reshape(pairs, [x.dim(0), group, 2, ...shape.slice(2)]);
  const first = reshape(slice(split, [{ axis: 2, start: 0, end: 1 }]), shape);
  return [isAbsent(bias) ? first : add(first, alongChannels(bias, 4))];
};

/** The end of the operand is cut off where a backward slice begins before it: the provider begins at the end all the same. */
const sliceFromTheEnd: Lowering = ({ inputs }) => {
  const [x, ...parts] = inputs.map(({ plain }) => plain) as [Value, ...Value[]];
  const ranges = rangesOf(x, parts);
  const late = ranges.filter(({ axis, start, step }) => step < 0 && start < x.dim(axis) - 1);
  if (late.length === 0) return undefined;
  const cut = slice(
    x,
    late.map(({ axis, start }) => ({ axis, start: 0, end: start + 1 })),
  );
  return [
    slice(
      cut,
      ranges.map((range) => (range.step < 0 ? { ...range, start: -1, end: range.end - cut.dim(range.axis) } : range)),
    ),
  ];
};

export const webgpu: Target = {
  name: "webgpu",
  lowerings: new Map<OpDefinition, Lowering>([
    ...gpuLowerings,
    [reduceLogSumExp.definition, stableLogSumExp],
    [sign.definition, signByComparison],
    [logSoftmax.definition, logSoftmaxByReduction],
    [sum.definition, sumByAdditions],
    [conv.definition, convInFours],
    [convTranspose.definition, convTransposeInPairs],
    [slice.definition, sliceFromTheEnd],
  ]),
  // A Loop runs on the CPU, its body on the GPU, its carried values over the bus.
  loops: "unroll",
};
