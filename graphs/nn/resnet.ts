/** ResNet (He et al. 2016) with the CIFAR stem (3×3, no pooling) or ImageNet's (7×7 stride 2, max pool). */
import type { Value } from "../onnx/graph.ts";
import { maxPool, reduceMean, relu } from "../ops/index.ts";
import { batchNorm, conv2d, type Layer, residual } from "./layer.ts";

export const depths = {
  18: { block: "basic", counts: [2, 2, 2, 2] },
  34: { block: "basic", counts: [3, 4, 6, 3] },
  50: { block: "bottleneck", counts: [3, 4, 6, 3] },
} as const;

export type Depth = keyof typeof depths;
export type Stem = "cifar" | "imagenet";

export interface ResNetOptions {
  readonly depth: Depth;
  /** Channels of the first stage; 64 in the papers. */
  readonly width: number;
  readonly stem: Stem;
  /** Batch-norm branches, in the order of bn_list; left out, an ordinary batch norm. */
  readonly branches?: readonly string[] | undefined;
}

/** Features of the encoder: 512 for ResNet-18 and -34 of width 64, 2048 for ResNet-50. */
export const featureSize = ({ depth, width }: Pick<ResNetOptions, "depth" | "width">): number =>
  width * 8 * (depths[depth].block === "bottleneck" ? 4 : 1);

/** Images [N,3,H,W] to features [N, featureSize]. */
export const resnet = ({ depth, width, stem, branches }: ResNetOptions): Layer => {
  const norm = batchNorm({ branches });
  const { block, counts } = depths[depth];
  const stage = block === "basic" ? basicBlock : bottleneck;
  return (scope, images) => {
    const first =
      stem === "cifar"
        ? conv2d({ filters: width, kernel: 3, padding: 1 })
        : conv2d({ filters: width, kernel: 7, stride: 2, padding: 3 });
    let x = norm(scope.at("bn1"), first(scope.at("conv1"), images));
    x = scope.at("relu").run(() => relu(x));
    if (stem === "imagenet")
      x = scope.at("maxpool").run(() => maxPool(x, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }));
    counts.forEach((count, i) => {
      for (let k = 0; k < count; k++) {
        const stride = i > 0 && k === 0 ? 2 : 1;
        x = stage({ filters: width * 2 ** i, stride, norm })(scope.at(`layer${i + 1}`).at(k), x);
      }
    });
    return scope.at("avgpool").run(() => reduceMean(x, { axes: [2, 3], keepdims: 0 }));
  };
};

interface BlockOptions {
  readonly filters: number;
  readonly stride: number;
  readonly norm: Layer;
}

const shortcut =
  ({ filters, stride, norm }: BlockOptions): Layer =>
  (scope, x) => {
    if (stride === 1 && x.dim(1) === filters) return x;
    const at = scope.at("downsample");
    return norm(at.at("bn"), conv2d({ filters, kernel: 1, stride })(at.at("conv"), x));
  };

const basicBlock =
  ({ filters, stride, norm }: BlockOptions): Layer =>
  (scope, x) => {
    const convolve = (name: string, input: Value, step: number) =>
      conv2d({ filters, kernel: 3, stride: step, padding: 1 })(scope.at(name), input);
    let y = norm(scope.at("bn1"), convolve("conv1", x, stride));
    y = scope.at("bn1").run(() => relu(y));
    y = norm(scope.at("bn2"), convolve("conv2", y, 1));
    const sum = residual(scope, y, shortcut({ filters, stride, norm })(scope, x));
    return scope.run(() => relu(sum));
  };

const bottleneck =
  ({ filters, stride, norm }: BlockOptions): Layer =>
  (scope, x) => {
    const activated = (name: number, value: Value) => {
      const y = norm(scope.at(`bn${name}`), value);
      return scope.at(`bn${name}`).run(() => relu(y));
    };
    const outer = filters * 4;
    let y = activated(1, conv2d({ filters, kernel: 1 })(scope.at("conv1"), x));
    y = activated(2, conv2d({ filters, kernel: 3, stride, padding: 1 })(scope.at("conv2"), y));
    y = norm(scope.at("bn3"), conv2d({ filters: outer, kernel: 1 })(scope.at("conv3"), y));
    const sum = residual(scope, y, shortcut({ filters: outer, stride, norm })(scope, x));
    return scope.run(() => relu(sum));
  };
