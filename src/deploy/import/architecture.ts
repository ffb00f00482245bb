/** What network weights are of, told by their names and shapes. */
import { clusterHeads, projector, threeLayerProjector } from "../../../graphs/nn/head.ts";
import { linear } from "../../../graphs/nn/layer.ts";
import { type Depth, depths, resnet, type Stem } from "../../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input } from "../../../graphs/onnx/graph.ts";
import { type Tensor, typeName } from "../../../graphs/onnx/tensor.ts";
import { RequestError } from "../../errors.ts";
import type { Network } from "../../runs/network.ts";

/** Depth, width and stem that weights tell of. */
export const architectureOf = (
  weights: ReadonlyMap<string, Tensor>,
  source: string,
): Pick<Network, "depth" | "width" | "stem"> => {
  const first = weights.get("conv1.weight");
  const refuse = (what: string): never => {
    throw new RequestError(
      `${source} holds no ResNet that is known here: ${what}; give weights of a ResNet-18, -34 or -50`,
    );
  };
  if (first === undefined) return refuse("it has no conv1.weight");
  const [width = 0, channels, kernel] = first.shape;
  if (channels !== 3) return refuse(`conv1.weight is ${typeName(first)}, not for images of three channels`);
  const stem: Stem | undefined = kernel === 3 ? "cifar" : kernel === 7 ? "imagenet" : undefined;
  if (stem === undefined) return refuse(`conv1.weight is ${typeName(first)}, neither a 3×3 nor a 7×7 convolution`);
  const counts = [1, 2, 3, 4].map((stage) => {
    let count = 0;
    while (weights.has(`layer${stage}.${count}.conv1.weight`)) count++;
    return count;
  });
  const block = weights.has("layer1.0.conv3.weight") ? "bottleneck" : "basic";
  const found = Object.entries(depths).find(([, d]) => d.block === block && d.counts.join() === counts.join());
  if (found === undefined) return refuse(`its stages have ${counts.join(", ")} ${block} blocks`);
  return { depth: Number(found[0]) as Depth, width, stem };
};

/** AdvCL's projector (two layers, to 128), or that of SimCLR, ACL and DynACL (three, as wide as the features). */
export type ProjectorKind = "two-layer" | "three-layer";

/** What of a network is there besides its encoder. */
export interface Parts {
  readonly projector: ProjectorKind | undefined;
  /** K of each clustering head. */
  readonly clusters: readonly number[];
  readonly classes: number | undefined;
}

/** Shapes of all that a network reads, parameters and running statistics apart. */
export const expectedTensors = (
  network: Network,
  parts: Parts,
): { readonly parameters: Map<string, readonly number[]>; readonly statistics: Map<string, readonly number[]> } => {
  const store = new Store();
  const { size, branches } = network;
  const image = input("image", { dtype: "float32", shape: [1, 3, size, size] });
  for (const branch of branches ?? ["normal"]) {
    const scope = new Scope(store, { mode: "eval", branches: [branch] });
    const features = resnet(network)(scope, image);
    if (parts.projector === "two-layer") projector(scope.at("head_proj"), features);
    if (parts.projector === "three-layer") threeLayerProjector(branches)(scope.at("head_proj"), features);
    clusterHeads(scope, parts.clusters, features);
    if (parts.classes !== undefined) linear({ features: parts.classes })(scope.at("fc"), features);
  }
  const shapes = (slots: Store["parameters"]) =>
    new Map(Array.from(slots.values(), ({ path, type }) => [path, type.shape] as const));
  return { parameters: shapes(store.parameters), statistics: shapes(store.states) };
};
