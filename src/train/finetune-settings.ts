/** Settings of finetuning: its schemes, and their defaults from the papers. */
import { z } from "zod";
import type { Objective } from "../../graphs/steps/finetune.ts";
import { networkDefaultsOf } from "../runs/network.ts";
import {
  accumulateSetting,
  ballSettings,
  conditionSettings,
  datasetSettings,
  distributedSettings,
  momentumSetting,
  networkHelp,
  networkSettings,
  pluginSetting,
  runSettings,
  targetSetting,
  trainingLimit,
  trainingSplit,
  workersSetting,
} from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";

/** What a scheme is, and its defaults: for SLF, ALF and AFF those of the robust self-supervised papers (25 epochs). */
interface Scheme {
  readonly objective: Objective;
  /** Whether the encoder stays as it is. */
  readonly headOnly: boolean;
  readonly from: string | undefined;
  readonly attackSteps: number;
  readonly batch: number;
  readonly lr: number;
  readonly epochs: number;
  readonly milestones: number[];
  readonly weightDecay: number;
}

const linear = { headOnly: true, from: undefined, batch: 512, lr: 0.01 };
const schedule = { epochs: 25, milestones: [15, 20], weightDecay: 2e-4 };
const supervised = { headOnly: false, from: "none", attackSteps: 10, batch: 128, lr: 0.1 };
const supervisedSchedule = { epochs: 100, milestones: [75, 90], weightDecay: 5e-4 };

export const schemeNames = ["slf", "alf", "aff", "pgd-at", "trades", "standard"] as const;
export type SchemeName = (typeof schemeNames)[number];

export const schemes: Readonly<Record<SchemeName, Scheme>> = {
  slf: { objective: "clean", attackSteps: 0, ...linear, ...schedule },
  alf: { objective: "pgd", attackSteps: 10, ...linear, ...schedule },
  aff: { objective: "trades", ...supervised, ...schedule, from: undefined },
  "pgd-at": { objective: "pgd", ...supervised, ...supervisedSchedule },
  trades: { objective: "trades", ...supervised, ...supervisedSchedule },
  standard: { objective: "clean", ...supervised, ...supervisedSchedule, attackSteps: 0 },
};

const method = { group: "Method" };
const network = { group: "Network" };
const data = { group: "Data" };
const optimisation = { group: "Optimisation" };
const run = { group: "Run" };

const methodSettings = {
  scheme: setting(
    z.enum(schemeNames),
    "slf, alf: the head on clean or attacked images; aff: everything by TRADES; pgd-at, trades, standard (no attack): from the start",
    method,
  ),
  from: setting(
    path().optional(),
    "run whose encoder is finetuned: its folder, its file by export, or the name of one that ships; none: start at random (default for pgd-at, trades and standard)",
    { ...method, path: true },
  ),
  branch: setting(
    z.string().default("auto"),
    "batch-norm branch of the encoder; auto: the one that its run is evaluated by",
    method,
  ),
  keepHead: setting(z.boolean().default(false), "begin with the linear head of --from instead of a new one", method),
  beta: setting(z.number().min(0).default(6), "weight of TRADES' closeness", method),
  loss: setting(z.string().optional(), "a loss of --plugin, learnt in place of cross-entropy", method),
  attackSteps: setting(z.int().min(0).optional(), "PGD steps of the attack (default 10)", { group: "Attack" }),
  ...ballSettings,
};

const { arch, depth, width, stem } = networkSettings;
const freshNetwork = {
  arch: setting(arch, `with --from none: ${networkHelp.arch}`, network),
  depth: setting(depth.unwrap().optional(), `with --from none: ${networkHelp.depth}`, network),
  width: setting(width.unwrap().optional(), `with --from none: ${networkHelp.width}`, network),
  stem: setting(stem.unwrap().optional(), `with --from none: ${networkHelp.stem}`, network),
  size: setting(
    z.int().min(8).max(512).optional(),
    "side of the images, with --from none; an encoder's own otherwise",
    network,
  ),
};

const imageSettings = {
  dataset: setting(datasetSettings.dataset, "labelled images", data),
  data: datasetSettings.data,
  testShare: datasetSettings.testShare,
  skipBroken: datasetSettings.skipBroken,
  ...trainingLimit,
  testLimit: setting(
    z.int().min(0).default(0),
    "use N test images, a sample of every class by --seed; 0 for all",
    data,
  ),
  ...trainingSplit,
  pseudoLabels: setting(
    path().optional(),
    "train on these instead of the labels: a file of advcl cluster; no test images are looked at",
    { ...data, path: true },
  ),
  clusters: setting(z.int().min(2).optional(), "K of --pseudo-labels; left out, the only one that the file has", data),
  validation: setting(
    z.int().min(0).default(0),
    "training images to hold out and choose the epoch by; 0: the last epoch",
    data,
  ),
  chooseBy: setting(
    z.enum(["robust", "clean"]).optional(),
    "accuracy on the held-out images that chooses the epoch (default robust; clean with standard)",
    data,
  ),
  validationSteps: setting(z.int().min(0).optional(), "PGD steps on the held-out images (default 10)", data),
  patience: setting(
    z.int().min(1).optional(),
    "end after N epochs in a row whose accuracy on the held-out images, by --choose-by, is not better than the best before",
    data,
  ),
  ...workersSetting,
};

const optimisationSettings = {
  batch: setting(z.int().min(2).optional(), "images a step (default 512; 128 where all is trained)", optimisation),
  epochs: setting(z.int().min(1).optional(), "passes over the images (default 25; 100 from the start)", optimisation),
  lr: setting(z.number().min(0).optional(), "learning rate (default 0.01; 0.1 where all is trained)", {
    ...optimisation,
    lowers: true,
  }),
  milestones: setting(
    z.array(z.int().min(0)).optional(),
    "epochs, counted from 0, from which the rate is a tenth (default 15,20; 75,90 from the start)",
    optimisation,
  ),
  ...momentumSetting,
  ...accumulateSetting,
  weightDecay: setting(
    z.number().min(0).optional(),
    "on every parameter that is trained (default 2e-4; 5e-4 from the start)",
    optimisation,
  ),
};

export const finetuneSettings = {
  ...methodSettings,
  ...freshNetwork,
  ...imageSettings,
  ...optimisationSettings,
  evaluate: setting(z.boolean().default(false), "also test accuracy under PGD-20 at the end", run),
  ...targetSetting,
  ...distributedSettings,
  ...pluginSetting,
  ...runSettings,
  ...conditionSettings,
};

export type GivenFinetuning = Resolved<typeof finetuneSettings>;

export const finetunePresets = {
  "dynacl-head": { scheme: "slf", epochs: 10, milestones: [] as number[], weightDecay: 1e-4 },
  "dynacl-trades": { scheme: "aff", keepHead: true, batch: 512, milestones: [10, 20] as number[], weightDecay: 1e-4 },
} as const;

/** Settings that the scheme decides where they are not given. */
const schemeDefaults = (name: SchemeName) => {
  const { objective: _, headOnly: __, ...defaults } = schemes[name];
  return defaults;
};

/** Of a network that starts at random. */
const networkDefaults = (arch: GivenFinetuning["arch"]) => ({
  ...{ depth: "18", width: 64, stem: "auto" as const },
  ...networkDefaultsOf(arch),
});

const validationDefaults = (scheme: SchemeName) =>
  ({ chooseBy: scheme === "standard" ? "clean" : "robust", validationSteps: 10 }) as const;

/** Defaults that depend on the scheme, on whether training starts at random and on whether images are held out. */
export const completeFinetuning = ({
  scheme,
  from,
  arch,
  validation = 0,
}: Partial<GivenFinetuning>): Partial<GivenFinetuning> => {
  if (scheme === undefined) return {};
  const { from: usual, ...defaults } = schemeDefaults(scheme);
  const start = from ?? usual;
  return {
    ...defaults,
    ...(start !== undefined && { from: start }),
    ...(start === "none" && networkDefaults(arch)),
    ...(validation > 0 && validationDefaults(scheme)),
  };
};

/** An object without its undefined entries. */
const defined = <T extends object>(given: T) =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as {
    [K in keyof T as undefined extends T[K] ? never : K]: T[K];
  } & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> };

/** Settings with every default of the scheme in its place. */
export const wholeFinetuning = (given: GivenFinetuning) => ({
  ...schemeDefaults(given.scheme),
  ...networkDefaults(given.arch),
  ...validationDefaults(given.scheme),
  ...defined(given),
});

export type Finetuning = ReturnType<typeof wholeFinetuning>;
