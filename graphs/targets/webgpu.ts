/**
 * ONNX Runtime on WebGPU. Besides what GPUs share, exceptions are the ops that its provider leaves to the CPU (each would
 * bring its operands over the bus), as read from profiles of onnxruntime-node 1.30; scripts/check-webgpu.ts counts them anew.
 */
import type { Value } from "../onnx/graph.ts";
import {
  add,
  cast,
  exp,
  greater,
  less,
  log,
  logSoftmax,
  type OpDefinition,
  type Reduction,
  reduceLogSumExp,
  reduceMax,
  reduceSum,
  reshape,
  sign,
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
  const most = reduceMax(x, over(1));
  const rest = log(reduceSum(exp(sub(x, most)), over(keepdims)));
  return add(rest, reshape(most, rest.shape));
};
const stableLogSumExp: Lowering = ({ inputs: [x], attributes }) => [logSumExp(x!.plain, attributes)];

/** log softmax(x) = x - logΣexp(x): LogSoftmax has no kernel. */
const logSoftmaxByReduction: Lowering = ({ inputs: [x], attributes }) => {
  const { plain } = x!;
  return [sub(plain, logSumExp(plain, { axes: [(attributes.axis as number | undefined) ?? -1] }))];
};

/** Sum of several values as a chain of additions: the variadic op has no kernel. */
const sumByAdditions: Lowering = ({ inputs }) => [inputs.map((x) => x.plain).reduce((a, b) => add(a, b))];

export const webgpu: Target = {
  name: "webgpu",
  lowerings: new Map<OpDefinition, Lowering>([
    ...gpuLowerings,
    [reduceLogSumExp.definition, stableLogSumExp],
    [sign.definition, signByComparison],
    [logSoftmax.definition, logSoftmaxByReduction],
    [sum.definition, sumByAdditions],
  ]),
  // A Loop runs on the CPU, its body on the GPU, its carried values over the bus.
  loops: "unroll",
};
