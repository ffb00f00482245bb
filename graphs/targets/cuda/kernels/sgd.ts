/** SGD with momentum (as torch.optim.SGD) over many parameters in one launch: m ← momentum·m + (g + decay·w), w ← w - lr·m. */
import type { Type, Value } from "../../../onnx/graph.ts";
import { sizeOf } from "../../../onnx/tensor.ts";
import { add, mul, type Op, sub } from "../../../ops/index.ts";
import { defineKernel, literal } from "./kernel.ts";

type Sgd = { readonly momentum: number; readonly decay: number };

const THREADS = 256;
/** Elements of a block. */
const CHUNK = THREADS * 8;

const countOf = (inputs: readonly unknown[]): number => (inputs.length - 1) / 3;

/** Blocks before each tensor, and those of all. */
const blocksBefore = (types: readonly Type[]): number[] => {
  const before = [0];
  for (const { shape } of types) before.push((before.at(-1) as number) + Math.ceil(sizeOf(shape) / CHUNK));
  return before;
};

/** lr [], then n parameters, n gradients, n momenta; gives n parameters and n momenta. All float32. */
export const sgdKernel: Op<readonly Value[], Sgd> = defineKernel<readonly Value[], Sgd>("sgdStep", {
  attributes: { momentum: "float", decay: "float" },
  infer: ([, ...inputs]) => {
    const like = inputs.slice(0, inputs.length / 3).map(({ dtype, shape }) => ({ dtype, shape }));
    return [...like, ...like];
  },
  lower: ([lr, ...inputs], { momentum, decay }) => {
    const n = inputs.length / 3;
    const weights = inputs.slice(0, n);
    const momenta = weights.map((w, i) => {
      const decayed = decay === 0 ? inputs[n + i]! : add(inputs[n + i]!, mul(w, decay));
      return add(mul(inputs[2 * n + i]!, momentum), decayed);
    });
    return [...weights.map((w, i) => sub(w, mul(momenta[i]!, lr as Value))), ...momenta];
  },
  arguments: ({ inputs }) => {
    const n = countOf(inputs);
    return ["lr", ["weight", n], ["gradient", n], ["momentum", n], ["nextWeight", n], ["nextMomentum", n]];
  },
  body: ({ outputs, attributes: { momentum, decay } }) => {
    const weights = outputs.slice(0, outputs.length / 2);
    return `
static __device__ const int firstBlock[] = {${blocksBefore(weights).join(", ")}};
static __device__ const int sizes[] = {${weights.map(({ shape }) => sizeOf(shape)).join(", ")}};

extern "C" __global__ void sgdStep(const __grid_constant__ Arguments a) {
  int t = 0;
  for (int last = ${weights.length - 1}; t < last;) {
    const int middle = (t + last + 1) / 2;
    if (firstBlock[middle] <= (int)blockIdx.x) t = middle;
    else last = middle - 1;
  }
  const float* weight = a.weight[t];
  const float* gradient = a.gradient[t];
  const float* momentum = a.momentum[t];
  float* nextWeight = a.nextWeight[t];
  float* nextMomentum = a.nextMomentum[t];
  const float lr = *a.lr;
  const int begin = (blockIdx.x - firstBlock[t]) * ${CHUNK};
  const int end = begin + ${CHUNK} < sizes[t] ? begin + ${CHUNK} : sizes[t];
  for (int i = begin + threadIdx.x; i < end; i += ${THREADS}) {
    const float m = ${literal(momentum)} * momentum[i] + (gradient[i] + ${literal(decay)} * weight[i]);
    nextMomentum[i] = m;
    nextWeight[i] = weight[i] - lr * m;
  }
}`;
  },
  launches: ({ outputs }) => [
    {
      function: "sgdStep",
      grid: [blocksBefore(outputs.slice(0, outputs.length / 2)).at(-1) as number, 1],
      block: THREADS,
      reads: ["weight", "gradient", "momentum"],
      writes: ["nextWeight", "nextMomentum"],
    },
  ],
});
