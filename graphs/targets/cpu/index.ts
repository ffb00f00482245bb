/**
 * ONNX Runtime on a CPU. Convolutions run in the pixel-major layout (pixel.ts), what stands between them follows it, and
 * everything else is portable. Nothing here depends on the processor's vector width.
 */
import type { Target } from "../lower.ts";
import { batchNorms } from "./batch-norm.ts";
import { type Choose, convolutions } from "./convolution.ts";
import { elementwise } from "./elementwise.ts";

export interface CpuOptions {
  /** Which way to compute a convolution of a shape; default: the first that can. */
  readonly choose?: Choose;
}

export const cpuTarget = ({ choose }: CpuOptions = {}): Target => ({
  name: "cpu",
  lowerings: new Map([...convolutions(choose), ...batchNorms, ...elementwise]),
  loops: "keep",
  // ONNX Runtime would keep what is computed anew to save memory, and takes longer to load: nothing runs faster for it.
  optimization: "disabled",
});
