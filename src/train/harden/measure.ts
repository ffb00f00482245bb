/** How right a classifier is on clean and on attacked images. */
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

/** Accuracy of a classifier on test images, clean and attacked, in batches of `fixed` images where it takes no others. */
export const measure = async (
  build: Parameters<typeof attackImages>[0],
  test: Dataset,
  pgd: Pgd,
  seed: number,
  engine: Engine,
  fixed: number | undefined,
): Promise<Measured> => {
  const batching = { size: fixed, filled: fixed !== undefined };
  const attacked = await attackImages(build, test, pgd, seed, engine, batching);
  const share = async (images: readonly Tensor[]): Promise<number> => {
    const guesses = await classify(build, images, engine);
    return guesses.filter((guess, i) => guess === test.labels?.[i]).length / test.count;
  };
  return { accuracy: await share(cleanImages(test, batching)), robustAccuracy: await share(attacked) };
};
