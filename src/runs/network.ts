/** Which network a run trains, and its weights as PyTorch names them. */

import { stat } from "node:fs/promises";
import { z } from "zod";
import {
  type Architecture,
  architectureNames,
  architectures,
  type Depth,
  encoder,
  featureSize,
  hasDepth,
} from "../../graphs/nn/encoder.ts";
import type { Normalisation } from "../../graphs/nn/normalisation.ts";
import type { Stem } from "../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { AVERAGE } from "../../graphs/optim/ema.ts";
import { kindOf, pathOf, stateName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { RequestError } from "../errors.ts";
import { type FileKind, misfit, sniffFile } from "../files/sniff.ts";
import { checkFinite } from "../models/finite.ts";
import type { Checkpoint, Json } from "./checkpoint.ts";
import { readRunFile } from "./run-file.ts";
import { type RunConfig, readRun } from "./run-folder.ts";

export interface Network {
  /** Left out: a ResNet. */
  readonly arch?: Architecture | undefined;
  readonly depth: Depth;
  readonly width: number;
  readonly stem: Stem;
  /** Side of its square images, pixels. */
  readonly size: number;
  /** Batch-norm branches in the order of bn_list; undefined: one ordinary batch norm. */
  readonly branches: readonly string[] | undefined;
  /** The branch that finetuning and evaluation take. */
  readonly evaluatedBranch: string;
  /** What it wants of its pixels, which come in [0, 1]; of imported networks. */
  readonly normalisation?: Normalisation | undefined;
}

const allDepths = [...new Set(Object.values(architectures).flatMap(({ depths }): readonly Depth[] => depths))].sort(
  (a, b) => a - b,
);

/** Depths of all architectures. */
export const depthNames = allDepths.map(String) as [string, ...string[]];
export const stemNames = ["auto", "cifar", "imagenet"] as const;

/** The stem for images of `size` pixels: CIFAR's up to 64, ImageNet's beyond. */
export const stemOf = (stem: (typeof stemNames)[number], size: number): Stem =>
  stem === "auto" ? (size > 64 ? "imagenet" : "cifar") : stem;

/** What settings say of a network. */
export interface NetworkSettings {
  readonly arch?: Architecture | undefined;
  readonly depth: string;
  readonly width: number;
  readonly stem: (typeof stemNames)[number];
}

/** Defaults of depth and width that an architecture other than ResNet brings. */
export const networkDefaultsOf = (arch: Architecture | undefined): { depth?: string; width?: number } => {
  if (arch === undefined || arch === "resnet") return {};
  const { depth, width } = architectures[arch];
  return { depth: String(depth), width };
};

/**
 * The network that settings ask for, for images of `size` pixels. Throws a RequestError where there is none such.
 */
export const shapeOf = (
  { arch = "resnet", depth: depthName, width, stem }: NetworkSettings,
  size: number,
): Pick<Network, "arch" | "depth" | "width" | "stem"> => {
  const depth = Number(depthName) as Depth;
  if (!hasDepth(arch, depth))
    throw new RequestError(`--depth is ${depth} but ${arch} has ${architectures[arch].depths.join(", ")}; choose one`);
  if (arch === "resnet") return { depth, width, stem: stemOf(stem, size) };
  if (stem === "imagenet") throw new RequestError(`--stem imagenet is of resnet; leave it out with --arch ${arch}`);
  return { arch, depth, width, stem: "cifar" };
};

/** A run: its network, its parameters and running statistics by PyTorch name, and where they come from. */
export interface LoadedRun {
  readonly network: Network;
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Names of the classes that the rows of `fc.weight` stand for; none where there is no classifier. */
  readonly classes: readonly string[];
  readonly config: RunConfig;
  readonly checkpoint: Checkpoint;
}

/** Whether a state belongs to a copy of the network, such as `state.teacher.bn1.running_mean` beside `state.bn1.…`. */
const isOfCopy = (tensors: ReadonlyMap<string, Tensor>, name: string): boolean =>
  tensors.has(stateName(name.replace(/^state\.[^.]*\./, "")));

/**
 * Parameters and running statistics of a checkpoint by PyTorch name (`conv1.weight`, `bn1.bn_list.0.running_mean`); what
 * only an optimizer needs is left out. Where the run keeps a moving average of them, the average.
 */
export const weightsOf = (tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> => {
  const weights = new Map<string, Tensor>();
  const averages = stateName(`${AVERAGE}.`);
  for (const [name, value] of tensors)
    if (kindOf(name) === "param") weights.set(pathOf(name), value);
    else if (/^state\..*running_(mean|var)$/.test(name) && !isOfCopy(tensors, name)) weights.set(pathOf(name), value);
  for (const [name, value] of tensors) if (name.startsWith(averages)) weights.set(name.slice(averages.length), value);
  return weights;
};

const chosen = "best.";

/** Under which name a checkpoint keeps a tensor of the epoch that was chosen. */
export const chosenName = (name: string): string => `${chosen}${name}`;

/** Weights that a run stands for: those of the epoch that it chose, where it chose one, else the last. */
export const chosenWeightsOf = (tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> => {
  const best = [...tensors].flatMap(([name, value]) =>
    name.startsWith(chosen) ? [[name.slice(chosen.length), value] as const] : [],
  );
  return weightsOf(new Map([...tensors, ...best]));
};

const channels = z.array(z.number()).length(3);

const networkSchema = z
  .object({
    arch: z.enum(architectureNames).optional(),
    depth: z.literal(allDepths),
    width: z.int().positive(),
    stem: z.enum(["cifar", "imagenet"]),
    size: z.int().positive(),
    branches: z.array(z.string()).nullable(),
    evaluatedBranch: z.string(),
    normalisation: z.object({ mean: channels, std: channels }).optional(),
  })
  .refine(({ arch = "resnet", depth }) => hasDepth(arch, depth));

/** A network as a checkpoint's state keeps it. */
export const networkRecord = ({ arch, branches, normalisation, ...network }: Network): Json => ({
  ...(arch !== undefined && arch !== "resnet" && { arch }),
  ...network,
  branches: branches ?? null,
  ...(normalisation && { normalisation: { mean: [...normalisation.mean], std: [...normalisation.std] } }),
});

/** What makes a run folder of a file of such a kind. */
const runsFrom: Partial<Record<FileKind, string>> = {
  onnx: "give the folder that it was exported from; evaluate, harden, cluster and serve take the file",
  safetensors: "make a run of it with advcl import",
  torch: "make a run of it with advcl import",
  "legacy-torch": "make a run of it with advcl import",
};

/** Says what a file is where a run folder is asked for. */
const refuseFile = async (path: string): Promise<void> => {
  const entry = await stat(path).catch(() => undefined);
  if (!entry?.isFile()) return;
  const { kind } = await sniffFile(path);
  const remedy = runsFrom[kind];
  if (remedy !== undefined) throw misfit(path, kind, "a run folder", remedy);
  throw new RequestError(`${path} is a file, not a run folder; give the --out folder of pretrain, finetune or import`);
};

/**
 * Reads a run for commands that start from it: its folder, the file that advcl export --format safetensors made of it, or the
 * name of one that ships. Throws a RequestError where it holds no encoder, or weights that are not finite.
 */
export const loadRun = async (folder: string, warn: (message: string) => void): Promise<LoadedRun> => {
  const inFile = await readRunFile(folder);
  if (inFile === undefined) await refuseFile(folder);
  const { config, checkpoint } = inFile ?? (await readRun(folder, warn));
  const { success, data } = networkSchema.safeParse(checkpoint.state.network);
  if (!success)
    throw new RequestError(
      `the run in ${folder} (advcl ${config.command}) holds no encoder; give a run of pretrain or import`,
    );
  const network: Network = { ...data, branches: data.branches ?? undefined };
  const classes = z.array(z.string()).catch([]).parse(checkpoint.state.classes);
  const tensors = chosenWeightsOf(checkpoint.tensors);
  checkFinite(folder, tensors);
  return { network, tensors, classes, config, checkpoint };
};

/** A program that gives evaluation-mode features [batch, D] of `input.image` through one branch, as `features`. */
export const featureStep = (network: Network, branch: string, batch: number): Step => {
  const store = new Store();
  const { size } = network;
  const images = store.input("image", { dtype: "float32", shape: [batch, 3, size, size] });
  const scope = new Scope(store, { mode: "eval", branches: [branch] });
  return { store, outputs: { features: encoder(network)(scope, images) } };
};

export const featuresOf = (network: Network): number => featureSize(network);

/** What a step of evaluation reads, from weights by PyTorch name. Throws a RequestError that lists all that is missing. */
export const weightFeeds = (
  store: Store,
  weights: ReadonlyMap<string, Tensor>,
  source: string,
): Record<string, Tensor> => {
  const feeds: Record<string, Tensor> = {};
  const wrong: string[] = [];
  for (const [kind, slots] of [
    ["param", store.parameters],
    ["state", store.states],
  ] as const)
    for (const { path, type } of slots.values()) {
      const value = weights.get(path);
      if (value === undefined) wrong.push(`${path} is missing`);
      else if (value.shape.join() !== type.shape.join())
        wrong.push(`${path} is [${value.shape.join(",")}] and should be [${type.shape.join(",")}]`);
      else feeds[`${kind}.${path}`] = value;
    }
  if (wrong.length > 0)
    throw new RequestError(`${source} does not fit the network: ${wrong.join("; ")}; give the weights of this network`);
  return feeds;
};
