/**
 * ONNX Runtime's CUDA provider with this project's fused kernels (graphs/targets/cuda/kernels): networks run channels last in
 * float16 or float32, batch norms with their ReLUs, sums and masks are a kernel each way, the attack's step is one, and loops are
 * unrolled, as a CUDA graph wants it. It runs in the native engine only. Chosen by counting (docs/kernels.md), seen on an H200
 * (docs/benchmarks-gpu.md).
 */
import type { OpDefinition } from "../../../ops/index.ts";
import { gpuLowerings } from "../../gpu.ts";
import type { Lowering, Target } from "../../lower.ts";
import { fileName } from "../kernels/kernel.ts";
import { normLowerings } from "./batch-norm.ts";
import { type Convolutions, convolutionLowerings } from "./convolution.ts";
import { elementwiseLowerings } from "./elementwise.ts";
import { finish } from "./finish.ts";
import { Layouts, type Precision } from "./layouts.ts";
import { lossLowerings } from "./losses.ts";

export interface FusedOptions {
  readonly precision?: Precision;
  /** What computes convolutions and their gradients. */
  readonly convolutions?: Convolutions;
}

/** `cuda-fused[-float32][-stock]`. */
export const cudaFusedName = ({ precision, convolutions }: FusedOptions): string =>
  `cuda-fused${precision === "float32" ? "-float32" : ""}${convolutions === "stock" ? "-stock" : ""}`;

export const cudaFusedTarget = ({ precision = "float16", convolutions = "cudnn" }: FusedOptions = {}): Target => {
  const layouts = new Layouts(precision);
  const lowerings = new Map<OpDefinition, Lowering>(gpuLowerings);
  const fused = [
    ...normLowerings(layouts),
    ...convolutionLowerings(layouts, convolutions),
    ...elementwiseLowerings(layouts),
    ...lossLowerings,
  ];
  for (const [definition, lowering] of fused) {
    const otherwise = lowerings.get(definition);
    lowerings.set(definition, (call) => lowering(call) ?? otherwise?.(call));
  }
  const name = cudaFusedName({ precision, convolutions });
  return { name, provider: "cuda", lowerings, loops: "unroll", kernels: fileName, rewrite: finish };
};
