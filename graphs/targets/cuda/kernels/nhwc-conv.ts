/**
 * Convolutions channels last: forward by onnxruntime's own op, which takes channels last on CUDA alone, or, with both gradients, by
 * cuDNN's three functions (src/engine/native/cudnn). Each has a portable meaning, so all can be tried on a CPU.
 */
import { check } from "../../../onnx/error.ts";
import { absent, isAbsent, type Type, type Value } from "../../../onnx/graph.ts";
import {
  type ConvAttributes,
  conv,
  convGradInput,
  convGradWeight,
  convSize,
  defineOp,
  type GradInput,
  type GradWeight,
  notDifferentiable,
  type Op,
  sameDtype,
  transpose,
} from "../../../ops/index.ts";

const toFirst = (v: Value): Value => transpose(v, { perm: [0, 3, 1, 2] });
const toLast = (v: Value): Value => transpose(v, { perm: [0, 2, 3, 1] });
const runsOnly = notDifferentiable("runs only, never differentiated");

type Window = Required<Pick<ConvAttributes, "pads" | "strides" | "dilations" | "group">>;

/** Where onnxruntime keeps channels-last forms of standard ops; its version is that of the standard ops. */
export const NHWC_DOMAIN = "com.ms.internal.nhwc";

/**
 * Convolution channels last, the form in which CUDA's provider runs standard Convs when it is asked to prefer channels last:
 * x [N,H,W,Ci], w [Co,Ci/group,kh,kw], bias [Co] or left out; y [N,H',W',Co]. Only constant weights are reordered beforehand
 * (conv.cc of onnxruntime's CUDA provider), and parameters are none.
 */
export const nhwcConv: Op<[x: Value, w: Value, bias: Value], Window> = defineOp<
  [x: Value, w: Value, bias: Value],
  Window
>(
  "Conv",
  {
    attributes: { pads: "ints", strides: "ints", dilations: "ints", group: "int" },
    minInputs: 2,
    infer: ([x, w], { pads, strides, dilations, group }): Type => {
      check(w.dim(1) * group === x.dim(3), "shape", `x has ${x.dim(3)} channels but w expects ${w.dim(1) * group}`);
      const size = [0, 1].map((i) =>
        convSize(x.dim(1 + i), w.dim(2 + i), strides[i]!, dilations[i]!, pads[i]!, pads[i + 2]!),
      );
      return { dtype: sameDtype([x, w]), shape: [x.dim(0), ...size, w.dim(0)] };
    },
    vjp: runsOnly,
    lower: ([x, w, bias], window) => toLast(conv(toFirst(x), w, isAbsent(bias) ? absent : bias, window)),
  },
  NHWC_DOMAIN,
);

/** The same by cudnnConvolutionForward: w channels last [Co,kh,kw,Ci], padding alike on both sides, no bias. */
export const nhwcConvForward: Op<[x: Value, w: Value], Window> = defineOp<[x: Value, w: Value], Window>(
  "nhwcConvForward",
  {
    attributes: { pads: "ints", strides: "ints", dilations: "ints", group: "int" },
    infer: ([x, w], { pads, strides, dilations, group }): Type => {
      check(w.dim(3) * group === x.dim(3), "shape", `x has ${x.dim(3)} channels but w expects ${w.dim(3) * group}`);
      const size = [0, 1].map((i) =>
        convSize(x.dim(1 + i), w.dim(1 + i), strides[i]!, dilations[i]!, pads[i]!, pads[i + 2]!),
      );
      return { dtype: sameDtype([x, w]), shape: [x.dim(0), ...size, w.dim(0)] };
    },
    vjp: runsOnly,
    lower: ([x, w], window) => toLast(conv(toFirst(x), toFirst(w), absent, window)),
  },
);

/** Gradient of nhwcConv to its input, by cudnnConvolutionBackwardData. dy [N,H',W',Co], w channels last [Co,kh,kw,Ci/group]. */
export const nhwcConvGradInput: Op<[dy: Value, w: Value], GradInput> = defineOp<[dy: Value, w: Value], GradInput>(
  "nhwcConvGradInput",
  {
    attributes: { pads: "ints", strides: "ints", dilations: "ints", group: "int", size: "ints" },
    infer: ([dy, w], { group, size }) => ({ dtype: sameDtype([dy, w]), shape: [dy.dim(0), ...size, w.dim(3) * group] }),
    vjp: runsOnly,
    lower: ([dy, w], window) => toLast(convGradInput(toFirst(dy), toFirst(w), window)),
  },
);

/** Gradient of nhwcConv to its weights, by cudnnConvolutionBackwardFilter. x [N,H,W,Ci], dy [N,H',W',Co]; [Co,kh,kw,Ci/group]. */
export const nhwcConvGradWeight: Op<[x: Value, dy: Value], GradWeight> = defineOp<[x: Value, dy: Value], GradWeight>(
  "nhwcConvGradWeight",
  {
    attributes: { pads: "ints", strides: "ints", dilations: "ints", group: "int", kernel: "ints" },
    infer: ([x, dy], { group, kernel }) => ({
      dtype: sameDtype([x, dy]),
      shape: [dy.dim(3), ...kernel, x.dim(3) / group],
    }),
    vjp: runsOnly,
    lower: ([x, dy], window) => toLast(convGradWeight(toFirst(x), toFirst(dy), window)),
  },
);

/** What cuDNN computes rather than a source of ours, by the op's definition. */
export type CudnnFunction = "forward" | "gradInput" | "gradWeight";
export const cudnnFunctions: ReadonlyMap<object, CudnnFunction> = new Map<object, CudnnFunction>([
  [nhwcConvForward.definition, "forward"],
  [nhwcConvGradInput.definition, "gradInput"],
  [nhwcConvGradWeight.definition, "gradWeight"],
]);
