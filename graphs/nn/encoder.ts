/** The encoders that there are, by architecture and depth. */
import type { Layer } from "./layer.ts";
import { type Norm, preActLayout, preActNetwork, wideLayout } from "./preact.ts";
import { depths, type ResNetDepth, type ResNetOptions, resnet } from "./resnet.ts";

/** Depths of each architecture, and the depth and the width that its papers use most. */
export const architectures = {
  resnet: { depths: [18, 34, 50], depth: 18, width: 64 },
  "preact-resnet": { depths: [18, 34], depth: 18, width: 64 },
  "wide-resnet": { depths: [10, 16, 22, 28, 34, 40, 70], depth: 28, width: 160 },
} as const;

export type Architecture = keyof typeof architectures;
export type Depth = (typeof architectures)[Architecture]["depths"][number];

export const architectureNames = Object.keys(architectures) as [Architecture, ...Architecture[]];

export interface EncoderOptions extends Omit<ResNetOptions, "depth"> {
  /** Left out, a ResNet. The others have the CIFAR stem alone. */
  readonly arch?: Architecture | undefined;
  readonly depth: Depth;
  /** What stands for a batch norm that follows no convolution. */
  readonly norm?: Norm | undefined;
}

/** What tells one encoder from another, besides its stem. */
export type NetworkShape = Pick<EncoderOptions, "arch" | "depth" | "width">;

/** Whether an architecture comes in a depth. */
export const hasDepth = (arch: Architecture, depth: number): boolean =>
  architectures[arch].depths.some((known) => known === depth);

/** How many channels the last stage has, of a network whose first has one. */
const growth = ({ arch, depth }: NetworkShape): number =>
  arch === "wide-resnet" ? 4 : 8 * (depths[depth as ResNetDepth].block === "bottleneck" ? 4 : 1);

/** Features of an encoder: 512 for ResNet-18 and -34 of width 64, 2048 for ResNet-50, 640 for WideResNet-34-10. */
export const featureSize = (shape: NetworkShape): number => shape.width * growth(shape);

/** What people call it: ResNet-18, PreAct-ResNet-18, WideResNet-34-10. */
export const encoderName = ({ arch = "resnet", depth, width }: NetworkShape): string => {
  if (arch === "wide-resnet") return `WideResNet-${depth}${width % 16 === 0 ? `-${width / 16}` : ""}`;
  return `${arch === "resnet" ? "ResNet" : "PreAct-ResNet"}-${depth}`;
};

/** Images [N,3,H,W] in [0, 1] to features [N, featureSize]. */
export const encoder = ({ arch = "resnet", depth, ...options }: EncoderOptions): Layer => {
  const { width, stem } = options;
  if (!hasDepth(arch, depth)) throw new Error(`internal: ${arch} has no depth ${depth}`);
  if (arch === "resnet") return resnet({ ...options, depth: depth as ResNetDepth });
  if (stem !== "cifar") throw new Error(`internal: ${arch} has no stem ${stem}`);
  const layout =
    arch === "wide-resnet" ? wideLayout(depth, width) : preActLayout(depths[depth as ResNetDepth].counts, width);
  return preActNetwork(layout, options);
};
