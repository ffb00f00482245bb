import { apDpeTasks } from "../../../graphs/methods/ap-dpe.ts";
import { methodNames, methods } from "../../../graphs/methods/index.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { optimizerNames } from "../../../graphs/optim/optimizer.ts";
import { type Dataset, datasetNames, loadDataset } from "../../data/dataset.ts";
import { createLoader } from "../../data/loader.ts";
import { checkPseudoLabels, readPseudoLabels } from "../../data/pseudo-labels.ts";
import { availableCores } from "../../engine/cores.ts";
import { chooseEngine, type Engine, targetRow } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import { createExtractor, knnAccuracy } from "../../evaluate/knn.ts";
import { writeReport } from "../../report/write.ts";
import { depthNames, loadRun, type Network, networkRecord, stemNames, stemOf } from "../../runs/network.ts";
import { feeds, rateOf, teacherState } from "../../train/feeds.ts";
import { train } from "../../train/loop.ts";
import { type Context, defineCommand } from "../command.ts";

/** Settings of the method as the paper has them (ALGORITHM: sections 3 to 5 of the paper and its code). */
export const pretrain = defineCommand({
  name: "pretrain",
  summary: "train an encoder without labels so that it stays robust",
  description:
    "Adversarial contrastive pretraining: AdvCL (Fan et al. 2021) and its rivals. The defaults are the settings of the method's paper (those shown are AdvCL's; advcl config pretrain --method NAME prints all). Writes a run folder to --out; interrupted or killed, it goes on with --resume.",
  settings: {
    method: { type: "enum", values: methodNames, default: "advcl", help: "how it is trained", group: "Method" },
    highFrequency: { type: "boolean", default: true, help: "the high-frequency view", group: "Method" },
    radius: {
      type: "number",
      default: 8,
      min: 0.5,
      help: "radius of the removed frequencies, pixels",
      group: "Method",
    },
    clusters: {
      type: "integers",
      default: [2, 10, 50, 100, 500],
      min: 2,
      help: "K of each clustering head; needs --pseudo-labels",
      group: "Method",
    },
    clusterWeight: { type: "number", default: 0.2, min: 0, help: "weight of the clustering loss", group: "Method" },
    temperature: { type: "number", default: 0.5, min: 1e-3, help: "of the contrastive loss", group: "Method" },
    baseTemperature: {
      type: "number",
      default: 0.07,
      min: 1e-3,
      help: "SupCon's, which scales the loss",
      group: "Method",
    },
    teacher: { type: "path", help: "of deacl: run folder of a simclr network of the same shape", group: "Method" },
    tasks: {
      type: "strings",
      default: ["rotation", "jigsaw", "selfie"],
      help: `of ap-dpe: ${apDpeTasks.join(", ")}`,
      group: "Method",
    },
    attack: { type: "boolean", default: true, help: "the attack in training", group: "Attack" },
    attackSteps: { type: "integer", default: 5, min: 0, help: "PGD steps of the attack", group: "Attack" },
    eps: { type: "number", default: 8 / 255, min: 0, max: 1, help: "radius of the L-inf ball", group: "Attack" },
    stepSize: { type: "number", default: 2 / 255, min: 0, max: 1, help: "of a PGD step", group: "Attack" },
    depth: { type: "enum", values: depthNames, default: "18", help: "layers of the ResNet", group: "Network" },
    width: { type: "integer", default: 64, min: 1, max: 1024, help: "channels of the first stage", group: "Network" },
    stem: {
      type: "enum",
      values: stemNames,
      default: "auto",
      help: "auto: ImageNet's for images over 64",
      group: "Network",
    },
    dataset: { type: "enum", values: datasetNames, default: "cifar10", help: "images", group: "Data" },
    data: { type: "path", help: "folder or archive of the dataset, as downloaded", group: "Data" },
    split: { type: "enum", values: ["train", "unlabeled"], default: "train", help: "part to train on", group: "Data" },
    size: {
      type: "integer",
      default: 0,
      min: 0,
      max: 512,
      help: "resize images to this side; 0 leaves them",
      group: "Data",
    },
    limit: { type: "integer", default: 0, min: 0, help: "use only the first N images; 0 for all", group: "Data" },
    pseudoLabels: { type: "path", help: "safetensors or pickle with pseudo_train_K", group: "Data" },
    workers: {
      type: "integer",
      default: () => Math.max(1, Math.floor(availableCores() / 4)),
      min: 0,
      max: 256,
      help: "threads that augment; 0: none of their own",
      group: "Data",
      changeable: true,
    },
    batch: { type: "integer", default: 512, min: 2, help: "images a step", group: "Optimisation" },
    epochs: { type: "integer", default: 1000, min: 1, help: "passes over the images", group: "Optimisation" },
    lr: { type: "number", default: 0.5, min: 0, help: "base learning rate", group: "Optimisation" },
    optimizer: {
      type: "enum",
      values: optimizerNames,
      default: "sgd",
      help: "what moves weights",
      group: "Optimisation",
    },
    momentum: { type: "number", default: 0.9, min: 0, max: 1, help: "of SGD and LARS", group: "Optimisation" },
    weightDecay: { type: "number", default: 1e-4, min: 0, help: "on every parameter", group: "Optimisation" },
    ema: {
      type: "number",
      default: 0,
      min: 0,
      max: 1,
      help: "decay of a moving average of the weights, which is then evaluated; 0: none",
      group: "Optimisation",
    },
    schedule: {
      type: "enum",
      values: ["advcl", "cosine"],
      default: "advcl",
      help: "of the rate: advcl by epochs to lr/1000; cosine by steps to lr-end",
      group: "Optimisation",
    },
    lrEnd: { type: "number", default: 0, min: 0, help: "last rate of the schedule cosine", group: "Optimisation" },
    warmupEpochs: {
      type: "integer",
      default: -1,
      min: -1,
      help: "epochs of warm-up; -1: 10 for a batch over 256, else none",
      group: "Optimisation",
    },
    warmupFrom: { type: "number", default: 0.01, min: 0, help: "rate before the warm-up", group: "Optimisation" },
    target: { ...targetRow, group: "Run", changeable: true },
    stepsPerRun: {
      type: "integer",
      default: 1,
      min: 1,
      help: "steps in one run of the engine; more save a GPU the way of the weights over the bus",
      group: "Run",
      changeable: true,
    },
    knnEvery: {
      type: "integer",
      default: 10,
      min: 0,
      help: "epochs between kNN accuracies on frozen features; 0: never",
      group: "Run",
    },
    saveEvery: { type: "integer", default: 1, min: 1, help: "epochs between checkpoints", group: "Run" },
    resume: { type: "boolean", default: false, help: "go on with the run in --out", group: "Run" },
  },
  presets: {
    paper: {},
    quick: {
      dataset: "shapes",
      clusters: [],
      width: 8,
      batch: 16,
      limit: 1024,
      epochs: 4,
      lr: 0.02,
      attackSteps: 2,
      knnEvery: 1,
    },
  },
  complete: ({ method }) => (method === undefined ? {} : feeds[method].paper),
  run: async (settings, context) => {
    const { clusters, seed, batch, epochs } = settings;
    const method = methods[settings.method];
    const feed = feeds[settings.method];
    const tasks = apDpeTasks.filter((task) => settings.tasks.includes(task));
    if (tasks.length === 0 || tasks.length < settings.tasks.length)
      throw new RequestError(`tasks ${settings.tasks.join(", ")}: give some of ${apDpeTasks.join(", ")}`);
    const options = { name: settings.dataset, seed, ...(settings.data !== undefined && { data: settings.data }) };
    const sized = {
      ...(settings.size > 0 && { size: settings.size }),
      ...(settings.limit > 0 && { limit: settings.limit }),
    };
    const dataset = await loadDataset({ ...options, ...sized, split: settings.split });
    if (dataset.height !== dataset.width)
      throw new RequestError(`images are ${dataset.width}×${dataset.height}; give --size to make them square`);
    if (dataset.count < batch)
      throw new RequestError(`the dataset has ${dataset.count} images, fewer than a batch of ${batch}; lower --batch`);
    const pseudoLabels = await labelsFor(settings.pseudoLabels, clusters, dataset);
    const engine = await chooseEngine(settings);
    const size = dataset.height;
    const network: Network = {
      depth: Number(settings.depth) as Network["depth"],
      width: settings.width,
      stem: stemOf(settings.stem, size),
      size,
      branches: method.branches,
      evaluatedBranch: method.evaluatedBranch,
    };
    const step = method.build({
      ...settings,
      ...network,
      tasks,
      radius: settings.highFrequency ? settings.radius : 0,
    });
    const initial = await teacherFor(settings, network, context);
    const loader = createLoader({
      dataset,
      batch,
      seed,
      workers: settings.workers,
      inputs: (epoch) => feed.inputs(settings, epoch),
      dropLast: true,
      ...(pseudoLabels && { pseudoLabels }),
    });
    const run = await context.openRun();
    const judge = await knnJudge(engine, network, dataset, () =>
      loadDataset({ ...options, ...(settings.size > 0 && { size: settings.size }), split: "test" }),
    );
    context.log(
      `${method.title}: ResNet-${settings.depth} width ${settings.width}, ${dataset.count} images of ${size}×${size}, ` +
        `${loader.stepsPerEpoch} steps of ${batch} an epoch, on ${engine.provider} (${engine.reason})`,
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
        stepsPerRun: settings.stepsPerRun,
        record: { network: networkRecord(network), method: settings.method, clusters },
        rate: rateOf(settings, loader.stepsPerEpoch),
        ...(feed.scalars && {
          scalars: (epoch, at) =>
            feed.scalars?.(settings, epoch, (epoch - 1 + at / loader.stepsPerEpoch) / epochs) ?? {},
        }),
        ...(initial && { initial }),
        saveEvery: settings.saveEvery,
        evaluate: async (epoch, weights) =>
          settings.knnEvery > 0 && (epoch % settings.knnEvery === 0 || epoch === epochs) ? judge.accuracy(weights) : {},
      });
      if (trained.interrupted) {
        context.log(`stopped after step ${trained.steps}; go on with --resume`);
        return;
      }
      const figures = Object.entries(trained.metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
      context.print(`${run.path}: ${trained.steps} steps, ${figures.join(", ")}`);
      await writeReport(run.path);
      context.log(`the engine waited ${trained.waitSeconds.toFixed(1)} s for data in all`);
      context.result({
        out: run.path,
        steps: trained.steps,
        epochs,
        metrics: trained.metrics,
        waitSeconds: trained.waitSeconds,
      });
    } finally {
      await judge.release();
      await loader.close();
      await run.close();
    }
  },
});

/** What DeACL's student starts beside: the weights of its frozen teacher, as inputs of the step. */
const teacherFor = async (
  { method, teacher }: { readonly method: keyof typeof methods; readonly teacher: string | undefined },
  network: Network,
  context: Context,
): Promise<Map<string, Tensor> | undefined> => {
  if (methods[method].given === undefined) return undefined;
  if (teacher === undefined)
    throw new RequestError(`${method} needs --teacher RUN: a run of pretrain --method simclr with the same network`);
  const found = await loadRun(teacher, context.warn);
  const shape = ({ depth, width, stem, branches }: Network) => JSON.stringify([depth, width, stem, branches ?? null]);
  if (shape(found.network) !== shape(network) || !found.tensors.has("head_proj.fc3.weight"))
    throw new RequestError(
      `the teacher in ${teacher} is not a simclr network of depth ${network.depth} and width ${network.width}; give one, or set --depth and --width to its own`,
    );
  return teacherState(found.tensors);
};

const labelsFor = async (path: string | undefined, clusters: readonly number[], dataset: Dataset) => {
  if (clusters.length === 0) return undefined;
  if (path === undefined)
    throw new RequestError(
      `clusters ${clusters.join(", ")} need --pseudo-labels FILE (make one with advcl cluster); or train without them: --no-clusters`,
    );
  const labels = await readPseudoLabels(path);
  checkPseudoLabels(labels, dataset, clusters);
  return labels;
};

/** kNN accuracy of the test images in a bank of the training images; nothing where the dataset has no labels. */
const knnJudge = async (engine: Engine, network: Network, bank: Dataset, loadTest: () => Promise<Dataset>) => {
  if (bank.labels === undefined) return { accuracy: async () => ({}), release: async () => {} };
  const { labels } = bank;
  const queries = await loadTest();
  const extractor = await createExtractor(engine, network, network.evaluatedBranch);
  return {
    accuracy: async (weights: Parameters<typeof extractor.extract>[1]) => {
      const known = { features: await extractor.extract(bank, weights), labels };
      const asked = { features: await extractor.extract(queries, weights), labels: queries.labels ?? new Int32Array() };
      return { knnAccuracy: await knnAccuracy(engine, known, asked, bank.classes.length) };
    },
    release: () => extractor.release(),
  };
};
