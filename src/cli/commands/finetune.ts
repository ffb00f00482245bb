import { join } from "node:path";
import { resnet } from "../../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input } from "../../../graphs/onnx/graph.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { finetuneStep, type Objective } from "../../../graphs/steps/finetune.ts";
import { type Dataset, datasetNames, loadDataset, subset } from "../../data/dataset.ts";
import { createLoader } from "../../data/loader.ts";
import { checkPseudoLabels, readPseudoLabels } from "../../data/pseudo-labels.ts";
import { random } from "../../data/random.ts";
import { normalStart, uniformStart, weakView } from "../../data/view.ts";
import { availableCores } from "../../engine/cores.ts";
import { chooseEngine, targetRow } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import { createJudge, percent } from "../../evaluate/accuracy.ts";
import { writeFileAtomic } from "../../files/atomic.ts";
import { resultsFile, writeReport } from "../../report/write.ts";
import { latestCheckpoint } from "../../runs/checkpoint.ts";
import {
  chosenWeightsOf,
  depthNames,
  loadRun,
  type Network,
  networkRecord,
  stemNames,
  stemOf,
  weightFeeds,
} from "../../runs/network.ts";
import { readRunConfig } from "../../runs/run-folder.ts";
import type { SettingRows } from "../../settings/resolve.ts";
import { train } from "../../train/loop.ts";
import { stepRate } from "../../train/schedule.ts";
import { type CommandSettings, type Context, defineCommand } from "../command.ts";

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
  readonly milestones: readonly number[];
  readonly weightDecay: number;
}

const linear = { headOnly: true, from: undefined, batch: 512, lr: 0.01 };
const schedule = { epochs: 25, milestones: [15, 20], weightDecay: 2e-4 };
const supervised = { headOnly: false, from: "none", attackSteps: 10, batch: 128, lr: 0.1 };
const supervisedSchedule = { epochs: 100, milestones: [75, 90], weightDecay: 5e-4 };

const schemes = {
  slf: { objective: "clean", attackSteps: 0, ...linear, ...schedule },
  alf: { objective: "pgd", attackSteps: 10, ...linear, ...schedule },
  aff: { objective: "trades", ...supervised, ...schedule, from: undefined },
  "pgd-at": { objective: "pgd", ...supervised, ...supervisedSchedule },
  trades: { objective: "trades", ...supervised, ...supervisedSchedule },
  standard: { objective: "clean", ...supervised, ...supervisedSchedule, attackSteps: 0 },
} as const satisfies Record<string, Scheme>;

const schemeNames = ["slf", "alf", "aff", "pgd-at", "trades", "standard"] as const;

const rows = {
  scheme: {
    type: "enum",
    values: schemeNames,
    required: true,
    help: "slf, alf: the head on clean or attacked images; aff: everything by TRADES; pgd-at, trades, standard (no attack): from the start",
    group: "Method",
  },
  from: {
    type: "path",
    help: "run folder whose encoder is finetuned; none: start at random (default for pgd-at, trades and standard)",
    group: "Method",
  },
  branch: {
    type: "string",
    default: "auto",
    help: "batch-norm branch of the encoder; auto: the one that its run is evaluated by",
    group: "Method",
  },
  keepHead: {
    type: "boolean",
    default: false,
    help: "begin with the linear head of --from instead of a new one",
    group: "Method",
  },
  beta: { type: "number", default: 6, min: 0, help: "weight of TRADES' closeness", group: "Method" },
  attackSteps: { type: "integer", min: 0, help: "PGD steps of the attack (default 10)", group: "Attack" },
  eps: { type: "number", default: 8 / 255, min: 0, max: 1, help: "radius of the L-inf ball", group: "Attack" },
  stepSize: { type: "number", default: 2 / 255, min: 0, max: 1, help: "of a PGD step", group: "Attack" },
  depth: { type: "enum", values: depthNames, help: "layers of the ResNet, with --from none", group: "Network" },
  width: {
    type: "integer",
    min: 1,
    max: 1024,
    help: "channels of the first stage, with --from none",
    group: "Network",
  },
  stem: { type: "enum", values: stemNames, help: "with --from none", group: "Network" },
  size: {
    type: "integer",
    min: 8,
    max: 512,
    help: "side of the images, with --from none; an encoder's own otherwise",
    group: "Network",
  },
  dataset: { type: "enum", values: datasetNames, default: "cifar10", help: "labelled images", group: "Data" },
  data: { type: "path", help: "folder or archive of the dataset, as downloaded", group: "Data" },
  limit: {
    type: "integer",
    default: 0,
    min: 0,
    help: "use only the first N training images; 0 for all",
    group: "Data",
  },
  testLimit: {
    type: "integer",
    default: 0,
    min: 0,
    help: "use only the first N test images; 0 for all",
    group: "Data",
  },
  split: { type: "enum", values: ["train", "unlabeled"], default: "train", help: "part to train on", group: "Data" },
  pseudoLabels: {
    type: "path",
    help: "train on these instead of the labels: a file of advcl cluster; no test images are looked at",
    group: "Data",
  },
  clusters: {
    type: "integer",
    min: 2,
    help: "K of --pseudo-labels; left out, the only one that the file has",
    group: "Data",
  },
  validation: {
    type: "integer",
    default: 0,
    min: 0,
    help: "training images to hold out and choose the epoch by; 0: the last epoch",
    group: "Data",
  },
  chooseBy: {
    type: "enum",
    values: ["robust", "clean"],
    help: "accuracy on the held-out images that chooses the epoch (default robust; clean with standard)",
    group: "Data",
  },
  validationSteps: {
    type: "integer",
    min: 0,
    help: "PGD steps on the held-out images (default 10)",
    group: "Data",
  },
  workers: {
    type: "integer",
    default: () => Math.max(1, Math.floor(availableCores() / 4)),
    min: 0,
    max: 256,
    help: "threads that augment; 0: none of their own",
    group: "Data",
    changeable: true,
  },
  batch: {
    type: "integer",
    min: 2,
    help: "images a step (default 512; 128 where all is trained)",
    group: "Optimisation",
  },
  epochs: {
    type: "integer",
    min: 1,
    help: "passes over the images (default 25; 100 from the start)",
    group: "Optimisation",
  },
  lr: { type: "number", min: 0, help: "learning rate (default 0.01; 0.1 where all is trained)", group: "Optimisation" },
  milestones: {
    type: "integers",
    min: 0,
    help: "epochs, counted from 0, from which the rate is a tenth (default 15,20; 75,90 from the start)",
    group: "Optimisation",
  },
  momentum: { type: "number", default: 0.9, min: 0, max: 1, help: "of SGD", group: "Optimisation" },
  weightDecay: {
    type: "number",
    min: 0,
    help: "on every parameter that is trained (default 2e-4; 5e-4 from the start)",
    group: "Optimisation",
  },
  evaluate: { type: "boolean", default: false, help: "also test accuracy under PGD-20 at the end", group: "Run" },
  target: { ...targetRow, group: "Run", changeable: true },
  saveEvery: { type: "integer", default: 1, min: 1, help: "epochs between checkpoints", group: "Run" },
  resume: { type: "boolean", default: false, help: "go on with the run in --out", group: "Run" },
} as const satisfies SettingRows;

type Settings = CommandSettings<typeof rows>;

/** Settings that the scheme decides where they are not given. */
const schemeDefaults = (name: Settings["scheme"]) => {
  const { objective: _, headOnly: __, ...defaults } = schemes[name] as Scheme;
  return defaults;
};

const networkDefaults = { depth: "18", width: 64, stem: "auto" } as const;

const validationDefaults = (scheme: Settings["scheme"]) =>
  ({ chooseBy: scheme === "standard" ? "clean" : "robust", validationSteps: 10 }) as const;

const complete = ({ scheme, from, validation = 0 }: Partial<Settings>): Partial<Settings> => {
  if (scheme === undefined) return {};
  const { from: usual, ...defaults } = schemeDefaults(scheme);
  const start = from ?? usual;
  return {
    ...defaults,
    ...(start !== undefined && { from: start }),
    ...(start === "none" && networkDefaults),
    ...(validation > 0 && validationDefaults(scheme)),
  };
};

export const finetune = defineCommand({
  name: "finetune",
  summary: "train a classifier on an encoder, or from the start",
  description:
    "Finetunes the encoder of a run: SLF trains a linear head, ALF the same on attacked images, AFF everything by TRADES (Zhang et al. 2019). pgd-at (Madry et al. 2018), trades and standard (clean images only) train from the start, as baselines. The defaults are the papers' settings. Images are resized to the encoder's size. With --pseudo-labels the clusters of the images are the classes; the presets dynacl-head and then dynacl-trades are the two stages that turn DynACL into DynACL++ (Luo et al. 2023). The last epoch stands, or with --validation the best one on held-out training images; test images choose nothing. Writes a run folder to --out; interrupted or killed, it goes on with --resume.",
  settings: rows,
  presets: {
    "dynacl-head": { scheme: "slf", epochs: 10, milestones: [], weightDecay: 1e-4 },
    "dynacl-trades": { scheme: "aff", keepHead: true, batch: 512, milestones: [10, 20], weightDecay: 1e-4 },
  },
  complete,
  run: async (given, context) => {
    for (const [name, value] of Object.entries({
      "choose-by": given.chooseBy,
      "validation-steps": given.validationSteps,
    }))
      if (given.validation === 0 && value !== undefined)
        throw new RequestError(
          `--${name} is of --validation N, the number of images to hold out; give both or neither`,
        );
    const settings = {
      ...schemeDefaults(given.scheme),
      ...networkDefaults,
      ...validationDefaults(given.scheme),
      ...defined(given),
    };
    const { scheme, seed, batch, epochs, eps, stepSize } = settings;
    const { objective, headOnly } = schemes[scheme] as Scheme;
    const origin = await originOf(given, context);
    const images = {
      name: settings.dataset,
      data: settings.data,
      size: origin?.network.size ?? given.size,
      seed,
    };
    const loaded = await loadDataset({ ...images, split: settings.split, limit: settings.limit || undefined });
    const all = await relabelled(loaded, given);
    const { training, validation } = holdOut(all, settings.validation, seed);
    if (training.count < batch)
      throw new RequestError(
        `there are ${training.count} images to train on, fewer than a batch of ${batch}; lower --batch`,
      );
    const test =
      settings.pseudoLabels === undefined
        ? await loadDataset({ ...images, split: "test", limit: settings.testLimit || undefined })
        : undefined;
    checkDatasets(all, test);
    const network: Network = origin?.network ?? {
      depth: Number(settings.depth) as Network["depth"],
      width: settings.width,
      stem: stemOf(settings.stem, all.height),
      size: all.height,
      branches: undefined,
      evaluatedBranch: "normal",
    };
    const branch = network.evaluatedBranch;
    const engine = await chooseEngine(settings);
    const classes = all.classes.length;
    const start = origin && startOf(origin, headOnly, classes);
    const run = await context.openRun();
    const encoder = headOnly ? origin?.tensors : undefined;
    const model = { ...network, classes, branch, encoder };
    const step = finetuneStep({ ...settings, ...model, objective });
    const attacked = objective !== "clean";
    const loader = createLoader({
      dataset: training,
      batch,
      seed,
      workers: settings.workers,
      inputs: {
        clean: weakView,
        label: { kind: "label" },
        ...(attacked && { start: objective === "trades" ? normalStart() : uniformStart(eps) }),
      },
      dropLast: true,
    });
    const judged = { ...model, eps, stepSize, seed };
    const judgeBatch = (count: number) => Math.min(128, count);
    const validate =
      validation &&
      (await createJudge(engine, {
        ...judged,
        batch: judgeBatch(validation.count),
        attackSteps: settings.validationSteps,
      }));
    context.log(
      `${scheme}: ResNet-${network.depth} width ${network.width}, branch ${network.branches ? branch : "only one"}, ` +
        `${training.count} images of ${all.name} in ${classes} classes, ${loader.stepsPerEpoch} steps of ${batch} an epoch, ` +
        `on ${engine.provider} (${engine.reason})`,
    );
    try {
      const trained = await train({
        step,
        engine,
        loader,
        run,
        context,
        seed,
        epochs,
        batch,
        record: { network: networkRecord(network), classes: all.classes, scheme },
        rate: (epoch) => stepRate(settings.lr, settings.milestones, epoch),
        saveEvery: settings.saveEvery,
        ...start,
        ...(validate && {
          chooseBy: settings.chooseBy === "robust" && settings.validationSteps > 0 ? "robustValidation" : "validation",
          evaluate: async (epoch: number, weights: ReadonlyMap<string, Tensor>) => {
            if (epoch === 0) return {} as Record<string, number>;
            const { accuracy, robustAccuracy } = await validate.measure(validation, weights);
            return { validation: accuracy, ...(robustAccuracy !== undefined && { robustValidation: robustAccuracy }) };
          },
        }),
      });
      if (trained.interrupted) {
        context.log(`stopped after step ${trained.steps}; go on with --resume`);
        return;
      }
      if (test === undefined) {
        const figures = Object.entries(trained.metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
        await writeReport(run.path);
        context.print(`${run.path}: ${trained.steps} steps on pseudo-labels, ${figures.join(", ")}`);
        context.result({
          out: run.path,
          scheme,
          steps: trained.steps,
          epochs,
          epoch: trained.epoch,
          metrics: trained.metrics,
          waitSeconds: trained.waitSeconds,
        });
        return;
      }
      const judge = await createJudge(engine, {
        ...judged,
        batch: judgeBatch(test.count),
        attackSteps: settings.evaluate ? 20 : 0,
      });
      const { accuracy, robustAccuracy } = await judge.measure(test, chosenWeightsOf(trained.tensors));
      await judge.release();
      const accuracies = { accuracy, ...(robustAccuracy !== undefined && { robustAccuracy }) };
      await writeFileAtomic(join(run.path, resultsFile), `${JSON.stringify(accuracies)}\n`);
      await writeReport(run.path);
      context.print(
        `${run.path}: ${trained.steps} steps, epoch ${trained.epoch}${validation === undefined ? "" : ` (the best on ${validation.count} held-out images)`}; accuracy on ${test.count} test images ${percent(accuracy)}` +
          (robustAccuracy === undefined ? "" : `, under PGD-20 ${percent(robustAccuracy)}`),
      );
      context.result({
        out: run.path,
        scheme,
        steps: trained.steps,
        epochs,
        epoch: trained.epoch,
        testImages: test.count,
        ...accuracies,
        metrics: trained.metrics,
        waitSeconds: trained.waitSeconds,
      });
    } finally {
      await validate?.release();
      await loader.close();
      await run.close();
    }
  },
});

/** An object without its undefined entries. */
const defined = <T extends object>(given: T) =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as {
    [K in keyof T as undefined extends T[K] ? never : K]: T[K];
  } & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> };

/** An encoder to start from: its network with the branch to take, and its tensors by PyTorch name and by model input. */
interface Origin {
  readonly network: Network;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly inputs: ReadonlyMap<string, Tensor>;
  /** The linear head to begin with, by model input; a new one where it is left out. */
  readonly head: ReadonlyMap<string, Tensor> | undefined;
}

/** What training starts from, and what its checkpoints hold besides. */
const startOf = ({ inputs, head }: Origin, headOnly: boolean, classes: number) => {
  const rows = head?.get("param.fc.weight")?.shape[0];
  if (rows !== undefined && rows !== classes)
    throw new RequestError(`the head of --from tells ${rows} classes apart, not ${classes}; leave --keep-head out`);
  return headOnly
    ? { kept: inputs, ...(head && { initial: head }) }
    : { initial: new Map([...inputs, ...(head ?? [])]) };
};

/** Images with their clusters as labels, where these are to be learned. */
const relabelled = async (
  dataset: Dataset,
  { pseudoLabels, clusters, evaluate }: Pick<Settings, "pseudoLabels" | "clusters" | "evaluate">,
): Promise<Dataset> => {
  if (pseudoLabels === undefined) {
    if (clusters !== undefined) throw new RequestError("--clusters is of --pseudo-labels FILE; give both or neither");
    return dataset;
  }
  if (evaluate)
    throw new RequestError(
      "--evaluate asks for true labels; leave it out with --pseudo-labels, and finetune once more",
    );
  const file = await readPseudoLabels(pseudoLabels);
  const k = clusters ?? (file.ks.length === 1 ? file.ks[0] : undefined);
  if (k === undefined)
    throw new RequestError(`${pseudoLabels} has labels for K = ${file.ks.join(", ")}; choose one with --clusters K`);
  checkPseudoLabels(file, dataset, [k]);
  const labels = file.labels(k);
  return {
    ...dataset,
    labels: Int32Array.from(dataset.index, (place) => labels[place] as number),
    classes: Array.from({ length: k }, (_, cluster) => `cluster ${cluster}`),
  };
};

/**
 * The encoder of --from; undefined where training starts at random. A resumed run takes its own, so that what became of
 * the other run meanwhile does not matter.
 */
const originOf = async (settings: Settings, context: Context): Promise<Origin | undefined> => {
  const { scheme, from, branch } = settings;
  if (from === undefined)
    throw new RequestError(
      `${scheme} needs --from RUN, the folder of a pretrained encoder${(schemes[scheme] as Scheme).headOnly ? "" : " (or --from none)"}`,
    );
  if (from === "none") {
    if ((schemes[scheme] as Scheme).headOnly)
      throw new RequestError(
        `${scheme} trains only a head, which says nothing of a random encoder; give --from RUN, or another --scheme`,
      );
    if (branch !== "auto") throw new RequestError("--branch is of an encoder; leave it out with --from none");
    if (settings.keepHead) throw new RequestError("--keep-head is of a run; leave it out with --from none");
    return undefined;
  }
  for (const key of ["depth", "width", "stem", "size"] as const)
    if (settings[key] !== undefined)
      throw new RequestError(`--${key} is the encoder's own with --from ${from}; leave it out`);
  const source = (await resumable(settings)) ?? from;
  const loaded = await loadRun(source, context.warn);
  const { branches } = loaded.network;
  if (branch !== "auto" && !branches?.includes(branch))
    throw new RequestError(
      `the encoder of ${from} has no batch-norm branch ${branch}; ${branches ? `it has ${branches.join(", ")}` : "leave --branch out"}`,
    );
  const network = branch === "auto" ? loaded.network : { ...loaded.network, evaluatedBranch: branch };
  const inputs = new Map(
    Object.entries(weightFeeds(encoderStore(network), loaded.tensors, `the encoder of ${source}`)),
  );
  const tensors = new Map([...inputs].map(([name, value]) => [name.replace(/^(param|state)\./, ""), value]));
  context.log(`${inputs.size} tensors of the encoder from ${source}`);
  const head = settings.keepHead ? headOf(loaded.tensors, source) : undefined;
  return { network, tensors, inputs, head };
};

/** The linear head of a run of finetuning, by model input. */
const headOf = (tensors: ReadonlyMap<string, Tensor>, source: string): ReadonlyMap<string, Tensor> =>
  new Map(
    ["fc.weight", "fc.bias"].map((path) => {
      const value = tensors.get(path);
      if (value === undefined)
        throw new RequestError(
          `the run in ${source} has no linear head; leave --keep-head out, or give a run of finetune`,
        );
      return [`param.${path}`, value] as const;
    }),
  );

/** The run in --out where it is to be resumed and has a checkpoint. */
const resumable = async ({ resume, out }: Settings): Promise<string | undefined> => {
  if (!resume || out === undefined || (await readRunConfig(out)) === undefined) return undefined;
  return (await latestCheckpoint(join(out, "checkpoints"), () => {})) === undefined ? undefined : out;
};

/** What an encoder is made of. */
const encoderStore = (network: Network): Store => {
  const store = new Store();
  const images = input("images", { dtype: "float32", shape: [1, 3, network.size, network.size] });
  resnet(network)(new Scope(store, { mode: "eval", branches: [network.evaluatedBranch] }), images);
  return store;
};

const checkDatasets = (training: Dataset, test: Dataset | undefined): void => {
  for (const { name, split, labels, classes } of [training, ...(test ? [test] : [])])
    if (labels === undefined || classes.length === 0)
      throw new RequestError(`${name} ${split} has no labels; choose a labelled dataset`);
  if (training.height !== training.width)
    throw new RequestError(`images are ${training.width}×${training.height}; give --size to make them square`);
  if (test && (training.height !== test.height || training.width !== test.width))
    throw new RequestError(
      `training images are ${training.width}×${training.height} and test images ${test.width}×${test.height}; give --size`,
    );
};

/** Holds out `count` images, chosen by the seed alone. */
const holdOut = (dataset: Dataset, count: number, seed: number) => {
  if (count === 0) return { training: dataset, validation: undefined };
  if (count >= dataset.count)
    throw new RequestError(`--validation ${count} leaves none of the ${dataset.count} training images; hold out fewer`);
  const order = random(seed, 0, 0, "validation").permutation(dataset.count);
  const held = order.slice(0, count).sort();
  return { training: subset(dataset, order.slice(count).sort()), validation: subset(dataset, held) };
};
