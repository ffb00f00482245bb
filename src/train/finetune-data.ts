/** The images of finetuning: those to train on, to hold out and to test on. */
import { checkDataset, type Dataset, loadDataset } from "../data/dataset.ts";
import { checkPseudoLabels, readPseudoLabels } from "../data/pseudo-labels.ts";
import { random } from "../data/random.ts";
import { subset } from "../data/subset.ts";
import { RequestError } from "../errors.ts";
import type { Finetuning } from "./finetune-settings.ts";

/** Images with their clusters as labels, where these are to be learned. */
const relabelled = async (
  dataset: Dataset,
  { pseudoLabels, clusters, evaluate }: Pick<Finetuning, "pseudoLabels" | "clusters" | "evaluate">,
  warn: (message: string) => void,
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
  checkPseudoLabels(file, dataset, [k], warn);
  const labels = file.labels(k);
  return {
    ...dataset,
    labels: Int32Array.from(dataset.index, (place) => labels[place]!),
    classes: Array.from({ length: k }, (_, cluster) => `cluster ${cluster}`),
  };
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

export interface FinetuningImages {
  /** Size and classes of all of them. */
  readonly name: string;
  readonly side: number;
  readonly classes: readonly string[];
  readonly training: Dataset;
  /** Held out to choose the epoch by. */
  readonly validation: Dataset | undefined;
  /** None where pseudo-labels are learned. */
  readonly test: Dataset | undefined;
}

/** Loads the images, `size` pixels a side; undefined leaves them as they are. */
export const loadFinetuningImages = async (
  settings: Finetuning,
  size: number | undefined,
  warn: (message: string) => void,
): Promise<FinetuningImages> => {
  const { dataset: name, data, seed, split, limit, testLimit, batch, testShare, skipBroken } = settings;
  const images = { name, data, size, seed, testShare, skipBroken, warn };
  // A missing test split is refused before the training images are decoded.
  if (settings.pseudoLabels === undefined) await checkDataset({ ...images, split: "test" });
  const loaded = await loadDataset({ ...images, split, limit: limit || undefined });
  const all = await relabelled(loaded, settings, warn);
  const { training, validation } = holdOut(all, settings.validation, seed);
  if (training.count < batch)
    throw new RequestError(
      `there are ${training.count} images to train on, fewer than a batch of ${batch}; lower --batch`,
    );
  const test =
    settings.pseudoLabels === undefined
      ? await loadDataset({ ...images, split: "test", limit: testLimit || undefined })
      : undefined;
  checkDatasets(all, test);
  return { name: all.name, side: all.height, classes: all.classes, training, validation, test };
};
