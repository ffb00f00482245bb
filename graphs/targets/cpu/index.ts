/**
 * ONNX Runtime on a CPU. Convolutions run in the pixel-major layout (pixel.ts), what stands between them follows it, and
 * everything else is portable. Nothing here depends on the processor's vector width.
 */

import type { Value } from "../../onnx/graph.ts";
import type { Target } from "../lower.ts";
import { portable } from "../portable.ts";
import { batchNorms } from "./batch-norm.ts";
import { convolutions, winogradShare } from "./convolution.ts";
import { elementwise } from "./elementwise.ts";
import { hideShapes } from "./hidden-shapes.ts";
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
}

export const cpuTarget = ({ name = "cpu", choose, hiddenShapes = false }: CpuOptions = {}): Target => ({
  name,
  lowerings: new Map([...convolutions(choose), ...batchNorms, ...elementwise]),
  loops: "keep",
  // ONNX Runtime would keep what is computed anew to save memory, and takes longer to load: nothing runs faster for it.
  optimization: "disabled",
  ...(hiddenShapes && { rewrite: hideShapes }),
});

/** The faster target for attacks on a network: this one where most of its work is Winograd's, else the portable one. */
export const cpuTargetFor = (outputs: readonly Value[]): Target =>
  winogradShare(outputs) >= 0.5 ? cpuTarget() : portable;
