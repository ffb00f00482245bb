/**
 * ONNX Runtime on a CPU. Convolutions run in the pixel-major layout (pixel.ts), those of few channels in blocks of the processor's
 * (blocked/layout.ts) where those are told; what stands between them follows, and everything else is portable.
 */

import type { Value } from "../../onnx/graph.ts";
import { allNodesOf } from "../../onnx/order.ts";
import { convGradInput, type OpDefinition } from "../../ops/index.ts";
import type { Lowering, Target } from "../lower.ts";
import { portable } from "../portable.ts";
import { batchNorms } from "./batch-norm.ts";
import { bfloat16Convolutions } from "./bfloat16/convolution.ts";
import { type ChunkImages, volumes } from "./bfloat16/layout.ts";
import { bfloat16Name } from "./bfloat16/name.ts";
import { narrowed } from "./bfloat16/narrow.ts";
import { bfloat16Attacks } from "./bfloat16/pgd-step.ts";
import { bfloat16Pools } from "./bfloat16/pool.ts";
import { blockedConvolutions } from "./blocked/convolution.ts";
import { blockedPools } from "./blocked/pool.ts";
import type { Place } from "./chunked.ts";
import { convolutions, winogradShare } from "./convolution.ts";
import { elementwise } from "./elementwise.ts";
import { hideShapes } from "./hidden-shapes.ts";
import { pixelLayout } from "./pixel.ts";
import { type Limits, placing } from "./placing.ts";
import { pools } from "./pool.ts";
import type { Choose } from "./ways.ts";

export interface CpuOptions {
  readonly name?: string;
  /** Which way to compute a convolution of a shape; default: the fastest by the cost table. */
  readonly choose?: Choose;
  /**
   * Hide shapes (hidden-shapes.ts) from the engine's memory plan. A step of width 64 at batch 32 then peaks at 1.40 GB instead of 1.77, but takes
   * 3.8 to 6.7 s instead of 3.8: results go to fresh buffers instead of those that the caches hold (Zen 4).
   */
  readonly hiddenShapes?: boolean;
  /** Channels in a block of the processor's direct convolutions (blocked/layout.ts); left out, those are not used. */
  readonly block?: number | undefined;
  /** Up to which images values lie in such blocks (placing.ts). */
  readonly limits?: Limits | undefined;
  /** Whether nothing is computed from results of a pass forward again (blocked/convolution.ts). */
  readonly onlyForward?: boolean;
}

/** Lowerings of which the first is asked first. */
const either = (first: Lowerings, second: Lowerings): Lowerings => {
  const later = new Map(second);
  return [
    ...second,
    ...first.map(([op, lowering]): [OpDefinition, Lowering] => [op, (call) => lowering(call) ?? later.get(op)?.(call)]),
  ];
};
type Lowerings = readonly [OpDefinition, Lowering][];

const inBlocks = (block: number, place: Place, choose: Choose | undefined, onlyForward: boolean): Lowerings => [
  ...either(blockedConvolutions(block, place, onlyForward), convolutions(choose)),
  ...either(blockedPools(block, place), pools),
];

export const cpuTarget = ({
  name = "cpu",
  choose,
  hiddenShapes = false,
  block,
  limits,
  onlyForward = false,
}: CpuOptions = {}): Target => ({
  name,
  lowerings: new Map([
    ...(block === undefined
      ? [...convolutions(choose), ...pools]
      : inBlocks(block, placing(block, limits), choose, onlyForward)),
    ...batchNorms,
    ...elementwise(block === undefined ? pixelLayout : placing(block, limits)),
  ]),
  loops: "keep",
  // ONNX Runtime would keep what is computed anew to save memory, and takes longer to load: nothing runs faster for it.
  optimization: "disabled",
  ...(hiddenShapes && { rewrite: hideShapes }),
});

/**
 * Convolutions in bfloat16 and what stands between them in float32, which the driver computes with oneDNN.
 * @param images of a chunk at least
 */
export const cpuBfloat16Target = (images: ChunkImages = 16): Target => ({
  name: images === 16 ? "cpu-bfloat16" : `cpu-bfloat16-${images}`,
  lowerings: new Map([
    ...bfloat16Convolutions(volumes(images)),
    ...batchNorms,
    ...bfloat16Pools(volumes(images)),
    ...bfloat16Attacks,
    ...elementwise(volumes(images)),
  ]),
  loops: "keep",
  optimization: "disabled",
  provider: "cpu",
  kernels: bfloat16Name,
  rewrite: narrowed,
});

/**
 * Winograd's share of a pass forward from which on blocks and it are together faster than onnxruntime's own rewriting, which has batch
 * norm, ReLU and sums inside convolutions: ResNet-18 answers 16 images in 40 and 54 ms at width 32 (a share of 0.41), in 16 and 11 ms at
 * width 16 (0.21; one core of an Intel Xeon with AVX-512). Passes back are faster here at both.
 */
const FORWARD_SHARE = 0.3;

/** The portable target with what any CPU does better. */
const portableOnCpu: Target = { ...portable, lowerings: new Map([...portable.lowerings, ...pools]) };

/** The faster target for attacks on a network: this one where most of its work is Winograd's or in blocks, else the portable one. */
export const cpuTargetFor = (outputs: readonly Value[], block?: number): Target => {
  const onlyForward = allNodesOf(outputs).every(({ definition }) => definition !== convGradInput.definition);
  const fast =
    block !== undefined && onlyForward
      ? winogradShare(outputs, placing(block)) >= FORWARD_SHARE
      : winogradShare(outputs) >= 0.5;
  return fast ? cpuTarget({ block, onlyForward }) : portableOnCpu;
};
