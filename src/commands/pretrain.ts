import { headName } from "../../graphs/nn/head.ts";
import { advclBranches, pretrainStep } from "../../graphs/steps/pretrain.ts";
import { defineCommand } from "../command.ts";
import { availableCores } from "../cores.ts";
import { type Dataset, datasetNames, loadDataset } from "../data/dataset.ts";
import { createLoader, type LoaderInputs } from "../data/loader.ts";
import { checkPseudoLabels, readPseudoLabels } from "../data/pseudo-labels.ts";
import { advclView, uniformStart, weakView } from "../data/view.ts";
import { chooseEngine, type Engine, targetNames } from "../engine.ts";
import { RequestError } from "../errors.ts";
import { createExtractor, knnAccuracy } from "../knn.ts";
import { depthNames, type Network, networkRecord, stemNames, stemOf } from "../network.ts";
import { cosineRate } from "../schedule.ts";
import { train } from "../train.ts";

/** Settings of the method as the paper has them (ALGORITHM: sections 3 to 5 of the paper and its code). */
export const pretrain = defineCommand({
  name: "pretrain",
  summary: "train an encoder without labels so that it stays robust",
  description:
    "Adversarial contrastive pretraining (AdvCL, Fan et al. 2021). The defaults are the paper's settings. Writes a run folder to --out; interrupted or killed, it goes on with --resume.",
  settings: {
    method: { type: "enum", values: ["advcl"], default: "advcl", help: "what is trained", group: "Method" },
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
    momentum: { type: "number", default: 0.9, min: 0, max: 1, help: "of SGD", group: "Optimisation" },
    weightDecay: { type: "number", default: 1e-4, min: 0, help: "on every parameter", group: "Optimisation" },
    warmupEpochs: {
      type: "integer",
      default: -1,
      min: -1,
      help: "epochs of warm-up; -1: 10 for a batch over 256, else none",
      group: "Optimisation",
    },
    target: {
      type: "enum",
      values: targetNames,
      help: "lowering of the graph; left out, that of the provider",
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
      batch: 64,
      limit: 1024,
      epochs: 5,
      lr: 0.1,
      attackSteps: 2,
      knnEvery: 1,
    },
  },
  run: async (settings, context) => {
    const { clusters, seed, batch, epochs } = settings;
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
      branches: advclBranches,
      evaluatedBranch: "pgd",
    };
    const step = pretrainStep({
      ...settings,
      ...network,
      radius: settings.highFrequency ? settings.radius : 0,
    });
    const inputs: LoaderInputs = {
      clean: weakView,
      view1: advclView,
      view2: advclView,
      ...(settings.attack && { start_cl: uniformStart(settings.eps) }),
      ...(settings.attack && clusters.length > 0 && { start_ce: uniformStart(settings.eps) }),
      ...Object.fromEntries(clusters.map((k) => [`label_${headName(k).slice(3)}`, { kind: "pseudo-label", k }])),
    };
    const loader = createLoader({
      dataset,
      batch,
      seed,
      workers: settings.workers,
      inputs,
      dropLast: true,
      ...(pseudoLabels && { pseudoLabels }),
    });
    const run = await context.openRun();
    const judge = await knnJudge(engine, network, dataset, () =>
      loadDataset({ ...options, ...(settings.size > 0 && { size: settings.size }), split: "test" }),
    );
    const warmupEpochs = settings.warmupEpochs >= 0 ? settings.warmupEpochs : batch > 256 ? 10 : 0;
    const schedule = { ...settings, stepsPerEpoch: loader.stepsPerEpoch, warmupEpochs, warmupFrom: 0.01 };
    context.log(
      `AdvCL: ResNet-${settings.depth} width ${settings.width}, ${dataset.count} images of ${size}×${size}, ` +
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
        record: { network: networkRecord(network), method: settings.method, clusters },
        rate: (epoch, at) => cosineRate(schedule, epoch, at),
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
