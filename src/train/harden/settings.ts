/** Settings of hardening a classifier from elsewhere. */
import { z } from "zod";
import { datasetNames } from "../../data/dataset.ts";
import {
  ballSettings,
  conditionSettings,
  datasetSettings,
  launchSettings,
  matchSetting,
  modelSettings,
  normalisationSettings,
  overrideSetting,
  rankCheckSetting,
  runSettings,
  trainingLimit,
} from "../../settings/fragments.ts";
import { path, setting } from "../../settings/schema.ts";
import type { Resolved } from "../../settings/spec.ts";

const data = { group: "Data" };
const attack = { group: "Attack" };
const optimisation = { group: "Optimisation" };

export const hardenSettings = {
  from: setting(path(), "ONNX classifier of RGB images", { path: true }),
  out: setting(path(), "ONNX file to write", { path: true }),
  objective: setting(z.enum(["trades", "pgd-at"]).default("trades"), "what is minimised"),
  beta: setting(z.number().min(0).default(1), "weight of TRADES' closeness"),
  dataset: setting(z.enum(datasetNames).default("folder"), "labelled images", data),
  data: setting(path().optional(), "folder or archive of the dataset", { ...data, path: true, changeable: true }),
  testShare: datasetSettings.testShare,
  skipBroken: datasetSettings.skipBroken,
  ...trainingLimit,
  testLimit: setting(z.int().min(1).default(500), "test images to measure on", data),
  size: setting(z.int().min(8).max(1024).optional(), "side of the images, where the model leaves it open", data),
  ...normalisationSettings,
  ...modelSettings,
  ...matchSetting,
  augment: setting(z.boolean().default(true), "random crops and flips", data),
  ...ballSettings,
  attackSteps: setting(z.int().min(1).default(10), "PGD steps in training", attack),
  ramp: setting(
    z.number().min(0).max(1).default(0.5),
    "share of the training in which the attack grows from nothing to eps",
    attack,
  ),
  testSteps: setting(z.int().min(1).default(20), "PGD steps on test images", attack),
  epochs: setting(z.int().min(1).default(10), "passes over the images", optimisation),
  batch: setting(z.int().min(1).default(64), "images a step", optimisation),
  lr: setting(z.number().min(0).default(0.01), "learning rate, falling to nothing along a cosine", {
    ...optimisation,
    lowers: true,
  }),
  clip: setting(
    z.number().min(0).default(3),
    "largest norm of a step's gradients together, to which longer ones are scaled; 0 for none",
    optimisation,
  ),
  momentum: setting(z.number().min(0).max(1).default(0.9), "of SGD", optimisation),
  weightDecay: setting(z.number().min(0).default(2e-4), "on every weight that moves", optimisation),
  ...launchSettings,
  ...rankCheckSetting,
  ...runSettings,
  resume: setting(z.boolean().default(false), "go on with the run in OUT.run", { group: "Run" }),
  ...conditionSettings,
  ...overrideSetting,
};

/** Settings of hardening, each checked and with its default. */
export type HardenSettings = Resolved<typeof hardenSettings>;
