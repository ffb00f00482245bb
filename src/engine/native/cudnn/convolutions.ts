/** The convolutions of a model by cuDNN, whose workspace they share: they run one after the other. */
import type { Type } from "../../../../graphs/onnx/graph.ts";
import type { KernelCall } from "../../../../graphs/targets/cuda/kernels/kernel.ts";
import type { CudnnFunction } from "../../../../graphs/targets/cuda/kernels/nhwc-conv.ts";
import type { PrepareCudnn } from "../kernel-ops.ts";
import type { Driver } from "../launch.ts";
import type { Convolution, Cudnn, PreparedConvolution } from "./library.ts";

/** [N,H,W,C] or [Co,kh,kw,Ci] as sizes in cuDNN's order, channels second. */
const sizes = ({ shape: [n = 1, h = 1, w = 1, c = 1] }: Type): readonly number[] => [n, c, h, w];

/** What the op of a node is. Inputs and output are as nhwc-conv.ts has them. */
export const convolutionOf = (
  what: CudnnFunction,
  { inputs, outputs, attributes }: KernelCall,
  tf32: boolean,
): Convolution => {
  const [first, second, result] = [inputs[0], inputs[1], outputs[0]] as [Type, Type, Type];
  const [x, w, y] = {
    forward: [first, second, result],
    gradInput: [result, second, first],
    gradWeight: [first, result, second],
  }[what] as [Type, Type, Type];
  const pair = (name: string): [number, number] => {
    const [rows = 0, columns = 0] = attributes[name] as readonly number[];
    return [rows, columns];
  };
  const { dtype } = x;
  if (dtype !== "float16" && dtype !== "float32") throw new Error(`internal: a convolution of ${dtype} for cuDNN`);
  return {
    dtype,
    x: sizes(x),
    w: sizes(w),
    y: sizes(y),
    pads: pair("pads"),
    strides: pair("strides"),
    dilations: pair("dilations"),
    tf32,
  };
};

export const cudnnConvolutions = (
  cudnn: Cudnn,
  driver: Pick<Driver, "within" | "allocate" | "free">,
  tf32: boolean,
): { readonly prepare: PrepareCudnn; release(): void } => {
  const known = new Map<string, PreparedConvolution>();
  let [workspace, held] = [0n, 0];
  /** Nothing runs yet while nodes are readied, so the room for all may move. */
  const reserve = (bytes: number): void => {
    if (bytes <= held) return;
    if (held > 0) driver.free(workspace);
    [workspace, held] = [driver.allocate(bytes), bytes];
  };
  return {
    prepare: (what, call) => {
      const convolution = convolutionOf(what, call, tf32);
      const key = JSON.stringify([what, convolution]);
      const made = known.get(key) ?? driver.within(() => cudnn.prepare(what, convolution));
      known.set(key, made);
      reserve(made.workspace);
      return (addresses, stream) =>
        driver.within(() => made.run(addresses[0]!, addresses[1]!, addresses[2]!, workspace, stream));
    },
    release: () => {
      if (held > 0) driver.free(workspace);
      held = 0;
    },
  };
};
