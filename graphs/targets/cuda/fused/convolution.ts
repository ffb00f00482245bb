/**
 * Convolutions and their gradients channels last: by cuDNN's own functions, or by convolutions that ONNX Runtime has. On an H200 the
 * former take a fifth of the time for gradients to weights in float16 (docs/benchmarks-gpu.md).
 */
import { absent, constant, filled, isAbsent, type Type, type Value } from "../../../onnx/graph.ts";
import {
  type ConvAttributes,
  cast,
  conv,
  convGradInput,
  convGradWeight,
  div,
  type GradInput,
  type GradWeight,
  type OpDefinition,
  reshape,
  slice,
  transpose,
  type Window,
  windowOf,
} from "../../../ops/index.ts";
import type { Lowered } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { dilate } from "../kernels/dilate.ts";
import { nhwcConv, nhwcConvForward, nhwcConvGradInput, nhwcConvGradWeight } from "../kernels/nhwc-conv.ts";
import { type Layouts, Normalised, Sparse } from "./layouts.ts";

const isSingle = (types: readonly Type[]): boolean => types.every(({ dtype }) => dtype === "float32");

/** By cuDNN's own functions, or by ONNX Runtime's convolutions: for what cuDNN is not asked for (groups, uneven padding), and to compare. */
export type Convolutions = "cudnn" | "stock";

/** Whether cuDNN is asked for it: it knows padding that is alike on both sides alone. */
const isEven = ({ pads: [top, left, bottom, right], group }: Pick<GradInput, "pads" | "group">): boolean =>
  group === 1 && top === bottom && left === right;

/**
 * dx = dy * turned w, with zeros between the pixels of dy where the convolution had a stride. Undefined where padding would
 * have to be negative.
 */
const byTurned = (dy: Value, turned: Value, { pads, strides, dilations, size }: GradInput): Value | undefined => {
  const spread = strides.some((s) => s !== 1) ? dilate(dy, { strides }) : dy;
  const reach = [0, 1].map((i) => (turned.dim(2 + i) - 1) * dilations[i]!);
  const before = [0, 1].map((i) => reach[i]! - pads[i]!);
  const after = [0, 1].map((i) => size[i]! - spread.dim(1 + i) + reach[i]! - before[i]!);
  if ([...before, ...after].some((p) => p < 0)) return undefined;
  return nhwcConv(spread, turned, absent, { pads: [...before, ...after], strides: [1, 1], dilations, group: 1 });
};

/** Whether a filter [Co,Ci,kh,kw] is one pixel. */
const isPointwise = (w: Lowered): boolean => w.type.shape.slice(2).every((k) => k === 1);

/** Whether it sees single pixels alone, at a stride and no others. */
const seesPixels = (w: Lowered, { pads, strides: [stride = 1, other], group }: GradInput): boolean =>
  group === 1 && stride > 1 && stride === other && isPointwise(w) && pads.every((p) => p === 0);

const pointwise = { pads: [0, 0, 0, 0], strides: [1, 1], dilations: [1, 1], group: 1 } as const;

/** dw as a convolution in which batch and channels change places: the one form of it that ONNX Runtime has a kernel for. */
const bySwapped = (x: Value, dy: Value, { pads, strides, dilations, kernel }: GradWeight): Value => {
  const [images, filters] = [x, dy].map((v) => transpose(v, { perm: [3, 0, 1, 2] })) as [Value, Value];
  const full = conv(images, filters, { pads, strides: dilations, dilations: strides });
  const taps = slice(full, [
    { axis: 2, start: 0, end: kernel[0]! },
    { axis: 3, start: 0, end: kernel[1]! },
  ]);
  return transpose(taps, { perm: [1, 0, 2, 3] });
};

export const convolutionLowerings = (
  layouts: Layouts,
  convolutions: Convolutions,
): readonly (readonly [OpDefinition, Lowering])[] => {
  const byCudnn = (window: Pick<GradInput, "pads" | "group">): boolean => convolutions === "cudnn" && isEven(window);

  /** In float16 cuDNN's own function has no fast way at single pixels with a stride, and onnxruntime's op has (0.38 and 0.05 ms on an H200). */
  const byOnnxruntime = ({ strides }: Window, w: Lowered): boolean =>
    layouts.precision === "float16" && strides.some((s) => s > 1) && isPointwise(w);

  const forward: Lowering = ({ inputs, attributes, types }) => {
    const [x, w, bias] = inputs as [Lowered, Lowered, Lowered | undefined];
    if (!isSingle(types)) return undefined;
    const window: Window = windowOf(attributes as ConvAttributes, x.type.shape.slice(2), w.type.shape.slice(2));
    const given = bias === undefined || isAbsent(bias.plain) ? absent : bias.plain;
    const image = layouts.activate(x);
    if (!byCudnn(window) || byOnnxruntime(window, w)) {
      const shift = isAbsent(given) ? absent : cast(given, { to: layouts.precision });
      return [{ layout: layouts.activation, parts: [nhwcConv(image, w.one(layouts.weights), shift, window)] }];
    }
    const y = nhwcConvForward(image, w.one(layouts.weightsLast), window);
    if (isAbsent(given)) return [{ layout: layouts.activation, parts: [y] }];
    // A bias is a batch norm that only shifts: added where y is read, with the ReLU and the sum that follow.
    const [zero, one] = [0, 1].map((v) => constant(filled("float32", [1, given.dim(0)], v))) as [Value, Value];
    const four = [zero, one, one, reshape(given, [1, -1])] as const;
    const later = new Normalised(y, four, { branches: 1, epsilon: 0 }, layouts.activation);
    return [{ layout: later, parts: [y] }];
  };

  /** Gradient to the input, at the pixels that a 1×1 convolution with stride saw or at all; undefined where neither way is to be had. */
  const gradInput = (dy: Value, w: Lowered, window: GradInput): Value | undefined => {
    if (byCudnn(window)) return nhwcConvGradInput(dy, w.one(layouts.weightsLast), window);
    return window.group === 1 ? byTurned(dy, w.one(layouts.turned), window) : undefined;
  };

  const toInput: Lowering = ({ inputs, attributes, types }) => {
    const [dy, w] = inputs as [Lowered, Lowered];
    if (!isSingle(types)) return undefined;
    const window = attributes as GradInput;
    const { size } = window;
    const descending = layouts.descend(dy);
    if (seesPixels(w, window)) {
      const value = gradInput(descending, w, { ...pointwise, size: dy.type.shape.slice(2) });
      const stride = window.strides[0]!;
      if (value === undefined) return undefined;
      const sparse = new Sparse({ value, stride }, size as [number, number], layouts.gradient);
      return [{ layout: sparse, parts: [value] }];
    }
    const dx = gradInput(descending, w, window);
    return dx && [{ layout: layouts.gradient, parts: [dx] }];
  };

  const toWeight: Lowering = ({ inputs, attributes, types }) => {
    const [x, dy] = inputs as [Lowered, Lowered];
    const window = attributes as GradWeight;
    if (!isSingle(types) || window.group !== 1) return undefined;
    const operands = [layouts.activate(x), layouts.descend(dy)] as const;
    const dw = byCudnn(window)
      ? transpose(nhwcConvGradWeight(...operands, window), { perm: [0, 3, 1, 2] })
      : bySwapped(...operands, window);
    const single = cast(dw, { to: "float32" });
    return [layouts.lift === 1 ? single : div(single, layouts.lift)];
  };

  return [
    [conv.definition, forward],
    [convGradInput.definition, toInput],
    [convGradWeight.definition, toWeight],
  ];
};
