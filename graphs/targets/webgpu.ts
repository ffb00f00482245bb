/**
 * ONNX Runtime on WebGPU. Exceptions are the ops that its provider leaves to the CPU (each would bring its operands over
 * the bus), as read from profiles of onnxruntime-node 1.30; scripts/check-webgpu.ts counts them anew.
 */
import type { Value } from "../onnx/graph.ts";
import {
  add,
  cast,
  greater,
  less,
  logSoftmax,
  type OpDefinition,
  reduceLogSumExp,
  sign,
  sub,
  sum,
} from "../ops/index.ts";
import type { Lowering, Target } from "./lower.ts";

/** sign(x) = [x > 0] - [x < 0]: Sign has no kernel. */
const signByComparison: Lowering = ({ inputs: [x] }) => {
  const { plain } = x!;
  const side = (hit: Value) => cast(hit, { to: plain.dtype });
  return [sub(side(greater(plain, 0)), side(less(plain, 0)))];
};

/** log softmax(x) = x - logΣexp(x): LogSoftmax has no kernel. */
const logSoftmaxByReduction: Lowering = ({ inputs: [x], attributes }) => {
  const { plain } = x!;
  return [sub(plain, reduceLogSumExp(plain, { axes: [(attributes.axis as number | undefined) ?? -1] }))];
};

/** Sum of several values as a chain of additions: the variadic op has no kernel. */
const sumByAdditions: Lowering = ({ inputs }) => [inputs.map((x) => x.plain).reduce((a, b) => add(a, b))];

export const webgpu: Target = {
  name: "webgpu",
  lowerings: new Map<OpDefinition, Lowering>([
    [sign.definition, signByComparison],
    [logSoftmax.definition, logSoftmaxByReduction],
    [sum.definition, sumByAdditions],
  ]),
  // A Loop runs on the CPU, its body on the GPU, its carried values over the bus.
  loops: "unroll",
};
