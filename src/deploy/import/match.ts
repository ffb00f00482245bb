/** Weights from elsewhere as a network: every tensor is used, kept, or left out by a rule that is told. */
import { advclBranches } from "../../../graphs/methods/advcl.ts";
import { encoderName, featureSize } from "../../../graphs/nn/encoder.ts";
import { headName } from "../../../graphs/nn/head.ts";
import type { Normalisation } from "../../../graphs/nn/normalisation.ts";
import { fromFloat16 } from "../../../graphs/onnx/float16.ts";
import { float32, type Tensor, typeName } from "../../../graphs/onnx/tensor.ts";
import { listed, RequestError } from "../../errors.ts";
import type { Network } from "../../runs/network.ts";
import { architectureOf, expectedTensors, type ProjectorKind } from "./architecture.ts";
import { type Found, findNetwork, nameAt } from "./find.ts";
import { isOfEncoder, isUnusedHead } from "./names.ts";
import { findNormalisation } from "./normalisation.ts";
import { type LeftOut, leaveOut } from "./rules.ts";

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
  /** Before each of its names in the file. */
  readonly prefix: string;
  /** What is no part of the network, by the file's names. */
  readonly leftOut: readonly LeftOut[];
  /** What was decided, as sentences for people. */
  readonly notes: readonly string[];
}

export interface MatchOptions {
  /** Side of the images; default 32 with the CIFAR stem, 224 with ImageNet's. */
  readonly size?: number | undefined;
  /** Names of the branches in the order of bn_list. */
  readonly branches?: readonly string[] | undefined;
  /** The branch that the network is evaluated by. */
  readonly branch?: string | undefined;
  /** Before each name of the network in the file; left out, it is found. */
  readonly prefix?: string | undefined;
  /** Names, or beginnings of names, of tensors to leave out. */
  readonly leaveOut?: readonly string[] | undefined;
  /** What the network wants of its pixels, where the file doesn't hold it. */
  readonly normalisation?: Normalisation | undefined;
  /** What the weights are called in messages. */
  readonly source: string;
}

const toFloat32 = (value: Tensor): Tensor => {
  if (value.dtype === "float32") return value;
  if (value.dtype === "float16") return float32(value.shape, fromFloat16(value.data as Uint16Array));
  return value.dtype === "float64" ? float32(value.shape, value.data as Float64Array) : value;
};

/** A file's tensors by our names and by its own. */
interface Named {
  readonly found: Found;
  /** By our names; those of the file that are not under the network's prefix are left out. */
  readonly ours: Map<string, Tensor>;
  /** The file's name by ours. */
  readonly theirs: Map<string, string>;
  readonly notes: string[];
}

/** The branch that is there alone, of several that were: what finetuning leaves. */
const onlyBranch = (tensors: ReadonlyMap<string, Tensor>, { place }: Found): number | undefined => {
  const held = [...tensors.keys()].flatMap((name) => {
    const match = /^bn1\.bn_list\.(\d+)\.weight$/.exec(nameAt(place, name) ?? "");
    return match === null ? [] : [Number(match[1])];
  });
  return held.length === 1 && held[0] !== 0 ? held[0] : undefined;
};

const nameAll = (tensors: ReadonlyMap<string, Tensor>, found: Found, wrong: string[]): Named => {
  const only = onlyBranch(tensors, found);
  const notes = [...found.notes];
  if (only !== undefined) notes.push(`batch norms hold one branch alone, bn_list.${only}: it is taken as the only one`);
  const ours = new Map<string, Tensor>();
  const theirs = new Map<string, string>();
  for (const [name, value] of tensors) {
    const here = nameAt(found.place, name)?.replace(`.bn_list.${only}.`, ".");
    if (here === undefined) continue;
    if (ours.has(here)) wrong.push(`${name} is there twice`);
    ours.set(here, toFloat32(value));
    theirs.set(here, name);
  }
  return { found, ours, theirs, notes };
};

/** What linear classifiers are called that stand beside an encoder. */
const headNames = ["fc", "linear", "classifier", "head", "classification_head", "online_classifier"];

/** The prefix and what it begins with, longest first: `a.b.`, `a.`, "". */
const ancestors = (prefix: string): string[] => {
  const parts = prefix.split(".").slice(0, -1);
  return Array.from({ length: parts.length + 1 }, (_, i) =>
    parts
      .slice(0, parts.length - i)
      .map((part) => `${part}.`)
      .join(""),
  );
};

/** Takes a linear classifier on the features for `fc`, where one stands beside the encoder under another name. */
const findHead = (
  tensors: ReadonlyMap<string, Tensor>,
  { found, ours, theirs, notes }: Named,
  features: number,
): void => {
  if ([...ours.keys()].some((name) => name.startsWith("fc."))) return;
  for (const start of ancestors(found.place.prefix))
    for (const head of headNames) {
      const [weight, bias] = [`${start}${head}.weight`, `${start}${head}.bias`];
      const { shape } = tensors.get(weight) ?? { shape: [] };
      if (shape.length !== 2 || shape[1] !== features || tensors.get(bias)?.shape.join() !== String(shape[0])) continue;
      for (const [name, theirName] of [
        ["fc.weight", weight],
        ["fc.bias", bias],
      ] as const) {
        ours.set(name, toFloat32(tensors.get(theirName) as Tensor));
        theirs.set(name, theirName);
      }
      notes.push(`${weight} is taken as the classifier, fc`);
      return;
    }
};

/** Of a network with a copy that follows it `fc` is the projection that the two are compared by. */
const isProjection = (tensors: ReadonlyMap<string, Tensor>, { copies }: Found): boolean =>
  copies.some(({ prefix }) => tensors.has(`${prefix}fc.weight`)) ||
  [...tensors.keys()].some((name) => /(^|\.)queue$/.test(name));

/** Brings ACL's projector from `fc` to where projectors are here, if it is one that is known. */
const projectorOf = ({ ours, theirs }: Named, network: Network): ProjectorKind | undefined => {
  const isProjector = (name: string): boolean => name.startsWith("head_proj.") && !name.endsWith("num_batches_tracked");
  if (ours.has("fc.fc1.weight"))
    for (const name of [...ours.keys()].filter((key) => /^fc\.(fc|bn)\d\./.test(key))) {
      const here = name.replace(/^fc\./, "head_proj.");
      ours.set(here, ours.get(name) as Tensor);
      theirs.set(here, theirs.get(name) as string);
      ours.delete(name);
      theirs.delete(name);
    }
  const given = [...ours.keys()].filter(isProjector);
  if (given.length === 0) return undefined;
  return (["two-layer", "three-layer"] as const).find((projector) => {
    const { parameters, statistics } = expectedTensors(network, { projector, clusters: [], classes: undefined });
    const expected = new Map([...parameters, ...statistics].filter(([name]) => isProjector(name)));
    return (
      expected.size === given.length &&
      given.every((name) => expected.get(name)?.join() === ours.get(name)?.shape.join())
    );
  });
};

const branchNames = (count: number): readonly string[] =>
  count === advclBranches.length
    ? advclBranches
    : count === 2
      ? ["normal", "pgd"]
      : Array.from({ length: count }, (_, i) => (i === 0 ? "normal" : `branch${i}`));

/** The network and its branches. */
const networkOf = ({ ours, notes }: Named, options: MatchOptions): Network => {
  const { source } = options;
  const architecture = architectureOf(ours, source);
  let count = 0;
  while (ours.has(`bn1.bn_list.${count}.weight`)) count++;
  const branches = count === 0 ? undefined : (options.branches ?? branchNames(count));
  if (branches !== undefined && branches.length !== count)
    throw new RequestError(`--branches names ${branches.length} branches but ${source} has ${count}; name each`);
  const evaluatedBranch = options.branch ?? (branches === undefined || branches.includes("pgd") ? "pgd" : branches[0]);
  if (evaluatedBranch === undefined || (branches !== undefined && !branches.includes(evaluatedBranch)))
    throw new RequestError(`--branch is ${evaluatedBranch} but ${source} has ${branches?.join(", ")}; choose one`);
  if (architecture.arch === undefined && architecture.stem === "cifar")
    notes.push("its first convolution is 3×3: taken as CIFAR's stem, without pooling");
  const size = options.size ?? (architecture.stem === "cifar" ? 32 : 224);
  return { ...architecture, size, branches, evaluatedBranch };
};

/** The file's own normalisation, or that of the request. */
const normalisationOf = (
  tensors: ReadonlyMap<string, Tensor>,
  { found, notes }: Named,
  { normalisation: asked, leaveOut: left = [], source }: MatchOptions,
) => {
  const outside = [...tensors].filter(([name]) => {
    const here = nameAt(found.place, name);
    return !(here !== undefined && isOfEncoder(here)) && !left.some((start) => name.startsWith(start));
  });
  const own = findNormalisation(new Map(outside.map(([name, value]) => [name, toFloat32(value)])), source);
  if (own !== undefined && asked !== undefined)
    throw new RequestError(
      `${source} holds its own normalisation (${[...own.names].join(", ")}); leave --mean and --std out, or its by --leave-out ${[...own.names].join(",")}`,
    );
  if (own !== undefined) notes.push(own.note);
  return { normalisation: own?.normalisation ?? asked, names: own?.names ?? new Set<string>() };
};

const clustersOf = (ours: ReadonlyMap<string, Tensor>): number[] =>
  [...ours.keys()]
    .flatMap((name) => /^fc_(\d{3,})\.weight$/.exec(name)?.[1] ?? [])
    .map(Number)
    .filter((k) => ours.has(`${headName(k)}.weight`))
    .sort((a, b) => a - b);

/** Tensors that the network reads, in their shapes; what is wrong with them is added to a list. */
const take = (
  { ours }: Named,
  expected: ReadonlyMap<string, readonly number[]>,
  wrong: string[],
): Map<string, Tensor> => {
  const weights = new Map<string, Tensor>();
  for (const [name, shape] of expected) {
    const value = ours.get(name);
    if (value === undefined) wrong.push(`${name} is missing`);
    else if (value.shape.join() !== shape.join() || value.dtype !== "float32")
      wrong.push(`${name} is ${typeName(value)} and should be ${typeName({ dtype: "float32", shape })}`);
    else if (!value.data.every(Number.isFinite)) wrong.push(`${name} holds numbers that are not finite`);
    else weights.set(name, value);
  }
  return weights;
};

/** How to leave out what no rule knows: where that is not of the encoder. */
const remedyFor = (unknown: readonly string[], ours: (name: string) => string | undefined): string => {
  const outside = unknown.filter((name) => !isOfEncoder(ours(name) ?? ""));
  if (outside.length === 0) return "";
  const starts = [...new Set(outside.map((name) => name.replace(/[^.]*$/, "") || name))].slice(0, 4);
  return `; what the encoder doesn't read can be left out: --leave-out ${starts.join(",")}`;
};

/**
 * Weights from elsewhere as a network. The one ResNet among the tensors is found, whatever prefix its names have; every tensor
 * must be one that it reads, in its shape, or be left out by a rule that is told, and none may lack.
 * @throws RequestError that lists what does not fit
 */
export const matchWeights = (tensors: ReadonlyMap<string, Tensor>, options: MatchOptions): MatchedWeights => {
  const { source, leaveOut: asked = [] } = options;
  const wrong: string[] = [];
  const found = findNetwork(tensors, source, options.prefix);
  const named = nameAll(tensors, found, wrong);
  const { ours, theirs, notes } = named;
  const plain = networkOf(named, options);
  const { normalisation, names: normalising } = normalisationOf(tensors, named, options);
  const network: Network = normalisation === undefined ? plain : { ...plain, normalisation };
  findHead(tensors, named, featureSize(network));
  const projector = projectorOf(named, network);
  const classes = isProjection(tensors, found) ? undefined : ours.get("fc.weight")?.shape[0];
  const clusters = clustersOf(ours);
  const { parameters, statistics } = expectedTensors(network, { projector, clusters, classes });
  const expected = new Map([...parameters, ...statistics]);
  const isExtra = (name: string): boolean =>
    isUnusedHead(name) || expected.has(name.replace(/num_batches_tracked$/, "running_mean"));
  const extras = new Map<string, Tensor>();
  for (const [name, their] of theirs)
    if (!expected.has(name) && isExtra(name)) extras.set(name, tensors.get(their) as Tensor);
  const used = new Set([...theirs].flatMap(([name, their]) => (expected.has(name) || extras.has(name) ? [their] : [])));
  const rest = [...tensors.keys()].filter((name) => !used.has(name) && !normalising.has(name));
  const ourName = (name: string) => nameAt(found.place, name);
  const { leftOut, unknown } = leaveOut(rest, { found, asked, ours: ourName });
  for (const name of unknown) wrong.push(`${name} is not of this network`);
  const weights = take(named, expected, wrong);
  if (wrong.length > 0)
    throw new RequestError(
      `${source} does not fit a ${encoderName(network)} of width ${network.width}: ${listed(wrong)}${remedyFor(unknown, ourName)}`,
    );
  const known = { prefix: found.place.prefix, leftOut, notes, extras, clusters, classes };
  return { network, weights, statistics: new Set(statistics.keys()), projector: projector !== undefined, ...known };
};
