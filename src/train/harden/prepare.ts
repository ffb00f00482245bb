/** The model that is hardened as it is, and the images, found to fit it. */
import { resolve } from "node:path";
import { type Dataset, loadDataset } from "../../data/dataset.ts";
import { RequestError } from "../../errors.ts";
import { type LoadedClassifier, loadClassifier } from "../../evaluate/classifier.ts";
import { checkWritable, isFolder } from "../../files/atomic.ts";
import { fileError } from "../../files/file-error.ts";
import type { Reporter } from "../../verbs/reporter.ts";
import type { HardenSettings } from "./settings.ts";

const loadOriginal = async (settings: HardenSettings, warn: Reporter["warn"]): Promise<LoadedClassifier> => {
  const { from, out } = settings;
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
  return original;
};

/** What a training starts from. */
export interface Prepared {
  readonly original: LoadedClassifier;
  /** Labelled images to train on. */
  readonly training: Dataset;
  /** Labelled images to measure on, in whole batches. */
  readonly test: Dataset;
  /** Images a step: the model's own number where it takes no other. */
  readonly batch: number;
}

/** @throws RequestError where model, images and `out` do not go together */
export const prepare = async (settings: HardenSettings, { warn }: Pick<Reporter, "warn">): Promise<Prepared> => {
  const { from, dataset: name, data, limit, testLimit, seed, testShare } = settings;
  const original = await loadOriginal(settings, warn);
  const [, height] = original.image;
  const images = { name, data, size: height, seed, testShare, warn };
  const training = await loadDataset({ ...images, split: "train", limit: limit || undefined });
  const tested = await loadDataset({ ...images, split: "test", limit: testLimit });
  const whole = tested.count - (tested.count % (original.fixedBatch ?? 1));
  const test = whole === tested.count ? tested : { ...tested, count: whole };
  for (const { labels, classes, split } of [training, test]) {
    if (labels === undefined) throw new RequestError(`${name} ${split} has no labels; choose a labelled dataset`);
    if (classes.length !== original.classes)
      throw new RequestError(
        `${name} has ${classes.length} classes but ${from} tells ${original.classes} apart; give its own images`,
      );
  }
  const batch = original.fixedBatch ?? settings.batch;
  if (batch !== settings.batch) warn(`${from} takes batches of ${batch} only: that is the batch of training`);
  if (training.count < batch)
    throw new RequestError(
      `there are ${training.count} training images, fewer than a batch of ${batch}; lower --batch`,
    );
  return { original, training, test, batch };
};
