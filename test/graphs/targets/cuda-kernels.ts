/**
 * Element types for which ONNX Runtime's CUDA provider has a kernel at opsets 13 to 17, from the table in its documentation
 * (docs/OperatorKernels.md of onnxruntime): what is not here would run on the CPU. `scripts/parity/cuda-placement.ts` asks the
 * provider itself.
 */
import type { DType } from "../../../graphs/onnx/dtype.ts";

const floats: readonly DType[] = ["float16", "float32", "float64"];
const whole: readonly DType[] = ["int32", "int64"];
const any: readonly DType[] = [...floats, ...whole, "int8", "uint8", "int16", "uint16", "uint32", "uint64", "bool"];
const numbers = any.filter((type) => type !== "bool");

const kernels = (types: readonly DType[], ops: string): [string, readonly DType[]][] =>
  ops.split(" ").map((op) => [op, types]);

/** By op: types of its first operand, of Where its second. */
export const cudaKernels: ReadonlyMap<string, readonly DType[]> = new Map([
  ...kernels(any, "Cast Concat Expand Flatten Gather GatherElements Identity Loop Reshape ScatterElements ScatterND"),
  ...kernels(any, "Shape Slice Split Squeeze Transpose Unsqueeze"),
  ...kernels(numbers, "Abs Add Div Mul Sign Sub"),
  ...kernels(
    [...floats, ...whole],
    "CumSum Greater GreaterOrEqual Less LessOrEqual Max Min Mod Pow ReduceMax ReduceSum",
  ),
  ...kernels([...floats, ...whole], "Tile TopK"),
  ...kernels([...floats, ...whole, "bool"], "Equal"),
  ...kernels([...floats, ...whole, "uint8"], "Where"),
  ...kernels([...floats, ...whole, "int8", "int16"], "Neg"),
  ...kernels([...floats, "int64", "int8", "uint8", "uint64"], "Clip"),
  ...kernels([...floats, "int32"], "ReduceL1 ReduceL2 ReduceMean ReduceProd"),
  ...kernels([...floats, "bool"], "Pad"),
  ...kernels([...floats, "int8", "uint8"], "MaxPool"),
  ...kernels(
    floats,
    "ArgMax ArgMin AveragePool BatchNormalization Ceil Conv ConvTranspose Cos DepthToSpace Erf Exp Floor",
  ),
  ...kernels(
    floats,
    "Gemm GlobalAveragePool GlobalMaxPool HardSigmoid LayerNormalization LeakyRelu Log LogSoftmax MatMul",
  ),
  ...kernels(
    floats,
    "PRelu Reciprocal ReduceLogSumExp ReduceSumSquare Relu Round Sigmoid Sin Softmax Softplus Sqrt Sum Tanh FusedMatMul",
  ),
  ...kernels(["bool"], "And Not Or Xor"),
  ...kernels(whole, "OneHot"),
]);
