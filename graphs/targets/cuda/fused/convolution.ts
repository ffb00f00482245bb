/** Convolutions and their gradients channels last, the gradients by cuDNN's functions or by stock convolutions. */
import { absent, isAbsent, type Type, type Value } from "../../../onnx/graph.ts";
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
  slice,
  transpose,
  type Window,
  windowOf,
} from "../../../ops/index.ts";
import type { Lowered } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { dilate } from "../kernels/dilate.ts";
import { nhwcConv, nhwcConvGradInput, nhwcConvGradWeight } from "../kernels/nhwc-conv.ts";
import { type Layouts, Sparse } from "./layouts.ts";

const isSingle = (types: readonly Type[]): boolean => types.every(({ dtype }) => dtype === "float32");

/** Both gradients through cuDNN's own functions, or through convolutions that ONNX Runtime has: where no cuDNN is to be called. */
export type ConvGradients = "stock" | "cudnn";

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

/** Of a 1×1 convolution with stride: a 1×1 convolution of dy, whose result lies at the pixels that were seen. */
const byPixels = (
  layouts: Layouts,
  dy: Lowered,
  w: Lowered,
  { pads, strides, group, size }: GradInput,
): Sparse | undefined => {
  const [stride = 1, other] = strides;
  const single = w.type.shape.slice(2).every((k) => k === 1);
  if (!single || group !== 1 || stride === 1 || stride !== other || pads.some((p) => p !== 0)) return undefined;
  const value = nhwcConv(layouts.descend(dy), w.one(layouts.turned), absent, {
    pads,
    strides: [1, 1],
    dilations: [1, 1],
    group,
  });
  return new Sparse({ value, stride }, size as [number, number], layouts.gradient);
};

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
  gradients: ConvGradients,
): readonly (readonly [OpDefinition, Lowering])[] => {
  const forward: Lowering = ({ inputs, attributes, types }) => {
    const [x, w, bias] = inputs as [Lowered, Lowered, Lowered | undefined];
    if (!isSingle(types)) return undefined;
    const window: Window = windowOf(attributes as ConvAttributes, x.type.shape.slice(2), w.type.shape.slice(2));
    const shift = bias === undefined || isAbsent(bias.plain) ? absent : cast(bias.plain, { to: layouts.precision });
    return [
      { layout: layouts.activation, parts: [nhwcConv(layouts.activate(x), w.one(layouts.weights), shift, window)] },
    ];
  };

  const toInput: Lowering = ({ inputs, attributes, types }) => {
    const [dy, w] = inputs as [Lowered, Lowered];
    if (!isSingle(types)) return undefined;
    const window = attributes as GradInput;
    const sparse = byPixels(layouts, dy, w, window);
    if (sparse !== undefined) return [{ layout: sparse, parts: [sparse.term.value] }];
    const whole = window.strides.every((s) => s === 1);
    const turned =
      window.group === 1 && (whole || gradients === "stock")
        ? byTurned(layouts.descend(dy), w.one(layouts.turned), window)
        : undefined;
    if (turned === undefined && gradients === "stock") return undefined;
    const dx = turned ?? nhwcConvGradInput(layouts.descend(dy), w.one(layouts.weightsLast), window);
    return [{ layout: layouts.gradient, parts: [dx] }];
  };

  const toWeight: Lowering = ({ inputs, attributes, types }) => {
    const [x, dy] = inputs as [Lowered, Lowered];
    const window = attributes as GradWeight;
    if (!isSingle(types) || (gradients === "stock" && window.group !== 1)) return undefined;
    const operands = [layouts.activate(x), layouts.descend(dy)] as const;
    const dw =
      gradients === "stock"
        ? bySwapped(...operands, window)
        : transpose(nhwcConvGradWeight(...operands, window), { perm: [0, 3, 1, 2] });
    const single = cast(dw, { to: "float32" });
    return [layouts.lift === 1 ? single : div(single, layouts.lift)];
  };

  return [
    [conv.definition, forward],
    [convGradInput.definition, toInput],
    [convGradWeight.definition, toWeight],
  ];
};
