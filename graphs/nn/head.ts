/** What stands on the encoder's features: the projector of contrastive learning and linear heads. */
import type { Value } from "../onnx/graph.ts";
import { normalizeL2, relu } from "../ops/index.ts";
import { batchNorm, type Layer, linear } from "./layer.ts";
import type { Scope } from "./scope.ts";

export const PROJECTION = 128;

/**
 * The first half of AdvCL's projector: Linear, batch norm (one, shared by all views), ReLU. [N,D] to [N,D]. It stands
 * alone because views that are not projected further still move its statistics.
 */
export const projectorHidden: Layer = (scope, h) => {
  const hidden = batchNorm()(scope.at(1), linear({ features: h.dim(1) })(scope.at(0), h));
  return scope.at(2).run(() => relu(hidden));
};

/** The second half: Linear to 128, then unit length. [N,D] to [N,128]. */
export const projectorOutput: Layer = (scope, hidden) => {
  const z = linear({ features: PROJECTION })(scope.at(3), hidden);
  return scope.run(() => normalizeL2(z));
};

export const projector: Layer = (scope, h) => projectorOutput(scope, projectorHidden(scope, h));

/** `fc_010` for K = 10: the authors' names. */
export const headName = (k: number): string => `fc_${String(k).padStart(3, "0")}`;

/** Logits of each clustering head, in the order of `clusters`. h [N,D]. */
export const clusterHeads = (scope: Scope, clusters: readonly number[], h: Value): readonly Value[] =>
  clusters.map((k) => linear({ features: k })(scope.at(headName(k)), h));

/**
 * SimCLR's and ACL's projector: three linear layers as wide as the features, batch norm after each (per branch), ReLU
 * between; the first has a bias. [N,D] to [N,D].
 */
export const threeLayerProjector =
  (branches?: readonly string[]): Layer =>
  (scope, h) => {
    const norm = batchNorm({ branches });
    const features = h.dim(1);
    const layer = (n: number, x: Value) =>
      norm(scope.at(`bn${n}`), linear({ features, bias: n === 1 })(scope.at(`fc${n}`), x));
    const activated = (n: number, x: Value) => {
      const y = layer(n, x);
      return scope.run(() => relu(y));
    };
    return layer(3, activated(2, activated(1, h)));
  };

/** Linear to `hidden`, batch norm where asked, ReLU, Linear to `output`: RoCL's projector, BYOL's projector and predictor. */
export const twoLayerProjector =
  ({ hidden, output, norm }: { hidden: number; output: number; norm: boolean }): Layer =>
  (scope, h) => {
    let x = linear({ features: hidden })(scope.at(0), h);
    if (norm) x = batchNorm()(scope.at(1), x);
    const y = scope.at(2).run(() => relu(x));
    return linear({ features: output })(scope.at(3), y);
  };
