/**
 * ONNX Runtime's own ops on blocked images (domain com.microsoft.nchwc): [N, C/b, H, W, b] in memory for a block of b channels,
 * while their type stays [N,C,H,W]. They run only, on the processor whose block they were made for, and never reach a saved file.
 */
import { absent, apply, type Definition, type Type, type Value } from "../../../onnx/graph.ts";
import { convSize } from "../../../ops/index.ts";
import type { Then } from "../chunked.ts";

const DOMAIN = "com.microsoft.nchwc";

export interface BlockedConv {
  readonly kernel_shape: readonly [number, number];
  /** Top, left, bottom, right. */
  readonly pads: readonly [number, number, number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  readonly group: number;
  readonly activation?: string;
  readonly activation_params?: readonly number[];
}

/** Height and width of what windows give. */
const sizeAfter = (x: Value, { kernel_shape: kernel, pads, strides, dilations }: BlockedPool): number[] =>
  ([0, 1] as const).map((i) => convSize(x.dim(2 + i), kernel[i], strides[i], dilations[i], pads[i], pads[i + 2]!));

const convDefinition: Definition = {
  name: "Conv",
  domain: DOMAIN,
  attributes: {
    kernel_shape: "ints",
    pads: "ints",
    strides: "ints",
    dilations: "ints",
    group: "int",
    activation: "string",
    activation_params: "floats",
  },
  infer: ([x, w], attributes): Type[] => {
    const size = sizeAfter(x as Value, attributes as unknown as BlockedConv);
    return [{ dtype: "float32", shape: [(x as Value).dim(0), (w as Value).dim(0), ...size] }];
  },
};

/** Attributes of a convolution that ends in max(0, ·), or in 1 where positive and else 0. */
export const activated = (activation: Then["activation"]): Pick<BlockedConv, "activation" | "activation_params"> => {
  if (activation === "relu") return { activation: "Relu" };
  return activation === "positive" ? { activation: "HardSigmoid", activation_params: [1e38, 0] } : {};
};

/** activation(w * x + bias + plus); w in the order that blockedFilter gives, plus as large as the result. */
export const blockedConv = (
  [x, w, bias, plus]: readonly [x: Value, w: Value, bias?: Value | undefined, plus?: Value | undefined],
  attributes: BlockedConv,
): Value => {
  const inputs = [x, w, bias ?? absent, plus ?? absent];
  while (inputs.at(-1) === absent) inputs.pop();
  return apply(convDefinition, inputs, { ...attributes })[0] as Value;
};

type BlockedPool = Pick<BlockedConv, "kernel_shape" | "pads" | "strides" | "dilations">;

const maxPoolDefinition: Definition = {
  name: "MaxPool",
  domain: DOMAIN,
  attributes: { kernel_shape: "ints", pads: "ints", strides: "ints", dilations: "ints" },
  infer: ([x], attributes): Type[] => {
    const size = sizeAfter(x as Value, attributes as unknown as BlockedPool);
    return [{ dtype: "float32", shape: [...(x as Value).shape.slice(0, 2), ...size] }];
  },
};
/** The largest pixel of each window, without what lies outside of the image. */
export const blockedMaxPool = (x: Value, attributes: BlockedPool): Value =>
  apply(maxPoolDefinition, [x], { ...attributes })[0] as Value;

const poolDefinition: Definition = {
  name: "GlobalAveragePool",
  domain: DOMAIN,
  attributes: {},
  infer: ([x]): Type[] => [{ dtype: "float32", shape: [(x as Value).dim(0), (x as Value).dim(1), 1, 1] }],
};
/** Means over the pixels, [N,C,1,1]. */
export const blockedMeans = (x: Value): Value => apply(poolDefinition, [x], {})[0] as Value;

const reorderInputDefinition: Definition = {
  name: "ReorderInput",
  domain: DOMAIN,
  attributes: { channels_last: "int" },
  infer: ([x]): Type[] => [x as Value],
};
/** Row-major images as blocked ones. */
export const toBlocked = (x: Value): Value => apply(reorderInputDefinition, [x], {})[0] as Value;

const reorderOutputDefinition: Definition = {
  name: "ReorderOutput",
  domain: DOMAIN,
  attributes: { channels: "int", channels_last: "int" },
  infer: ([x], { channels }): Type[] => [
    { dtype: "float32", shape: [(x as Value).dim(0), channels as number, ...(x as Value).shape.slice(2)] },
  ],
};
/** Blocked images as row-major ones, the first `channels` channels of them. */
export const fromBlocked = (x: Value, channels: number): Value =>
  apply(reorderOutputDefinition, [x], { channels })[0] as Value;
