/** What an export starts from: a run, the branch that is taken of it, and what a file tells of its origin. */
import type { DeployedOptions, NetworkPart } from "../../graphs/deploy/network.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { type LoadedRun, loadRun, type Network } from "../runs/network.ts";

export interface Source {
  readonly folder: string;
  readonly run: LoadedRun;
  readonly network: Network;
  readonly weights: ReadonlyMap<string, Tensor>;
  /** Name and place in bn_list of the branch; undefined where batch norms have only one. */
  readonly branch: { readonly name: string; readonly index: number } | undefined;
  /** Rows of `fc.weight`; undefined where the run has no classifier. */
  readonly classes: number | undefined;
}

/** Names of the classes, where the run keeps them. */
export const namesOfClasses = ({ run }: Pick<Source, "run">): readonly string[] | undefined => {
  const { classes } = run.checkpoint.state;
  return Array.isArray(classes) && classes.every((name) => typeof name === "string")
    ? (classes as string[])
    : undefined;
};

/** Opens a run for export. `branch` "auto" is the one that the run is evaluated by. */
export const openSource = async (folder: string, branch: string, warn: (message: string) => void): Promise<Source> => {
  const run = await loadRun(folder, warn);
  return { folder, ...sourceOf(run.network, run.tensors, branch, folder), run };
};

/** The part of a source that needs no run. */
export const sourceOf = (
  network: Network,
  weights: ReadonlyMap<string, Tensor>,
  branch: string,
  where: string,
): Pick<Source, "network" | "weights" | "branch" | "classes"> => {
  const classes = weights.get("fc.weight")?.shape[0];
  const { branches } = network;
  // A run that was finetuned holds only the branch that it was finetuned by.
  const held = (branches ?? []).filter((_, i) => weights.has(`bn1.bn_list.${i}.weight`));
  if (branches === undefined || held.length === 0) {
    if (branch !== "auto")
      throw new RequestError(`--branch is ${branch} but batch norms in ${where} have one branch; leave --branch out`);
    return { network: { ...network, branches: undefined }, weights, branch: undefined, classes };
  }
  const name = branch === "auto" ? network.evaluatedBranch : branch;
  const index = branches.indexOf(name);
  if (!held.includes(name))
    throw new RequestError(`--branch is ${name} but ${where} has the branches ${held.join(", ")}; choose one`);
  return { network, weights, branch: { name, index }, classes };
};

/** Options of the deployed network; throws a RequestError where the run lacks what is asked for. */
export const deployedOptions = (
  { network, weights, classes }: Pick<Source, "network" | "weights" | "classes">,
  what: NetworkPart,
  where: string,
): DeployedOptions => {
  if (what === "classifier" && classes === undefined)
    throw new RequestError(`${where} holds no classifier (no fc.weight); finetune it first, or export --what encoder`);
  if (what === "projector" && !weights.has("head_proj.0.weight"))
    throw new RequestError(`${where} holds no projector (no head_proj); export --what encoder`);
  const { arch, depth, width, stem, size, branches, normalisation } = network;
  return { arch, depth, width, stem, size, branches, normalisation, what, classes: classes ?? 0 };
};
