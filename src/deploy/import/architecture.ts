/** What network weights are of, told by their names and shapes. */
import { type Depth, encoder, encoderName, hasDepth } from "../../../graphs/nn/encoder.ts";
import { clusterHeads, projector, threeLayerProjector } from "../../../graphs/nn/head.ts";
import { linear } from "../../../graphs/nn/layer.ts";
import { depths, type Stem } from "../../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input } from "../../../graphs/onnx/graph.ts";
import { type Tensor, typeName } from "../../../graphs/onnx/tensor.ts";
import { RequestError } from "../../errors.ts";
import type { Network } from "../../runs/network.ts";

/** What can be imported, for messages. */
export const knownNetworks = "a ResNet-18, -34 or -50, a PreAct-ResNet-18 or -34 or a WideResNet";

type Weights = ReadonlyMap<string, Tensor>;

/** Blocks that lie under a name, one after another. */
const blocksAt = (weights: Weights, stage: string): number => {
  let count = 0;
  while (weights.has(`${stage}.${count}.conv1.weight`)) count++;
  return count;
};

/** Channels of a batch norm, of whichever branch. */
const channelsOf = (weights: Weights, norm: string): number | undefined =>
  [...weights].find(([name]) => name.startsWith(`${norm}.`) && name.endsWith("weight"))?.[1].shape[0];

/** Whether batch norms stand before their convolutions: the one of a block whose shape changes then has its input's channels. */
const isPreActivation = (weights: Weights): boolean =>
  channelsOf(weights, "layer2.0.bn1") !== undefined &&
  channelsOf(weights, "layer2.0.bn1") !== weights.get("layer2.0.conv1.weight")?.shape[0];

type Shape = Pick<Network, "arch" | "depth" | "width">;

/** Architecture, depth and width by the blocks; what is wrong where there is none such. */
const blocksOf = (weights: Weights): Shape | string => {
  const wide = [1, 2, 3].map((stage) => blocksAt(weights, `block${stage}.layer`));
  if (wide[0]! > 0) {
    const depth = 6 * wide[0]! + 4;
    const width = weights.get("block1.layer.0.conv1.weight")?.shape[0] ?? 0;
    if (new Set(wide).size > 1 || !hasDepth("wide-resnet", depth)) return `its stages have ${wide.join(", ")} blocks`;
    return { arch: "wide-resnet", depth: depth as Depth, width };
  }
  const counts = [1, 2, 3, 4].map((stage) => blocksAt(weights, `layer${stage}`));
  const block = weights.has("layer1.0.conv3.weight") ? "bottleneck" : "basic";
  const found = Object.entries(depths).find(([, d]) => d.block === block && d.counts.join() === counts.join());
  const width = weights.get("conv1.weight")?.shape[0] ?? 0;
  const preact = block === "basic" && isPreActivation(weights);
  if (found === undefined) return `its stages have ${counts.join(", ")} ${block} blocks`;
  if (preact && channelsOf(weights, "bn1") === undefined)
    return "it is a PreAct-ResNet without a batch norm after its blocks";
  return { ...(preact && { arch: "preact-resnet" }), depth: Number(found[0]) as Depth, width };
};

/** Architecture, depth, width and stem that weights tell of. */
export const architectureOf = (
  weights: Weights,
  source: string,
): Pick<Network, "arch" | "depth" | "width" | "stem"> => {
  const first = weights.get("conv1.weight");
  const refuse = (what: string): never => {
    throw new RequestError(`${source} holds no ResNet that is known here: ${what}; give weights of ${knownNetworks}`);
  };
  if (first === undefined) return refuse("it has no conv1.weight");
  const [, channels, kernel] = first.shape;
  if (channels !== 3) return refuse(`conv1.weight is ${typeName(first)}, not for images of three channels`);
  const stem: Stem | undefined = kernel === 3 ? "cifar" : kernel === 7 ? "imagenet" : undefined;
  if (stem === undefined) return refuse(`conv1.weight is ${typeName(first)}, neither a 3×3 nor a 7×7 convolution`);
  const shape = blocksOf(weights);
  if (typeof shape === "string") return refuse(shape);
  if (shape.arch !== undefined && stem !== "cifar")
    return refuse(`conv1.weight is ${typeName(first)} and ${encoderName(shape)} begins with a 3×3 convolution`);
  return { ...shape, stem };
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
    const features = encoder(network)(scope, image);
    if (parts.projector === "two-layer") projector(scope.at("head_proj"), features);
    if (parts.projector === "three-layer") threeLayerProjector(branches)(scope.at("head_proj"), features);
    clusterHeads(scope, parts.clusters, features);
    if (parts.classes !== undefined) linear({ features: parts.classes })(scope.at("fc"), features);
  }
  const shapes = (slots: Store["parameters"]) =>
    new Map(Array.from(slots.values(), ({ path, type }) => [path, type.shape] as const));
  return { parameters: shapes(store.parameters), statistics: shapes(store.states) };
};
