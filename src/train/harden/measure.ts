/** How right a classifier is on clean and on attacked images, and how right one would be that sees nothing. */
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import type { Dataset } from "../../data/dataset.ts";
import { attackImages, classify, cleanImages, type Pgd } from "../../deploy/accuracy.ts";
import type { Engine } from "../../engine/engine.ts";

/** Shares of the test images, from 0 to 1. */
export interface Measured {
  readonly accuracy: number;
  /** Under PGD. */
  readonly robustAccuracy: number;
}

/** What a model that sees nothing may reach on these images: the share of their largest class, and two standard deviations. */
export const chanceOf = ({ labels, count, classes }: Dataset): number => {
  const counts = new Array<number>(classes.length).fill(0);
  for (const label of labels?.subarray(0, count) ?? []) counts[label] = (counts[label] ?? 0) + 1;
  const share = Math.max(...counts) / count;
  return share + 2 * Math.sqrt((share * (1 - share)) / count);
};

/** Accuracy of a classifier on test images, `size` at a time, clean and attacked. */
export const measure = async (
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
