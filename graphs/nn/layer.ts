/** Layers: functions of a scope and a value, with PyTorch's names for arguments and parameters. */
import type { Value } from "../onnx/graph.ts";
import {
  add,
  batchNormalization,
  batchNormTraining,
  branchesAsChannels,
  concat,
  conv,
  expandAs,
  gemm,
  mul,
  reshape,
  split,
} from "../ops/index.ts";
import { moveStatistics, type Scope } from "./scope.ts";

export type Layer = (scope: Scope, x: Value) => Value;

export interface ConvOptions {
  readonly filters: number;
  readonly kernel: number;
  readonly stride?: number;
  readonly padding?: number;
}

/** Convolution without bias; x [N,Ci,H,W]. Kaiming normal, fan-out (He et al. 2015), as torchvision's ResNet. */
export const conv2d =
  ({ filters, kernel, stride = 1, padding = 0 }: ConvOptions): Layer =>
  (scope, x) =>
    scope.run(() => {
      const init = { kind: "normal", std: Math.sqrt(2 / (filters * kernel * kernel)) } as const;
      const weight = scope.parameter("weight", [filters, x.dim(1), kernel, kernel], init);
      return conv(x, weight, {
        kernel_shape: [kernel, kernel],
        pads: [padding, padding, padding, padding],
        strides: [stride, stride],
      });
    });

/** x·Wᵀ + b; x [N,in]. PyTorch's default start: uniform in ±1/√in. */
export const linear =
  ({ features, bias = true }: { features: number; bias?: boolean }): Layer =>
  (scope, x) =>
    scope.run(() => {
      const init = { kind: "uniform", bound: 1 / Math.sqrt(x.dim(1)) } as const;
      const weight = scope.parameter("weight", [features, x.dim(1)], init);
      if (!bias) return gemm(x, weight, { transB: 1 });
      return gemm(x, weight, scope.parameter("bias", [features], init), { transB: 1 });
    });

export interface BatchNormOptions {
  /** Names of the branches, in the order of bn_list; left out, one set of parameters serves every view. */
  readonly branches?: readonly string[] | undefined;
  readonly epsilon?: number;
  readonly momentum?: number;
}

/**
 * Batch norm with a set of parameters and statistics a branch (Xie et al. 2020). The scope says which branch each view of
 * the interleaved batch [B·nb,C,…] takes; views of one branch are normalised apart all the same, each by its own batch.
 */
export const batchNorm =
  ({ branches, epsilon = 1e-5, momentum = 0.1 }: BatchNormOptions = {}): Layer =>
  (scope, x) =>
    scope.run(() => {
      const channels = x.dim(1);
      const views = scope.branches.map((name) => {
        if (branches === undefined) return scope;
        const index = branches.indexOf(name);
        if (index < 0)
          throw new Error(`internal: ${scope.path} has no batch-norm branch ${name}, only ${branches.join(", ")}`);
        return scope.at("bn_list").at(index);
      });
      const stacked = (part: (view: Scope) => Value): Value => {
        const rows = views.map((view) => reshape(part(view), [1, channels]));
        return new Set(views.map((v) => v.path)).size === 1
          ? expandAs(rows[0]!, [views.length, channels])
          : concat(rows, { axis: 0 });
      };
      const scale = stacked((view) => view.parameter("weight", [channels], { kind: "constant", value: 1 }));
      const bias = stacked((view) => view.parameter("bias", [channels], { kind: "constant", value: 0 }));
      const ranks = scope.store.ranks?.batchNorm ? scope.store.ranks.size : 1;
      const count = (x.size / channels / views.length) * ranks;
      if (scope.mode === "eval") {
        const mean = stacked((view) => view.state("running_mean", [channels], { kind: "constant", value: 0 }));
        const variance = stacked((view) => view.state("running_var", [channels], { kind: "constant", value: 1 }));
        const flat = (v: Value) => reshape(v, [-1]);
        const wide = branchesAsChannels(x, views.length);
        return reshape(
          batchNormalization(wide, flat(scale), flat(bias), flat(mean), flat(variance), { epsilon }),
          x.shape,
        );
      }
      const [y, mean, variance] = batchNormTraining.outputs(x, scale, bias, {
        ...{ branches: views.length, epsilon },
        ...(ranks > 1 && { ranks }),
      }) as [Value, Value, Value];
      if (scope.statistics !== "keep") {
        const rows = (v: Value) => (views.length === 1 ? [v] : split(v, { axis: 0, sizes: views.map(() => 1) }));
        const means = rows(mean);
        const variances = rows(mul(variance, count / Math.max(count - 1, 1)));
        views.forEach((view, i) => {
          const statistics = {
            path: view.statePath,
            mean: reshape(means[i]!, [channels]),
            variance: reshape(variances[i]!, [channels]),
            momentum,
          };
          if (typeof scope.statistics === "function") scope.statistics(statistics);
          else moveStatistics(scope.store, statistics);
        });
      }
      return y;
    });

/** Adds a branch of the network to another, named after the scope. */
export const residual = (scope: Scope, x: Value, y: Value): Value => scope.run(() => add(x, y));
