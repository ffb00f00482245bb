/** ResNet (He et al. 2016) with the CIFAR stem (3×3, no pooling) or ImageNet's (7×7 stride 2, max pool). */
import type { Value } from "../onnx/graph.ts";
import { maxPool, reduceMean, relu } from "../ops/index.ts";
import { batchNorm, type ConvOptions, conv2d, type Layer, residual } from "./layer.ts";
import { type Normalisation, normalise } from "./normalisation.ts";
import type { Scope } from "./scope.ts";

export const depths = {
  18: { block: "basic", counts: [2, 2, 2, 2] },
  34: { block: "basic", counts: [3, 4, 6, 3] },
  50: { block: "bottleneck", counts: [3, 4, 6, 3] },
} as const;

export type ResNetDepth = keyof typeof depths;
export type Stem = "cifar" | "imagenet";

export interface ResNetOptions {
  readonly depth: ResNetDepth;
  /** Channels of the first stage; 64 in the papers. */
  readonly width: number;
  readonly stem: Stem;
  /** Batch-norm branches, in the order of bn_list; left out, an ordinary batch norm. */
  readonly branches?: readonly string[] | undefined;
  /** What the network wants of its pixels, which come in [0, 1]; left out, nothing. */
  readonly normalisation?: Normalisation | undefined;
  /** What stands for each convolution and the batch norm after it; an export folds the two. */
  readonly unit?: Unit | undefined;
}

/** A convolution under `names[0]` of the scope and the batch norm after it under `names[1]`. */
export type Unit = (
  scope: Scope,
  names: readonly [conv: string, norm: string],
  options: ConvOptions,
  x: Value,
) => Value;

/** A convolution, then the batch norm `norm`. */
export const normalised =
  (norm: Layer): Unit =>
  (scope, [conv, bn], options, x) =>
    norm(scope.at(bn), conv2d(options)(scope.at(conv), x));

/** Images [N,3,H,W] in [0, 1] to features [N, D]. */
export const resnet = ({ depth, width, stem, branches, normalisation, unit: given }: ResNetOptions): Layer => {
  const unit = given ?? normalised(batchNorm({ branches }));
  const { block, counts } = depths[depth];
  const stage = block === "basic" ? basicBlock : bottleneck;
  return (scope, images) => {
    const first = stem === "cifar" ? { kernel: 3, padding: 1 } : { kernel: 7, stride: 2, padding: 3 };
    let x = unit(scope, ["conv1", "bn1"], { filters: width, ...first }, normalise(normalisation)(scope, images));
    x = scope.at("relu").run(() => relu(x));
    if (stem === "imagenet")
      x = scope.at("maxpool").run(() => maxPool(x, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }));
    counts.forEach((count, i) => {
      for (let k = 0; k < count; k++) {
        const stride = i > 0 && k === 0 ? 2 : 1;
        x = stage({ filters: width * 2 ** i, stride, unit })(scope.at(`layer${i + 1}`).at(k), x);
      }
    });
    return scope.at("avgpool").run(() => reduceMean(x, { axes: [2, 3], keepdims: 0 }));
  };
};

interface BlockOptions {
  readonly filters: number;
  readonly stride: number;
  readonly unit: Unit;
}

const shortcut =
  ({ filters, stride, unit }: BlockOptions): Layer =>
  (scope, x) => {
    if (stride === 1 && x.dim(1) === filters) return x;
    return unit(scope.at("downsample"), ["conv", "bn"], { filters, kernel: 1, stride }, x);
  };

const basicBlock =
  ({ filters, stride, unit }: BlockOptions): Layer =>
  (scope, x) => {
    let y = unit(scope, ["conv1", "bn1"], { filters, kernel: 3, stride, padding: 1 }, x);
    y = scope.at("bn1").run(() => relu(y));
    y = unit(scope, ["conv2", "bn2"], { filters, kernel: 3, padding: 1 }, y);
    const sum = residual(scope, y, shortcut({ filters, stride, unit })(scope, x));
    return scope.run(() => relu(sum));
  };

const bottleneck =
  ({ filters, stride, unit }: BlockOptions): Layer =>
  (scope, x) => {
    const activated = (index: number, options: ConvOptions, value: Value) => {
      const y = unit(scope, [`conv${index}`, `bn${index}`], options, value);
      return scope.at(`bn${index}`).run(() => relu(y));
    };
    const outer = filters * 4;
    let y = activated(1, { filters, kernel: 1 }, x);
    y = activated(2, { filters, kernel: 3, stride, padding: 1 }, y);
    y = unit(scope, ["conv3", "bn3"], { filters: outer, kernel: 1 }, y);
    const sum = residual(scope, y, shortcut({ filters: outer, stride, unit })(scope, x));
    return scope.run(() => relu(sum));
  };
