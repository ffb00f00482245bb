/** Settings of pretraining. The defaults are AdvCL's (its sections 3 to 5 and its code); other methods' papers give theirs. */
import { z } from "zod";
import { aInfoNce, aInfoNceHn, aInfoNceIp } from "../../graphs/methods/a-infonce.ts";
import { advcl } from "../../graphs/methods/advcl.ts";
import { aclAir } from "../../graphs/methods/air.ts";
import { apDpeTasks } from "../../graphs/methods/ap-dpe.ts";
import { methodNames } from "../../graphs/methods/index.ts";
import { optimizerNames } from "../../graphs/optim/optimizer.ts";
import {
  accumulateSetting,
  ballSettings,
  conditionSettings,
  datasetSettings,
  distributedSettings,
  momentumSetting,
  networkSettings,
  pluginSetting,
  runSettings,
  targetSetting,
  trainingSplit,
  workersSetting,
} from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";

/** The defaults are those of AdvCL's paper, which stand beside its step. */
const { paper } = advcl;

const method = { group: "Method" };
const data = { group: "Data" };
const optimisation = { group: "Optimisation" };
const run = { group: "Run" };

const { paper: air } = aclAir;
const { paper: asymmetric } = aInfoNce;

/**
 * Options that some methods have alone. Left out, they are as in the method's paper; given to another method they are refused
 * (`feeds.ts`).
 */
export const methodOptions = {
  standardWeight: setting(
    z.number().min(0).optional(),
    `of acl-air and dynacl-air: weight of the regulariser of clean views (${air.standardWeight})`,
    method,
  ),
  adversarialWeight: setting(
    z.number().min(0).optional(),
    `of acl-air and dynacl-air: weight of the regulariser of attacked views (${air.adversarialWeight})`,
    method,
  ),
  divergence: setting(
    z.enum(["paper", "code"]).optional(),
    `of acl-air and dynacl-air: KL as in the paper, or what its authors' code computes (${air.divergence})`,
    method,
  ),
  inferiorWeight: setting(
    z.number().min(0).optional(),
    `of a-infonce, -ip and -hn: weight of the pair with the adversarial view; 0: an ordinary pair (${asymmetric.inferiorWeight}; ${aInfoNceIp.paper.inferiorWeight}; 0)`,
    method,
  ),
  hardNegatives: setting(
    z.boolean().optional(),
    "of a-infonce, -ip and -hn: near negatives weigh more (yes; no; yes)",
    method,
  ),
  tau: setting(
    z.number().min(0).max(0.99).optional(),
    `of a-infonce, -ip and -hn: share of the negatives that are taken for positives (${asymmetric.tau}; ${aInfoNceIp.paper.tau}; ${aInfoNceHn.paper.tau})`,
    method,
  ),
};

const methodSettings = {
  method: setting(z.string().default("advcl"), "how it is trained", { ...method, names: methodNames }),
  highFrequency: setting(z.boolean().default(true), "the high-frequency view", method),
  radius: setting(z.number().min(0.5).default(paper.radius), "radius of the removed frequencies, pixels", method),
  clusters: setting(
    z.array(z.int().min(2)).default([...paper.clusters]),
    "K of each clustering head; needs --pseudo-labels",
    method,
  ),
  clusterWeight: setting(z.number().min(0).default(paper.clusterWeight), "weight of the clustering loss", method),
  temperature: setting(z.number().min(1e-3).default(paper.temperature), "of the contrastive loss", method),
  baseTemperature: setting(
    z.number().min(1e-3).default(paper.baseTemperature),
    "SupCon's, which scales the loss",
    method,
  ),
  from: setting(
    path().optional(),
    "run whose encoder is trained on: its folder, its file by export, or the name of one that ships; --arch, --depth, --width and --stem are its own",
    { ...method, path: true },
  ),
  teacher: setting(path().optional(), "of deacl: run folder of a simclr network of the same shape", {
    ...method,
    path: true,
  }),
  tasks: setting(
    z.array(z.string()).default(["rotation", "jigsaw", "selfie"]),
    `of ap-dpe: ${apDpeTasks.join(", ")}`,
    method,
  ),
  ...methodOptions,
};

const imageSettings = {
  ...datasetSettings,
  ...trainingSplit,
  size: setting(z.int().min(0).max(512).default(0), "resize images to this side; 0 leaves them", data),
  limit: setting(z.int().min(0).default(0), "use N images, a sample of every class by --seed; 0 for all", data),
  pseudoLabels: setting(path().optional(), "safetensors or pickle with pseudo_train_K", { ...data, path: true }),
  ...workersSetting,
};

const optimisationSettings = {
  batch: setting(z.int().min(2).default(paper.batch), "images a step", optimisation),
  epochs: setting(z.int().min(1).default(paper.epochs), "passes over the images", optimisation),
  lr: setting(z.number().min(0).default(paper.lr), "base learning rate", { ...optimisation, lowers: true }),
  optimizer: setting(z.enum(optimizerNames).default(paper.optimizer), "what moves weights", optimisation),
  momentum: setting(momentumSetting.momentum, "of SGD and LARS", optimisation),
  ...accumulateSetting,
  weightDecay: setting(z.number().min(0).default(paper.weightDecay), "on every parameter", optimisation),
  ema: setting(
    z.number().min(0).max(1).default(paper.ema),
    "decay of a moving average of the weights, which is then evaluated; 0: none",
    optimisation,
  ),
  schedule: setting(
    z.enum(["advcl", "cosine"]).default(paper.schedule),
    "of the rate: advcl by epochs to lr/1000; cosine by steps to lr-end",
    optimisation,
  ),
  lrEnd: setting(z.number().min(0).default(paper.lrEnd), "last rate of the schedule cosine", optimisation),
  warmupEpochs: setting(
    z.int().min(-1).default(paper.warmupEpochs),
    "epochs of warm-up; -1: 10 for a batch over 256, else none",
    optimisation,
  ),
  warmupFrom: setting(z.number().min(0).default(paper.warmupFrom), "rate before the warm-up", {
    ...optimisation,
    lowers: true,
  }),
};

export const pretrainSettings = {
  ...methodSettings,
  attack: setting(z.boolean().default(paper.attack), "the attack in training", { group: "Attack" }),
  attackSteps: setting(z.int().min(0).default(paper.attackSteps), "PGD steps of the attack", { group: "Attack" }),
  ...ballSettings,
  ...networkSettings,
  ...imageSettings,
  ...optimisationSettings,
  ...targetSetting,
  stepsPerRun: setting(
    z.int().min(1).default(1),
    "steps in one run of the engine; more save a GPU the way of the weights over the bus",
    { ...run, changeable: true },
  ),
  knnEvery: setting(z.int().min(0).default(10), "epochs between kNN accuracies on frozen features; 0: never", run),
  ...distributedSettings,
  ...pluginSetting,
  ...runSettings,
  ...conditionSettings,
};

export const pretrainPresets = {
  paper: {},
  quick: {
    dataset: "shapes",
    clusters: [] as number[],
    width: 8,
    batch: 16,
    limit: 1024,
    epochs: 4,
    lr: 0.02,
    attackSteps: 2,
    knnEvery: 1,
  },
} as const;
