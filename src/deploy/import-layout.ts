/**
 * Names of weights elsewhere and here. Here they are those of the authors' code (`bn1.bn_list.1.weight`,
 * `layer2.0.downsample.conv.weight`); torchvision's single-branch ResNets call the shortcut `downsample.0` and
 * `downsample.1`, and a widely copied CIFAR ResNet `shortcut.0`, `shortcut.1` and `linear`.
 */

import { advclBranches } from "../../graphs/methods/advcl.ts";
import { clusterHeads, headName, projector } from "../../graphs/nn/head.ts";
import { linear } from "../../graphs/nn/layer.ts";
import { type Depth, depths, resnet, type Stem } from "../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { fromFloat16 } from "../../graphs/onnx/float16.ts";
import { input } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor, typeName } from "../../graphs/onnx/tensor.ts";
import { listed, RequestError } from "../errors.ts";
import type { Network } from "../runs/network.ts";

/** Weights of a network, matched to the last tensor. */
export interface MatchedWeights {
  readonly network: Network;
  /** Parameters and running statistics by our names, float32. */
  readonly weights: Map<string, Tensor>;
  /** Names of those that are running statistics. */
  readonly statistics: ReadonlySet<string>;
  /** What the file holds besides and no network reads: counters and the authors' unused heads, kept for the way back. */
  readonly extras: Map<string, Tensor>;
  /** K of each clustering head. */
  readonly clusters: readonly number[];
  readonly classes: number | undefined;
  readonly projector: boolean;
}

export interface MatchOptions {
  /** Side of the images; default 32 with the CIFAR stem, 224 with ImageNet's. */
  readonly size?: number | undefined;
  /** Names of the branches in the order of bn_list. */
  readonly branches?: readonly string[] | undefined;
  /** The branch that the network is evaluated by. */
  readonly branch?: string | undefined;
  /** What the weights are called in messages. */
  readonly source: string;
}

const wrappers = /^(module\.|_orig_mod\.)+/;

/** A tensor's name here. */
export const ourName = (name: string): string =>
  name
    .replace(wrappers, "")
    .replace(/^(layer\d+\.\d+)\.(?:downsample|shortcut)\.0\./, "$1.downsample.conv.")
    .replace(/^(layer\d+\.\d+)\.(?:downsample|shortcut)\.1\./, "$1.downsample.bn.")
    .replace(/^linear\./, "fc.");

/** A tensor's name in torchvision's ResNets. */
export const torchvisionName = (name: string): string =>
  name.replace(".downsample.conv.", ".downsample.0.").replace(".downsample.bn.", ".downsample.1.");

const isExtra = (name: string): boolean => /(^|\.)num_batches_tracked$|^head_(ce|pred)\./.test(name);

const toFloat32 = (value: Tensor): Tensor => {
  if (value.dtype === "float32") return value;
  if (value.dtype === "float16") return float32(value.shape, fromFloat16(value.data as Uint16Array));
  return value.dtype === "float64" ? float32(value.shape, value.data as Float64Array) : value;
};

/** Depth, width and stem that weights tell of. */
const architectureOf = (
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

/** Shapes of all that a network reads, parameters and running statistics apart. */
export const expectedTensors = (
  network: Network,
  parts: { readonly projector: boolean; readonly clusters: readonly number[]; readonly classes: number | undefined },
): { readonly parameters: Map<string, readonly number[]>; readonly statistics: Map<string, readonly number[]> } => {
  const store = new Store();
  const { size, branches, width } = network;
  const image = input("image", { dtype: "float32", shape: [1, 3, size, size] });
  for (const branch of branches ?? ["normal"]) {
    const scope = new Scope(store, { mode: "eval", branches: [branch] });
    const features = resnet({ ...network, width })(scope, image);
    if (parts.projector) projector(scope.at("head_proj"), features);
    clusterHeads(scope, parts.clusters, features);
    if (parts.classes !== undefined) linear({ features: parts.classes })(scope.at("fc"), features);
  }
  const shapes = (slots: Store["parameters"]) =>
    new Map(Array.from(slots.values(), ({ path, type }) => [path, type.shape] as const));
  return { parameters: shapes(store.parameters), statistics: shapes(store.states) };
};

const branchNames = (count: number): readonly string[] =>
  count === advclBranches.length
    ? advclBranches
    : count === 2
      ? ["normal", "pgd"]
      : Array.from({ length: count }, (_, i) => (i === 0 ? "normal" : `branch${i}`));

/**
 * Weights from elsewhere as a network. Every tensor must be one that the network reads, in its shape, and none may lack.
 * @throws RequestError that lists what does not fit
 */
export const matchWeights = (tensors: ReadonlyMap<string, Tensor>, options: MatchOptions): MatchedWeights => {
  const { source } = options;
  const all = new Map<string, Tensor>();
  const wrong: string[] = [];
  for (const [name, value] of tensors) {
    const ours = ourName(name);
    if (all.has(ours)) wrong.push(`${name} is there twice`);
    all.set(ours, value);
  }
  const extras = new Map([...all].filter(([name]) => isExtra(name)));
  const given = new Map([...all].filter(([name]) => !isExtra(name)).map(([name, value]) => [name, toFloat32(value)]));
  const architecture = architectureOf(given, source);
  let count = 0;
  while (given.has(`bn1.bn_list.${count}.weight`)) count++;
  const branches = count === 0 ? undefined : (options.branches ?? branchNames(count));
  if (branches !== undefined && branches.length !== count)
    throw new RequestError(`--branches names ${branches.length} branches but ${source} has ${count}; name each`);
  const evaluatedBranch = options.branch ?? (branches === undefined || branches.includes("pgd") ? "pgd" : branches[0]);
  if (evaluatedBranch === undefined || (branches !== undefined && !branches.includes(evaluatedBranch)))
    throw new RequestError(`--branch is ${evaluatedBranch} but ${source} has ${branches?.join(", ")}; choose one`);
  const network: Network = {
    ...architecture,
    size: options.size ?? (architecture.stem === "cifar" ? 32 : 224),
    branches,
    evaluatedBranch,
  };
  const clusters = [...given.keys()]
    .flatMap((name) => /^fc_(\d{3,})\.weight$/.exec(name)?.[1] ?? [])
    .map(Number)
    .filter((k) => given.has(`${headName(k)}.weight`))
    .sort((a, b) => a - b);
  const classes = given.get("fc.weight")?.shape[0];
  const projects = [...given.keys()].some((name) => name.startsWith("head_proj."));
  const { parameters, statistics } = expectedTensors(network, { projector: projects, clusters, classes });
  const expected = new Map([...parameters, ...statistics]);
  const weights = new Map<string, Tensor>();
  for (const name of given.keys()) if (!expected.has(name)) wrong.push(`${name} is not of this network`);
  for (const [name, shape] of expected) {
    const value = given.get(name);
    if (value === undefined) wrong.push(`${name} is missing`);
    else if (value.shape.join() !== shape.join() || value.dtype !== "float32")
      wrong.push(`${name} is ${typeName(value)} and should be ${typeName({ dtype: "float32", shape })}`);
    else if (!value.data.every(Number.isFinite)) wrong.push(`${name} holds numbers that are not finite`);
    else weights.set(name, value);
  }
  if (wrong.length > 0)
    throw new RequestError(
      `${source} does not fit a ResNet-${network.depth} of width ${network.width}: ${listed(wrong)}`,
    );
  return {
    network,
    weights,
    statistics: new Set(statistics.keys()),
    extras,
    clusters,
    classes,
    projector: projects,
  };
};
