/** Settings of a comparison: its methods, its data and the budget that all of them get. */
import { z } from "zod";
import {
  datasetSettings,
  networkHelp,
  networkSettings,
  pluginSetting,
  targetSetting,
  workersSetting,
} from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";

const what = { group: "What" };
const data = { group: "Data" };
const budget = { group: "Budget" };
const run = { group: "Run" };

export const compareSettings = {
  methods: setting(
    z.array(z.string()).default(["simclr", "acl", "advcl"]),
    "what to compare: methods of pretrain, changed as in advcl/no-clusters or advcl/radius=4/clusters=2+10; none: finetuning from nothing",
    what,
  ),
  schemes: setting(z.array(z.string()).default(["slf", "aff"]), "of finetuning: slf, alf, aff", what),
  datasets: setting(z.array(z.string()).default([]), "to finetune on; left out, that of pretraining", what),
  seeds: setting(z.array(z.int().min(0)).default([0, 1]), "of which each method gets all", what),
  autoattack: setting(z.boolean().default(false), "also accuracy under AutoAttack", what),
  radii: setting(
    z.array(z.number().min(0)).default([]),
    "also accuracy under PGD-20 at each of these radii of L-inf, for the report's curve",
    what,
  ),
  dataset: setting(datasetSettings.dataset, "to pretrain on", data),
  data: setting(datasetSettings.data, "folder that holds all datasets", { ...data, path: true }),
  skipBroken: datasetSettings.skipBroken,
  limit: setting(z.int().min(0).default(0), "N images, a sample of every class; 0 for all", data),
  testLimit: setting(z.int().min(0).default(0), "N test images, a sample of every class; 0 for all", data),
  size: setting(z.int().min(0).max(512).default(0), "resize images; 0 leaves them", data),
  clusters: setting(z.array(z.int().min(2)).default([2, 10, 50, 100, 500]), "K of AdvCL's heads", data),
  pseudoLabels: setting(
    path().optional(),
    "labels for AdvCL; left out, a simclr run of the same budget and seed is clustered: the first of --methods",
    { ...data, path: true },
  ),
  arch: setting(networkSettings.arch, networkHelp.arch, budget),
  depth: setting(networkSettings.depth, networkHelp.depth, budget),
  width: setting(networkSettings.width, networkHelp.width, budget),
  epochs: setting(z.int().min(1).default(1000), "of pretraining", budget),
  batch: setting(z.int().min(2).default(512), "of pretraining", budget),
  attackSteps: setting(z.int().min(0).optional(), "of attacks in pretraining; left out, each paper's", budget),
  scaleRates: setting(
    z.boolean().default(true),
    "each paper's rate in proportion to the batch, and its warm-up to the epochs",
    budget,
  ),
  finetuneEpochs: setting(z.int().min(1).default(25), "of finetuning", budget),
  finetuneBatch: setting(z.int().min(2).optional(), "of finetuning; left out, each scheme's", budget),
  finetuneLr: setting(z.number().min(0).optional(), "of finetuning; left out, each scheme's", budget),
  finetuneLimit: setting(z.int().min(0).default(0), "N training images, a sample of every class", budget),
  workers: setting(workersSetting.workers.unwrap().optional(), "threads that augment", { ...run, changeable: true }),
  target: setting(targetSetting.target, "lowering of the graphs", { ...run, changeable: true }),
  ...pluginSetting,
  out: setting(path(), "folder to write to; what it holds already is not done again", { path: true }),
};

export type Settings = Resolved<typeof compareSettings>;
