/** How right a classifier is on clean and on attacked images. */
import type { Dataset } from "../../data/dataset.ts";
import { attackImages, classify, cleanImages, type Pgd } from "../../deploy/accuracy.ts";
import type { Engine } from "../../engine/engine.ts";
import { RequestError } from "../../errors.ts";
import { NO_CLASS } from "../../models/prediction.ts";

/** Shares of the test images, from 0 to 1. */
export interface Measured {
  readonly accuracy: number;
  /** Under PGD. */
  readonly robustAccuracy: number;
}

/**
 * Accuracy of a classifier on test images, clean and attacked, in batches of `fixed` images where it takes no others.
 * @throws RequestError where clean logits are not finite
 */
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
  const share = (guesses: readonly number[]): number =>
    guesses.filter((guess, i) => guess === test.labels?.[i]).length / test.count;
  const clean = (await classify(build, cleanImages(test, batching), engine)).slice(0, test.count);
  const without = clean.filter((guess) => guess === NO_CLASS).length;
  if (without > 0)
    throw new RequestError(
      `the model's logits are not finite for ${without} of ${test.count} test images, and neither would its loss be; mend it first (a division by 0 or a logarithm of 0), or give --mean and --std as it wants them`,
    );
  return { accuracy: share(clean), robustAccuracy: share(await classify(build, attacked, engine)) };
};
