/** The model that is hardened as it is, and the images, found to fit it. */
import { resolve } from "node:path";
import { checkDataset, loadDataset } from "../../data/dataset.ts";
import type { Collective } from "../../distributed/collective.ts";
import { shareOf } from "../../distributed/ranks.ts";
import { RequestError } from "../../errors.ts";
import { checkWritable, isFolder } from "../../files/atomic.ts";
import { type LoadedClassifier, type OpenedClassifier, openClassifier } from "../../models/classifier.ts";
import { type Fitted, fitDataset, fitLabels } from "../../models/fit.ts";
import type { Reporter } from "../../verbs/reporter.ts";
import type { HardenSettings } from "./settings.ts";

const openOriginal = async (
  settings: HardenSettings,
  { rank }: Collective,
  warn: Reporter["warn"],
): Promise<OpenedClassifier> => {
  const { from, out } = settings;
  if (await isFolder(from))
    throw new RequestError(`${from} is a folder and harden takes an ONNX file; write one with advcl export`);
  if (resolve(out) === resolve(from))
    throw new RequestError(`--out is the file of --from, which would be lost; give another`);
  if (rank === 0) await checkWritable(out);
  return openClassifier(from, { ...settings, warn });
};

type LabelledImages = Fitted["dataset"];

/** What a training starts from. */
export interface Prepared {
  readonly original: LoadedClassifier;
  /** Labelled images to train on. */
  readonly training: LabelledImages;
  /** Labelled images to measure on. */
  readonly test: LabelledImages;
  /** Images a step, over all processes. */
  readonly batch: number;
  /** Those of this process: the model's own number where it takes no other. */
  readonly share: number;
}

/** @throws RequestError where model, images and `out` do not go together */
export const prepare = async (
  settings: HardenSettings,
  ranks: Collective,
  { warn }: Pick<Reporter, "warn">,
): Promise<Prepared> => {
  const { from, dataset: name, data, limit, testLimit, seed, testShare, skipBroken, matchClasses } = settings;
  const opened = await openOriginal(settings, ranks, warn);
  const images = { name, data, size: opened.image[1], seed, testShare, skipBroken, warn };
  await checkDataset({ ...images, split: "test" });
  const loaded = await loadDataset({ ...images, split: "train", limit: limit || undefined });
  const { classifier: original, dataset: training } = fitDataset(opened, loaded, { matchClasses, warn });
  const tested = await loadDataset({ ...images, split: "test", limit: testLimit });
  const test = fitLabels(original, tested, { matchClasses, warn: () => {} });
  if (loaded.classes.length !== original.classes)
    throw new RequestError(
      `${name} has ${loaded.classes.length} classes but ${from} tells ${original.classes} apart, and would forget the others; give images of all`,
    );
  const { fixedBatch } = original;
  const batch = fixedBatch === undefined ? settings.batch : fixedBatch * ranks.size;
  if (batch !== settings.batch)
    warn(
      `${from} takes batches of ${fixedBatch} only: that is the batch of training${ranks.size > 1 ? ` of each rank, and ${batch} that of all` : ""}`,
    );
  if (training.count < batch)
    throw new RequestError(
      `there are ${training.count} training images, fewer than a batch of ${batch}; lower --batch`,
    );
  return { original, training, test, batch, share: shareOf(batch, ranks, 1) };
};
