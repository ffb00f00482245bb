/** The networks that are deployed: encoder, classifier, projector; batch norms folded, the batch's size left open. */
import type { EncoderOptions } from "../nn/encoder.ts";
import { foldEncoder, foldedEncoder, foldedProjector, foldProjector, linearHead, type Weights } from "../nn/folded.ts";
import { Scope, Store } from "../nn/scope.ts";
import { input, namedConstant, type Value } from "../onnx/graph.ts";
import type { Tensor } from "../onnx/tensor.ts";
import { bind } from "./rewrite.ts";

/** What of a network can be exported. */
export const networkParts = ["encoder", "classifier", "projector"] as const;
export type NetworkPart = (typeof networkParts)[number];

export interface DeployedOptions extends Omit<EncoderOptions, "unit" | "norm"> {
  /** Side of the square images. */
  readonly size: number;
  readonly what: NetworkPart;
  /** Of a classifier. */
  readonly classes: number;
  /** Images of the batch that the graph is built for; nothing but the types of inputs and outputs depends on it. */
  readonly batch?: number;
}

/** A network whose parameters are inputs `param.…` of `store`. Its image is float32 [N,3,S,S] in [0,1], named `image`. */
export interface Deployed {
  readonly store: Store;
  readonly image: Value;
  /** `features`, with `logits` or `projection` where those are asked for. */
  readonly outputs: Readonly<Record<string, Value>>;
}

export const deployed = (options: DeployedOptions): Deployed => {
  const { size, what, classes, batch = 1 } = options;
  const store = new Store();
  const scope = new Scope(store, { mode: "eval" });
  const image = input("image", { dtype: "float32", shape: [batch, 3, size, size] });
  const features = foldedEncoder(options)(scope, image);
  if (what === "encoder") return { store, image, outputs: { features } };
  if (what === "projector")
    return { store, image, outputs: { features, projection: foldedProjector(scope.at("head_proj"), features) } };
  return { store, image, outputs: { features, logits: linearHead(classes)(scope.at("fc"), features) } };
};

/** The weights that `deployed` reads, from those of a network with batch norms. `branch` counts in bn_list. */
export const deployedWeights = (
  options: DeployedOptions,
  weights: Weights,
  branch: number | undefined,
): Map<string, Tensor> => {
  const folded = foldEncoder(options, weights, branch);
  if (options.what === "projector") for (const [name, value] of foldProjector(weights)) folded.set(name, value);
  if (options.what === "classifier")
    for (const name of ["fc.weight", "fc.bias"]) folded.set(name, weights.get(name) as Tensor);
  return folded;
};

/** The network with its weights as constants, which files hold under their PyTorch names. */
export const withWeights = (
  { store, outputs }: Pick<Deployed, "store" | "outputs">,
  weights: Weights,
): Record<string, Value> =>
  bind(
    outputs,
    new Map(
      Array.from(store.parameters.values(), ({ path, value }) => [
        value,
        namedConstant(path, weights.get(path) as Tensor),
      ]),
    ),
  );

/** Name of the output that an export of `what` is about. */
export const outputName = (what: NetworkPart): string =>
  ({ encoder: "features", classifier: "logits", projector: "projection" })[what];
