/** Settings that several verbs have: fragments that they spread into their own. */
import { z } from "zod";
import { architectureNames } from "../../graphs/nn/encoder.ts";
import { datasetNames } from "../data/dataset.ts";
import { availableCores } from "../engine/cores.ts";
import { engineNames, precisionNames } from "../engine/engine.ts";
import { isTargetName, targetNames, targetPattern } from "../engine/targets.ts";
import { matchings } from "../models/fit.ts";
import { layouts } from "../models/input.ts";
import { depthNames, stemNames } from "../runs/network.ts";
import { autoOr, path, setting } from "./schema.ts";

const common = { group: "Common settings" };

/** Settings of every verb. */
export const commonSettings = {
  seed: setting(z.int().min(0).default(0), "seed of all random numbers", common),
  threads: setting(z.int().min(1).max(1024).default(availableCores), "threads to compute with", {
    ...common,
    changeable: true,
  }),
  provider: setting(z.enum(["auto", "cpu", "cuda", "webgpu"]).default("auto"), "what computes", {
    ...common,
    changeable: true,
  }),
  engine: setting(
    z.enum(engineNames).default("auto"),
    "how onnxruntime is reached: by onnxruntime-node's binding or by its C API; auto: native on CUDA, else the binding",
    { ...common, changeable: true },
  ),
  precision: setting(
    z.enum(precisionNames).default("auto"),
    "what products compute in; auto: float32, on CUDA tf32; bfloat16 is for CPUs that have it",
    common,
  ),
};

/** Of verbs that write a folder. */
export const outSetting = { out: setting(path().optional(), "folder to write to", { ...common, path: true }) };

/** Which images. */
export const datasetSettings = {
  dataset: setting(z.enum(datasetNames).default("cifar10"), "images", { group: "Data" }),
  data: setting(path().optional(), "folder or archive of the dataset, as downloaded", {
    group: "Data",
    path: true,
    changeable: true,
  }),
  testShare: setting(
    z.number().min(0).max(0.9).default(0.2),
    "of a folder without a test split: share of each class that is held out to test on",
    { group: "Data" },
  ),
  skipBroken: setting(
    z.boolean().default(false),
    "leave out images of a folder that cannot be decoded, and say how many, instead of stopping",
    { group: "Data" },
  ),
};

/** Of verbs that take methods, attacks or losses of one's own (src/plugins). */
export const pluginSetting = {
  plugin: setting(
    z.array(path()).default([]),
    "files of JavaScript with methods, attacks or losses of your own (docs/plugins.md); may be given several times",
    { group: "Plugins", changeable: true, repeatable: true },
  ),
};

/** The part of a dataset that is trained on. */
export const trainingSplit = {
  split: setting(z.enum(["train", "unlabeled"]).default("train"), "part to train on", { group: "Data" }),
};

/** How many of the labelled images are trained on. */
export const trainingLimit = {
  limit: setting(z.int().min(0).default(0), "use N training images, a sample of every class by --seed; 0 for all", {
    group: "Data",
  }),
};

export const workersSetting = {
  workers: setting(
    z
      .int()
      .min(0)
      .max(256)
      .default(() => Math.max(1, Math.floor(availableCores() / 4))),
    "threads that augment; 0: none of their own",
    { group: "Data", changeable: true },
  ),
};

/** Help of the network's settings, where their groups differ. */
export const networkHelp = {
  arch: "kind of encoder (default resnet); preact-resnet and wide-resnet have batch norm before each convolution, and the CIFAR stem alone",
  depth: "layers: 18, 34 or 50; of preact-resnet 18 or 34; of wide-resnet 10, 16, 22, 28 (its default), 34, 40 or 70",
  width: "channels of the first stage; of wide-resnet 160 (its default), which is its factor 10 times 16",
  stem: "auto: ImageNet's for images over 64, of a resnet",
};

const network = { group: "Network" };

/** The encoder: a ResNet, or another architecture, which brings its own defaults of depth and width. */
export const networkSettings = {
  arch: setting(z.enum(architectureNames).optional(), networkHelp.arch, network),
  depth: setting(z.enum(depthNames).default("18"), networkHelp.depth, network),
  width: setting(z.int().min(1).max(1024).default(64), networkHelp.width, network),
  stem: setting(z.enum(stemNames).default("auto"), networkHelp.stem, network),
};

/** The ball that attacks of training stay in, and their steps' length. */
export const ballSettings = {
  eps: setting(
    z
      .number()
      .min(0)
      .max(1)
      .default(8 / 255),
    "radius of the L-inf ball",
    { group: "Attack", ofPixels: true },
  ),
  stepSize: setting(
    z
      .number()
      .min(0)
      .max(1)
      .default(2 / 255),
    "of a PGD step",
    { group: "Attack", ofPixels: true },
  ),
};

/** What a model from elsewhere takes and gives, where its file does not say. */
export const modelSettings = {
  layout: setting(z.enum(layouts).optional(), "of an ONNX file's images; left out, as its input says", {
    group: "Model",
  }),
  output: setting(z.string().optional(), "name of an ONNX file's logits: an output or any inner value", {
    group: "Model",
  }),
};

/** How classes of a dataset find a model's. */
export const matchSetting = {
  matchClasses: setting(z.enum(matchings).default("name"), "how the dataset's classes find the model's", {
    group: "Data",
  }),
};

/** What a model that leaves it open, or was trained on normalised pixels, expects of its images. */
export const normalisationSettings = {
  mean: setting(z.array(z.number()).optional(), "of each channel, which the model wants taken off pixels in [0, 1]", {
    group: "Data",
  }),
  std: setting(z.array(z.number()).optional(), "of each channel, which it wants them divided by then", {
    group: "Data",
  }),
};

export const targetSetting = {
  target: setting(z.string().refine(isTargetName).optional(), "lowering of the graph; left out, that of the provider", {
    names: targetNames,
    group: "Run",
    changeable: true,
    pattern: targetPattern,
  }),
};

export const momentumSetting = {
  momentum: setting(z.number().min(0).max(1).default(0.9), "of SGD", { group: "Optimisation" }),
};

export const accumulateSetting = {
  accumulate: setting(
    z.int().min(1).optional(),
    "take the batch in N parts, one after another, and average their gradients before one update: less memory; batch norm and contrastive negatives are then of each part by itself, as over ranks",
    { group: "Optimisation" },
  ),
};

const ranks = { group: "Several processes (MPI)" };

/** Of verbs whose batches threads of one process can share. */
export const replicasSetting = {
  replicas: setting(
    autoOr(z.int().min(1).max(64)).default(1),
    "share every batch among so many parts of this process, each with its part of the threads and an engine of its own; batch norm and negatives are of the whole batch. Faster on the CPU where cores share no cache; auto: as many as there are groups of cores that share one, which the run then keeps",
    { group: "Run", changeable: true },
  ),
};

/** Of verbs that train on several processes. */
export const launchSettings = {
  distributed: setting(
    z.enum(["auto", "mpi", "none"]).default("auto"),
    "auto: with the processes that mpirun or srun started with this one, else alone",
    { ...ranks, changeable: true },
  ),
  rankTimeout: setting(z.number().min(1).max(86400).default(600), "seconds to wait for other ranks", {
    ...ranks,
    changeable: true,
  }),
  mpiLibrary: setting(path().optional(), "shared library of MPI; left out, the launcher's own is looked for", {
    ...ranks,
    changeable: true,
  }),
};

/** Of verbs that train. */
export const rankCheckSetting = {
  rankCheck: setting(z.int().min(1).default(16), "steps between two looks at whether the ranks hold the same weights", {
    ...ranks,
    changeable: true,
  }),
};

/** Of verbs whose batch norm sees the batch. */
export const distributedSettings = {
  ...replicasSetting,
  ...launchSettings,
  ...rankCheckSetting,
  batchNorm: setting(z.enum(["local", "global"]).default("local"), "statistics over a rank's images, or all", ranks),
  negatives: setting(
    z.enum(["local", "global"]).default("local"),
    "contrast with a rank's images, or with those of all",
    ranks,
  ),
};

const conditions = { group: "Conditions", changeable: true, repeatable: true };

/** Of verbs that measure: what must hold in the end, or must not (src/verbs/conditions.ts reads them). */
export const conditionSettings = {
  require: setting(
    z.array(z.string()).default([]),
    "conditions on figures, such as knnAccuracy>0.3; exit code 3 where one does not hold; may be given several times",
    conditions,
  ),
  failIf: setting(z.array(z.string()).default([]), "the same for what must not be, such as loss>=first", conditions),
};

/** Of verbs that go on with what they were stopped at. */
export const overrideSetting = {
  override: setting(
    z.boolean().default(false),
    "with --resume: go on with other settings than the run began with, which config.yaml then tells of",
    { group: "Run" },
  ),
};

/** Of verbs that train into a run folder. */
export const runSettings = {
  saveEvery: setting(z.int().min(1).default(1), "epochs between checkpoints", { group: "Run" }),
  resume: setting(z.boolean().default(false), "go on with the run in --out", { group: "Run" }),
  ...overrideSetting,
};
