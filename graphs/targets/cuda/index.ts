/**
 * ONNX Runtime's CUDA provider with its own ops alone: for where this project's kernels cannot run (./fused). What is fastest depends on
 * the device, so each way is an option; the defaults are those that counting favours, and docs/benchmarks-gpu.md has what was measured.
 */
import type { Value } from "../../onnx/graph.ts";
import {
  batchNormTraining,
  batchNormTrainingGrad,
  convGradInput,
  convGradWeight,
  greater,
  type OpDefinition,
  reluGrad,
  where,
} from "../../ops/index.ts";
import { batchNormGrad, gpuLowerings, reducedDots } from "../gpu.ts";
import type { Lowering, Target } from "../lower.ts";
import { fusedTraining, productDots } from "./batch-norm.ts";
import { gradInputWays, gradWeightWays, type Way } from "./convolution.ts";
import { halfLowerings } from "./half.ts";

/** The ways of each part; the first is what is taken where nothing is said. */
export const cudaWays = {
  /** Gradient to the weights: a product for each tap of the kernel, or a convolution with batch and channels exchanged. */
  gradWeight: ["taps", "convolution"],
  /** Gradient to the input where the stride is 1: ConvTranspose, or a convolution with turned weights. */
  gradInput: ["transposed", "turned"],
  /**
   * Batch norm: by ops that fuse it, which no other provider computes as CUDA's does; so, with the sums of products in its
   * gradient as a matrix product for each image and channel; or composed as on all GPUs.
   */
  norm: ["fused", "dots", "composed"],
  /** What activations lie in, and convolutions and matrix products compute in. */
  precision: ["float32", "float16"],
} as const;

export type CudaOptions = { readonly [K in keyof typeof cudaWays]?: (typeof cudaWays)[K][number] };

/**
 * dy where y is positive, else 0: two passes over floats fewer than a product with a cast comparison. Not for WebGPU, whose
 * provider moves transposes through it onto the booleans, for which it has none (each went to the CPU).
 */
const reluGradByChoice: Way = ([y, dy]) => where(greater(y as Value, 0), dy as Value, 0);

const lowered =
  (way: Way): Lowering =>
  ({ inputs, attributes, types }) => [
    way(
      inputs.map((x) => x.plain),
      attributes,
      types,
    ),
  ];

/** What is asked of a graph's nodes first, and where it declines, second. */
const either =
  (first: Lowering, second: Lowering | undefined): Lowering =>
  (call) =>
    first(call) ?? second?.(call);

/** `cuda`, `cuda-convolution`, `cuda-turned-float16` and so on: the ways that are not the first. */
export const cudaName = (options: CudaOptions): string =>
  ["cuda", ...Object.keys(cudaWays).flatMap((part) => othersOf(part as keyof CudaOptions, options))].join("-");

const othersOf = (part: keyof CudaOptions, options: CudaOptions): readonly string[] => {
  const way = options[part] ?? cudaWays[part][0];
  return way === cudaWays[part][0] ? [] : [way];
};

export const cudaTarget = (options: CudaOptions = {}): Target => {
  const { gradWeight = "taps", gradInput = "transposed", norm = "fused", precision = "float32" } = options;
  const ways = {
    gradWeight: gradWeightWays[gradWeight],
    gradInput: gradInputWays[gradInput],
    reluGrad: reluGradByChoice,
  };
  const lowerings = new Map<OpDefinition, Lowering>([
    ...gpuLowerings,
    [convGradWeight.definition, lowered(ways.gradWeight)],
    [convGradInput.definition, lowered(ways.gradInput)],
    [reluGrad.definition, lowered(ways.reluGrad)],
  ]);
  const prefer = (definition: OpDefinition, lowering: Lowering) =>
    lowerings.set(definition, either(lowering, lowerings.get(definition)));
  const dots = { fused: reducedDots, dots: productDots, composed: undefined }[norm];
  if (dots !== undefined) {
    prefer(batchNormTraining.definition, fusedTraining);
    lowerings.set(batchNormTrainingGrad.definition, batchNormGrad({ dots }));
  }
  if (precision === "float16")
    for (const [definition, lowering] of halfLowerings({ ...ways, dots })) prefer(definition, lowering);
  return {
    name: cudaName(options),
    lowerings,
    loops: "keep",
    ...(dots && { provider: "cuda", otherwise: cudaTarget({ ...options, norm: "composed" }) }),
  };
};
