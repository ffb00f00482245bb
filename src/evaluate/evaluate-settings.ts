import { z } from "zod";
import { datasetNames, splits } from "../data/dataset.ts";
import {
  conditionSettings,
  launchSettings,
  matchSetting,
  modelSettings,
  overrideSetting,
  pluginSetting,
  targetSetting,
} from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";

const model = { group: "Model" };
const data = { group: "Data" };
const attack = { group: "Attack" };
const computing = { group: "Computing" };
const results = { group: "Results" };

export const evaluateSettings = {
  model: setting(
    path(),
    "an ONNX file, or a run of finetune: its folder, its file by export, or the name of one that ships",
    { ...model, path: true },
  ),
  branch: setting(z.string().optional(), "batch-norm branch of a run (default: the run's own)", model),
  size: setting(z.int().min(1).max(4096).optional(), "side of the images where the file leaves it open", model),
  ...modelSettings,
  mean: setting(z.array(z.number()).default([]), "mean that the model expects to be subtracted", model),
  std: setting(z.array(z.number()).default([]), "deviation to divide by", model),
  dataset: setting(
    z.enum(datasetNames).optional(),
    "which images (default: those that the run or export was trained on, else cifar10)",
    data,
  ),
  data: setting(path().optional(), "folder or archive of the dataset (default: the run's)", {
    ...data,
    path: true,
    changeable: true,
  }),
  testShare: setting(
    z.number().min(0).max(0.9).optional(),
    "of a folder without a test split: share of each class that is held out to test on (default: the run's, else 0.2)",
    data,
  ),
  skipBroken: setting(
    z.boolean().optional(),
    "leave out images of a folder that cannot be decoded, and say how many (default: as the run did, else stop)",
    data,
  ),
  split: setting(z.enum(splits).default("test"), "which part of it", data),
  ...matchSetting,
  limit: setting(z.int().min(1).optional(), "only so many images, a sample of every class by --seed", data),
  corruptionsData: setting(path().optional(), "folder of CIFAR-10-C or -100-C .npy files", { ...data, path: true }),
  attacks: setting(z.array(z.string()).default(["clean", "pgd20", "autoattack"]), "what to run, in order", attack),
  norm: setting(z.enum(["linf", "l2"]).default("linf"), "of the perturbation", attack),
  eps: setting(
    z.array(z.number().min(0)).min(1).optional(),
    "radius of the ball, or several for a curve: the largest is reported in full (default 8/255 for linf, 0.5 for l2)",
    attack,
  ),
  stepSize: setting(z.number().min(0).optional(), "of PGD (default eps/4)", attack),
  restarts: setting(z.int().min(1).default(1), "runs of each attack from other starts", attack),
  iterations: setting(z.int().min(1).default(100), "of APGD and FAB", attack),
  targets: setting(z.int().min(1).default(9), "classes that targeted attacks aim at", attack),
  queries: setting(z.int().min(1).default(5000), "of the Square attack", attack),
  batch: setting(z.int().min(1).default(128), "images a run of the model", computing),
  target: setting(targetSetting.target, "lowering of the graph; left out, that of the provider", {
    ...computing,
    changeable: true,
  }),
  ...launchSettings,
  saveAdversarial: setting(z.boolean().default(false), "keep all adversarial images (--out)", results),
  grid: setting(z.int().min(0).max(100).default(12), "images in the picture of attacks (--out)", results),
  resume: setting(z.boolean().default(false), "go on with the evaluation in --out", results),
  ...pluginSetting,
  ...conditionSettings,
  ...overrideSetting,
};

export type Settings = Resolved<typeof evaluateSettings>;
