export interface CosineOptions {
  readonly lr: number;
  readonly epochs: number;
  readonly stepsPerEpoch: number;
  /** Epochs of linear warm-up; 0 for none. */
  readonly warmupEpochs: number;
  /** Learning rate at the very start of the warm-up. */
  readonly warmupFrom: number;
}

/**
 * AdvCL's learning rate (its code follows SupContrast): a cosine over epochs, counted from 1, from lr to lr/1000; during
 * the warm-up linear per step from `warmupFrom` to the cosine's value at its end.
 *
 * @param epoch from 1
 * @param step within the epoch, from 0
 */
export const cosineRate = (
  { lr, epochs, stepsPerEpoch, warmupEpochs, warmupFrom }: CosineOptions,
  epoch: number,
  step: number,
): number => {
  const last = lr * 0.001;
  const cosine = (at: number) => last + ((lr - last) * (1 + Math.cos((Math.PI * at) / epochs))) / 2;
  if (epoch > warmupEpochs) return cosine(epoch);
  const share = (step + (epoch - 1) * stepsPerEpoch) / (warmupEpochs * stepsPerEpoch);
  return warmupFrom + share * (cosine(warmupEpochs) - warmupFrom);
};

/**
 * The learning rate of finetuning: a tenth from each milestone on.
 *
 * @param milestones epochs counted from 0
 * @param epoch from 1
 */
export const stepRate = (lr: number, milestones: readonly number[], epoch: number): number =>
  lr / 10 ** milestones.filter((milestone) => milestone <= epoch - 1).length;

/** Milestones where the papers' 25 epochs of finetuning have them, of fewer or more epochs. */
export const scaledMilestones = (epochs: number): number[] => [15, 20].map((at) => Math.round((at * epochs) / 25));

/**
 * The learning rate of SimCLR's and ACL's code: linear per step from `warmupFrom` to lr, then a cosine per step to `lrEnd`.
 *
 * @param epoch from 1
 * @param step within the epoch, from 0
 */
export const warmCosineRate = (
  { lr, lrEnd, epochs, stepsPerEpoch, warmupEpochs, warmupFrom }: CosineOptions & { readonly lrEnd: number },
  epoch: number,
  step: number,
): number => {
  const at = step + (epoch - 1) * stepsPerEpoch;
  const warm = warmupEpochs * stepsPerEpoch;
  if (at < warm) return warmupFrom + ((lr - warmupFrom) * at) / warm;
  return lrEnd + ((lr - lrEnd) * (1 + Math.cos((Math.PI * (at - warm)) / (epochs * stepsPerEpoch - warm)))) / 2;
};
