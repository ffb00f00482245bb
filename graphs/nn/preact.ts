/**
 * Networks of pre-activation blocks (He et al. 2016b), for small images: PreAct-ResNet, and WideResNet (Zagoruyko & Komodakis
 * 2016) as TRADES and RobustBench have it. A final batch norm and ReLU stand before the pooling.
 */
import type { Value } from "../onnx/graph.ts";
import { reduceMean, relu } from "../ops/index.ts";
import { batchNorm, conv2d, type Layer, residual } from "./layer.ts";
import { type Normalisation, normalise } from "./normalisation.ts";
import { normalised, type Unit } from "./resnet.ts";
import type { Scope } from "./scope.ts";

/** A batch norm under `name` of the scope that follows no convolution, so that no convolution before it can take it in. */
export type Norm = (scope: Scope, name: string, x: Value) => Value;

/** How a network of pre-activation blocks is laid out and what its parts are called. */
export interface PreActLayout {
  /** Channels of the first convolution. */
  readonly first: number;
  /** Channels of the first stage; each next stage has twice as many and half the side. */
  readonly width: number;
  /** Blocks of each stage. */
  readonly counts: readonly number[];
  /** Where the blocks of a stage lie, from its number, which counts from 0. */
  readonly stage: (scope: Scope, index: number) => Scope;
  /** Where the convolution of a block's shortcut lies. */
  readonly shortcut: (scope: Scope) => Scope;
}

export interface PreActOptions {
  /** Batch-norm branches, in the order of bn_list; left out, an ordinary batch norm. */
  readonly branches?: readonly string[] | undefined;
  /** What the network wants of its pixels, which come in [0, 1]; left out, nothing. */
  readonly normalisation?: Normalisation | undefined;
  /** What stands for a convolution and the batch norm after it; an export folds the two. */
  readonly unit?: Unit | undefined;
  /** What stands for a batch norm without a convolution before it. */
  readonly norm?: Norm | undefined;
}

/** PreAct-ResNet: four stages, by the names of ResNet; its final batch norm is `bn1`. */
export const preActLayout = (counts: readonly number[], width: number): PreActLayout => ({
  ...{ first: width, width, counts },
  stage: (scope, index) => scope.at(`layer${index + 1}`),
  shortcut: (scope) => scope.at("downsample").at("conv"),
});

/** WideResNet of `depth` layers: three stages of (depth - 4) / 6 blocks, after a convolution of 16 channels whatever the width. */
export const wideLayout = (depth: number, width: number): PreActLayout => ({
  ...{ first: 16, width, counts: [0, 1, 2].map(() => (depth - 4) / 6) },
  stage: (scope, index) => scope.at(`block${index + 1}`).at("layer"),
  shortcut: (scope) => scope.at("convShortcut"),
});

/** Images [N,3,H,W] in [0, 1] to features [N, channels of the last stage]. */
export const preActNetwork = (
  layout: PreActLayout,
  { branches, normalisation, unit: unitGiven, norm: normGiven }: PreActOptions,
): Layer => {
  const plain = batchNorm({ branches });
  const parts: Parts = {
    unit: unitGiven ?? normalised(plain),
    norm: normGiven ?? ((scope, name, x) => plain(scope.at(name), x)),
    shortcut: layout.shortcut,
  };
  return (scope, images) => {
    const first = conv2d({ filters: layout.first, kernel: 3, padding: 1 });
    let x = first(scope.at("conv1"), normalise(normalisation)(scope, images));
    layout.counts.forEach((count, i) => {
      for (let k = 0; k < count; k++) {
        const stride = i > 0 && k === 0 ? 2 : 1;
        x = block({ ...parts, filters: layout.width * 2 ** i, stride })(layout.stage(scope, i).at(k), x);
      }
    });
    x = parts.norm(scope, "bn1", x);
    x = scope.at("relu").run(() => relu(x));
    return scope.at("avgpool").run(() => reduceMean(x, { axes: [2, 3], keepdims: 0 }));
  };
};

interface Parts {
  readonly unit: Unit;
  readonly norm: Norm;
  readonly shortcut: PreActLayout["shortcut"];
}

/** Batch norm, ReLU and convolution twice. A shortcut that changes the shape takes the input after its first ReLU. */
const block =
  ({ unit, norm, shortcut, filters, stride }: Parts & { readonly filters: number; readonly stride: number }): Layer =>
  (scope, x) => {
    const normed = norm(scope, "bn1", x);
    const activated = scope.at("bn1").run(() => relu(normed));
    const middle = unit(scope, ["conv1", "bn2"], { filters, kernel: 3, stride, padding: 1 }, activated);
    const y = conv2d({ filters, kernel: 3, padding: 1 })(
      scope.at("conv2"),
      scope.at("bn2").run(() => relu(middle)),
    );
    const isSame = stride === 1 && x.dim(1) === filters;
    const other = isSame ? x : conv2d({ filters, kernel: 1, stride })(shortcut(scope), activated);
    return residual(scope, y, other);
  };
