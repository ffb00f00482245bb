/** Max pooling and its gradient over chunks in bfloat16, where onnxruntime's takes row-major images in float32. */
import type { Type } from "../../../onnx/graph.ts";
import { type ConvAttributes, maxPool, maxPoolGrad, type OpDefinition, windowOf } from "../../../ops/index.ts";
import type { Lowered } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import type { PixelLayout } from "../pixel.ts";
import { bfloat16MaxPool, bfloat16MaxPoolGrad, type Convolution } from "./ops.ts";

type Volumes = (type: { readonly shape: readonly number[] }) => PixelLayout;

/** A pooling of x to y, and the layouts of both. */
const planOf = (volumes: Volumes, x: Type, y: Type, attributes: ConvAttributes) => {
  const kernel = attributes.kernel_shape as readonly number[];
  const { pads, strides, dilations } = windowOf(attributes, x.shape.slice(2), kernel);
  const [from, to] = [volumes(x), volumes(y)];
  const channels = x.shape[1]!;
  const pooling: Convolution = {
    inputChunks: from.chunks,
    outputChunks: to.chunks,
    channels: [channels, channels],
    input: x.shape.slice(2),
    output: y.shape.slice(2),
    ...{ kernel, pads: pads.slice(0, 2), strides, dilations, depth: [], narrow: 0 },
  };
  return { from, to, pooling };
};

const pooled = ({ dtype, shape }: Type): boolean => dtype === "float32" && shape.length === 4;

const forward =
  (volumes: Volumes): Lowering =>
  ({ inputs: [x], attributes, types: [y] }) => {
    const { type } = x as Lowered;
    if (!pooled(type)) return undefined;
    const { from, to, pooling } = planOf(volumes, type, y as Type, attributes);
    return [{ layout: to, parts: bfloat16MaxPool.outputs(...(x as Lowered).in(from), pooling) }];
  };

const gradient =
  (volumes: Volumes): Lowering =>
  ({ inputs: [x, , dy], attributes }) => {
    const { type } = x as Lowered;
    if (!pooled(type)) return undefined;
    const { from, to, pooling } = planOf(volumes, type, (dy as Lowered).type, attributes);
    // Computed anew if that is cheap, rather than kept since the forward pass.
    const given = [...(x as Lowered).recomputed(from), ...(dy as Lowered).in(to)];
    return [{ layout: from, parts: bfloat16MaxPoolGrad.outputs(...given, pooling) }];
  };

/** Entries for both. */
export const bfloat16Pools = (volumes: Volumes): readonly [OpDefinition, Lowering][] => [
  [maxPool.definition, forward(volumes)],
  [maxPoolGrad.definition, gradient(volumes)],
];
