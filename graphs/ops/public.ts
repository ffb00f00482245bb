/** The ops that callers of the library build graphs of, by ONNX's names in camelCase. */
export { and, equal, greater, greaterOrEqual, isNan, less, lessOrEqual, or } from "./compare.ts";
export { loop } from "./control.ts";
export { conv, convTranspose } from "./conv.ts";
export {
  abs,
  add,
  cast,
  ceil,
  clip,
  cos,
  div,
  erf,
  exp,
  floor,
  gelu,
  hardSigmoid,
  hardSwish,
  identity,
  leakyRelu,
  log,
  max,
  min,
  mod,
  mul,
  neg,
  not,
  pow,
  reciprocal,
  relu,
  round,
  sigmoid,
  sign,
  silu,
  sin,
  softplus,
  sqrt,
  stopGradient,
  sub,
  sum,
  tanh,
  where,
} from "./elementwise.ts";
export { gather, gatherElements, oneHot, scatterElements, topK } from "./indexing.ts";
export { gemm, matMul } from "./linear.ts";
export {
  concat,
  depthToSpace,
  expand,
  flatten,
  reshape,
  split,
  squeeze,
  tile,
  transpose,
  unsqueeze,
} from "./movement.ts";
export { batchNormalization, layerNormalization, logSoftmax, normalizeL2, softmax } from "./normalize.ts";
export { averagePool, globalAveragePool, maxPool } from "./pool.ts";
export { randomNormal, randomUniform } from "./random.ts";
export {
  argMax,
  argMin,
  cumSum,
  reduceL2,
  reduceLogSumExp,
  reduceMax,
  reduceMean,
  reduceMin,
  reduceProd,
  reduceSum,
  reduceSumSquare,
} from "./reduce.ts";
export { pad, slice } from "./slice.ts";
