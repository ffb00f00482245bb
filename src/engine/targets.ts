/** Targets by the names that people choose them by. */
import { cpuBfloat16Target, cpuTarget } from "../../graphs/targets/cpu/index.ts";
import { blockedName, type Limits, readBlockedName } from "../../graphs/targets/cpu/placing.ts";
import { directly } from "../../graphs/targets/cpu/ways.ts";
import { cudaFusedName, cudaFusedTarget } from "../../graphs/targets/cuda/fused/index.ts";
import { type CudaOptions, cudaName, cudaTarget, cudaWays } from "../../graphs/targets/cuda/index.ts";
import type { Target } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { webgpu } from "../../graphs/targets/webgpu.ts";
import { RequestError } from "../errors.ts";
import type { Precision } from "./precision.ts";
import type { Provider, SessionOptions } from "./session-contract.ts";

/** Each combination of ways, by its name. */
const cudaTargets = Object.fromEntries(
  Object.entries(cudaWays)
    .reduce<CudaOptions[]>(
      (combined, [part, ways]) => combined.flatMap((options) => ways.map((way) => ({ ...options, [part]: way }))),
      [{}],
    )
    .map((options) => [cudaName(options), () => cudaTarget(options)] as const),
);

/**
 * Channels last with the fused kernels: in float16, or in float32 (products in TF32 where the provider takes it); convolutions by cuDNN's
 * functions or, `stock`, by onnxruntime's.
 */
const cudaFusedTargets = Object.fromEntries(
  (["float16", "float32"] as const).flatMap((precision) =>
    (["cudnn", "stock"] as const).map((convolutions) => {
      const options = { precision, convolutions };
      return [cudaFusedName(options), () => cudaFusedTarget(options)] as const;
    }),
  ),
);

/** The name of the target that is the same but for cuDNN's functions; undefined where a target does not call them. */
export const withoutCudnn = (name: string): string | undefined =>
  Object.hasOwn(cudaFusedTargets, name) && !name.endsWith("-stock") ? `${name}-stock` : undefined;

/** The CPU target with the blocks of a processor, if any; the name tells them and their limits, so that a run can be pinned to them. */
const blockedTarget = (block: number | undefined, limits?: Limits): Target =>
  block === undefined ? cpuTarget() : cpuTarget({ name: blockedName(block, limits), block, limits });

/** By name, for a processor with blocks of some channels. */
const targets: Readonly<Record<string, (block?: number) => Target>> = {
  portable: () => portable,
  cpu: blockedTarget,
  "cpu-blocked8": () => blockedTarget(8),
  "cpu-blocked16": () => blockedTarget(16),
  "cpu-pixels": () => cpuTarget({ name: "cpu-pixels" }),
  "cpu-lean": () => cpuTarget({ name: "cpu-lean", hiddenShapes: true }),
  "cpu-direct": () => cpuTarget({ name: "cpu-direct", choose: directly }),
  "cpu-bfloat16": () => cpuBfloat16Target(),
  "cpu-bfloat16-32": () => cpuBfloat16Target(32),
  webgpu: () => webgpu,
  ...cudaTargets,
  ...cudaFusedTargets,
};
export const targetNames = Object.keys(targets);
/** Whether a name is that of a target: one of those, or of blocks up to limits of their own. */
export const isTargetName = (name: string): boolean =>
  Object.hasOwn(targets, name) || readBlockedName(name) !== undefined;
export const targetNamed = (name: string, block?: number): Target => {
  if (Object.hasOwn(targets, name)) return targets[name]!(block);
  const blocked = readBlockedName(name);
  if (blocked === undefined) throw new RequestError(`there is no target ${name}; choose ${targetPattern}`);
  return blockedTarget(blocked.block, blocked.limits);
};

/**
 * The one of onnxruntime's own ops, by what was measured on an H200: in float16 the gradients to weights and inputs are
 * convolutions, the fastest of these; in float32 weight gradients are products, since cuDNN would take a transform in
 * complex float32 that cost 0.27 s a step.
 */
export const stockTargetOf = (precision: Precision): string =>
  precision === "float16" ? "cuda-convolution-turned-float16" : "cuda";

/**
 * What programs that judge or attack a classifier are lowered for. Never float16 by itself: a gradient that vanishes in it makes a weak
 * attack, and a model look robust that is not. Threads, which only the CPU has for it, are not handed kernels.
 * @param own whether float16 is the engine's choice of a target, for a precision
 */
export const judgingTarget = (
  target: Target,
  { stock, graphs, own }: { stock: () => Target; graphs: boolean; own: boolean },
): Target => {
  if (!own) return target.kernels === undefined || graphs ? target : stock();
  const single = targetNamed(target.kernels === undefined ? stockTargetOf("tf32") : "cuda-fused-float32");
  return { ...single, loops: target.loops };
};

/**
 * How far the engine may rewrite a step. On the CPU not at all: that takes 15 times as long as the loading itself, and no step
 * runs faster for it.
 */
export const rewritingOf = ({ optimization }: Target, provider: Provider): Pick<SessionOptions, "optimization"> => {
  const level = optimization ?? (provider === "cpu" ? "disabled" : undefined);
  return level === undefined ? {} : { optimization: level };
};

/** How names of targets are made up, for help and messages. */
export const targetPattern = `portable|cpu[-blocked8|-blocked16|-pixels|-lean|-direct|-bfloat16[-32]]|webgpu|cuda${Object.values(
  cudaWays,
)
  .map(([, ...others]) => `[${others.map((way) => `-${way}`).join("|")}]`)
  .join("")}|cuda-fused[-float32][-stock]`;
