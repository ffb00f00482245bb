import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { hardenStep } from "../../../graphs/steps/harden.ts";
import { type Dataset, datasetNames, loadDataset } from "../../data/dataset.ts";
import { createLoader } from "../../data/loader.ts";
import { normalStart, plainView, uniformStart, weakView } from "../../data/view.ts";
import { attackImages, classify, cleanImages, type Pgd } from "../../deploy/accuracy.ts";
import { chooseEngine, type Engine } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import { percent } from "../../evaluate/accuracy.ts";
import { loadClassifier } from "../../evaluate/classifier.ts";
import { checkWritable, isFolder, writeFileAtomic } from "../../files/atomic.ts";
import { fileError } from "../../files/file-error.ts";
import { trainable } from "../../train/harden-model.ts";
import { train } from "../../train/loop.ts";
import { patchWeights } from "../../train/patch.ts";
import { version } from "../../version.ts";
import { type Context, defineCommand } from "../command.ts";

export const harden = defineCommand({
  name: "harden",
  summary: "make an ONNX classifier from elsewhere robust on your own images",
  description:
    "Finetunes a classifier in an ONNX file by TRADES or adversarial training (PGD-AT) on labelled images, and writes it back as the same file: only the weights change; names, inputs, outputs and versions stay, so that it loads wherever it did. Weights are the float32 initializers of convolutions, linear layers, normalisations and what is added or multiplied after them; batch norms keep their statistics. An op that cannot be differentiated is refused by name before anything runs. Accuracy on test images, clean and under PGD, is printed before and after. Figures and checkpoints go to the folder OUT.run; interrupted or killed, it goes on with --resume.",
  settings: {
    from: {
      type: "path",
      required: true,
      help: "ONNX classifier of one float32 image [batch, channels, height, width]",
    },
    out: { type: "path", required: true, help: "ONNX file to write" },
    objective: { type: "enum", values: ["trades", "pgd-at"], default: "trades", help: "what is minimised" },
    beta: { type: "number", default: 1, min: 0, help: "weight of TRADES' closeness" },
    dataset: { type: "enum", values: datasetNames, default: "folder", help: "labelled images", group: "Data" },
    data: { type: "path", help: "folder or archive of the dataset", group: "Data" },
    limit: {
      type: "integer",
      default: 0,
      min: 0,
      help: "use only the first N training images; 0 for all",
      group: "Data",
    },
    testLimit: { type: "integer", default: 500, min: 1, help: "test images to measure on", group: "Data" },
    size: {
      type: "integer",
      min: 8,
      max: 1024,
      help: "side of the images, where the model leaves it open",
      group: "Data",
    },
    mean: { type: "numbers", help: "of each channel, which the model wants taken off pixels in [0, 1]", group: "Data" },
    std: { type: "numbers", help: "of each channel, which it wants them divided by then", group: "Data" },
    augment: { type: "boolean", default: true, help: "random crops and flips", group: "Data" },
    eps: { type: "number", default: 8 / 255, min: 0, max: 1, help: "radius of the L-inf ball", group: "Attack" },
    stepSize: { type: "number", default: 2 / 255, min: 0, max: 1, help: "of a PGD step", group: "Attack" },
    attackSteps: { type: "integer", default: 10, min: 1, help: "PGD steps in training", group: "Attack" },
    ramp: {
      type: "number",
      default: 0.5,
      min: 0,
      max: 1,
      help: "share of the training in which the attack grows from nothing to eps",
      group: "Attack",
    },
    testSteps: { type: "integer", default: 20, min: 1, help: "PGD steps on test images", group: "Attack" },
    epochs: { type: "integer", default: 10, min: 1, help: "passes over the images", group: "Optimisation" },
    batch: { type: "integer", default: 64, min: 1, help: "images a step", group: "Optimisation" },
    lr: {
      type: "number",
      default: 0.01,
      min: 0,
      help: "learning rate, falling to nothing along a cosine",
      group: "Optimisation",
    },
    clip: {
      type: "number",
      default: 3,
      min: 0,
      help: "largest norm of a step's gradients together, to which longer ones are scaled; 0 for none",
      group: "Optimisation",
    },
    momentum: { type: "number", default: 0.9, min: 0, max: 1, help: "of SGD", group: "Optimisation" },
    weightDecay: { type: "number", default: 2e-4, min: 0, help: "on every weight that moves", group: "Optimisation" },
    saveEvery: { type: "integer", default: 1, min: 1, help: "epochs between checkpoints", group: "Run" },
    resume: { type: "boolean", default: false, help: "go on with the run in OUT.run", group: "Run" },
  },
  runFolder: (out) => `${out}.run`,
  run: async (settings, context) => {
    const { from, out, eps, stepSize, seed, epochs, lr, beta } = settings;
    const { trained: training, test, original, batch } = await prepare(settings, context);
    const engine = await chooseEngine(settings);
    const bytes = await readFile(from);
    const model = trainable(bytes, from, batch, original.image, { mean: settings.mean, std: settings.std });
    // What cannot be written back is refused before anything is trained.
    patchWeights(bytes, model.weights, {});
    const objective = settings.objective === "trades" ? "trades" : "pgd";
    const step = hardenStep({ ...settings, objective, batch, image: original.image }, model.classify);
    const pgd = { eps, stepSize, steps: settings.testSteps };
    const count = Array.from(model.weights.values()).reduce((n, { data }) => n + data.length, 0);
    context.log(
      `${model.weights.size} weights (${count} numbers) of ${from} move; ${training.count} images, ${test.count} to measure on`,
    );
    const loader = createLoader({
      dataset: training,
      batch,
      seed,
      workers: 0,
      inputs: {
        clean: settings.augment ? weakView : plainView,
        label: { kind: "label" },
        start: objective === "trades" ? normalStart() : uniformStart(eps),
      },
      dropLast: true,
    });
    const run = await context.openRun();
    const { digest } = original;
    const resumed = run.resumed?.state as { readonly digest?: string; readonly before?: Measured } | undefined;
    if (resumed !== undefined && resumed.digest !== digest)
      throw new RequestError(`${from} is not the file that the run in ${run.path} began with; give that one`);
    const before = resumed?.before ?? (await measure(original.build, test, pgd, seed, engine, original.fixedBatch));
    context.print(`before: ${said(before)}`);
    const chance = chanceOf(test);
    if (before.accuracy <= chance)
      context.warn(
        `${from} is no better than chance on the test images (${percent(chance)}): check --mean and --std, and that the classes of ${settings.dataset} are in the model's order`,
      );
    const steps = epochs * loader.stepsPerEpoch;
    const trained = await train({
      step,
      engine,
      loader,
      run,
      context,
      seed,
      epochs,
      batch,
      record: { digest, before: { ...before } },
      rate: (epoch, at) => 0.5 * lr * (1 + Math.cos((Math.PI * ((epoch - 1) * loader.stepsPerEpoch + at)) / steps)),
      scalars: (epoch, at) => ({
        strength: Math.min(1, ((epoch - 1) * loader.stepsPerEpoch + at + 1) / Math.max(1, settings.ramp * steps)),
      }),
      initial: new Map(Array.from(model.weights, ([name, value]) => [`param.${name}`, value])),
      saveEvery: settings.saveEvery,
    }).finally(() => loader.close());
    if (trained.interrupted) {
      context.log(`stopped after step ${trained.steps}: ${out} is not written yet; go on with --resume`);
      return;
    }
    const { tensors: weights, steps: done } = trained;
    const moved = new Map(Array.from(model.weights.keys(), (name) => [name, weights.get(`param.${name}`) as Tensor]));
    const note = { objective: settings.objective, eps, steps: done, dataset: settings.dataset, advcl: version() };
    const hardened = patchWeights(bytes, moved, { hardened: JSON.stringify(note) });
    await writeFileAtomic(out, hardened);
    const after = await measure(
      (await loadClassifier(out, { ...settings, warn: context.warn })).build,
      test,
      pgd,
      seed,
      engine,
      original.fixedBatch,
    );
    context.print(`after:  ${said(after)}`);
    if (after.accuracy <= chance)
      context.warn(
        `${out} is no better than chance (${percent(chance)}): the training went too far; lower --lr (it was ${lr}) or --beta (${beta}), and harden ${from} again`,
      );
    else if (after.robustAccuracy <= before.robustAccuracy)
      context.warn(
        `${out} is not more robust than ${from}: give more --epochs or images, or raise --lr (it was ${lr}) or --beta (${beta})`,
      );
    context.print(`${out}: ${from} hardened by ${settings.objective}, ${done} steps`);
    context.result({ out, steps: done, weights: model.weights.size, before, after });
  },
});

interface Measured {
  readonly accuracy: number;
  readonly robustAccuracy: number;
}

const said = ({ accuracy, robustAccuracy }: Measured): string =>
  `accuracy ${percent(accuracy)}, under PGD ${percent(robustAccuracy)}`;

/** What a model that sees nothing may reach on these images: the share of their largest class, and two standard deviations. */
const chanceOf = ({ labels, count, classes }: Dataset): number => {
  const counts = new Array<number>(classes.length).fill(0);
  for (const label of labels?.subarray(0, count) ?? []) counts[label] = (counts[label] ?? 0) + 1;
  const share = Math.max(...counts) / count;
  return share + 2 * Math.sqrt((share * (1 - share)) / count);
};

const measure = async (
  build: Parameters<typeof attackImages>[0],
  test: Dataset,
  pgd: Pgd,
  seed: number,
  engine: Engine,
  size: number | undefined,
): Promise<Measured> => {
  const attacked = await attackImages(build, test, pgd, seed, engine, size);
  const share = async (images: readonly Tensor[]): Promise<number> => {
    const guesses = await classify(build, images, engine);
    return guesses.filter((guess, i) => guess === test.labels?.[i]).length / test.count;
  };
  return { accuracy: await share(cleanImages(test, size)), robustAccuracy: await share(attacked) };
};

/** The model as it is, and the images, found to fit it. */
const prepare = async (
  settings: {
    readonly from: string;
    readonly out: string;
    readonly dataset: (typeof datasetNames)[number];
    readonly data: string | undefined;
    readonly limit: number;
    readonly testLimit: number;
    readonly size: number | undefined;
    readonly mean: readonly number[] | undefined;
    readonly std: readonly number[] | undefined;
    readonly batch: number;
    readonly seed: number;
  },
  { warn }: Context,
) => {
  const { from, out, dataset: name, data, limit, testLimit, seed } = settings;
  if (await isFolder(from))
    throw new RequestError(`${from} is a folder and harden takes an ONNX file; write one with advcl export`);
  if (resolve(out) === resolve(from))
    throw new RequestError(`--out is the file of --from, which would be lost; give another`);
  await checkWritable(out);
  const original = await loadClassifier(from, { ...settings, warn }).catch((error: unknown) => {
    throw fileError(error, "read", from);
  });
  const [channels, height, width] = original.image;
  if (channels !== 3 || height !== width)
    throw new RequestError(`${from} takes ${channels}×${height}×${width} images; only square RGB ones are trained on`);
  const images = { name, data, size: height, seed };
  const trained = await loadDataset({ ...images, split: "train", limit: limit || undefined });
  const tested = await loadDataset({ ...images, split: "test", limit: testLimit });
  const whole = tested.count - (tested.count % (original.fixedBatch ?? 1));
  const test = whole === tested.count ? tested : { ...tested, count: whole };
  for (const { labels, classes, split } of [trained, test]) {
    if (labels === undefined) throw new RequestError(`${name} ${split} has no labels; choose a labelled dataset`);
    if (classes.length !== original.classes)
      throw new RequestError(
        `${name} has ${classes.length} classes but ${from} tells ${original.classes} apart; give its own images`,
      );
  }
  const batch = original.fixedBatch ?? settings.batch;
  if (batch !== settings.batch) warn(`${from} takes batches of ${batch} only: that is the batch of training`);
  if (trained.count < batch)
    throw new RequestError(`there are ${trained.count} training images, fewer than a batch of ${batch}; lower --batch`);
  return { original, trained, test, batch };
};
