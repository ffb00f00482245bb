/**
 * A-InfoNCE (Yu et al., ECCV 2022, "Adversarial contrastive learning via asymmetric InfoNCE") on AdvCL: the adversarial view
 * is a positive of less worth (IP), and negatives that lie near weigh more (HN). The attack raises AdvCL's own loss.
 */
import { asymmetricContrastive } from "../losses/asymmetric.ts";
import { Scope } from "../nn/scope.ts";
import { named, scalar, type Value } from "../onnx/graph.ts";
import { add, div, greater, less, max, mul, reduceMean, reduceSum, sqrt, sub, where } from "../ops/index.ts";
import { type AdvclOptions, advclBranches, advclInputs, advclPaper, advclStep } from "./advcl.ts";
import { advclTraining, defineMethod, type StepOptions, type StepParts } from "./method.ts";

export interface AInfoNceOptions extends AdvclOptions {
  /** Weight of the inferior pair, the adversarial view and `view1`; 0 leaves it an ordinary pair. */
  readonly inferiorWeight: number;
  /** Whether near negatives weigh more. */
  readonly hardNegatives: boolean;
  /** Share of the negatives that are taken to be positives, where near ones weigh more. */
  readonly tau: number;
}

/** Distances that shares begin and end at, and the shares there. */
const FLOOR = 0.4;
const [LEAST, LARGEST] = [0.2, 0.5];

/** Keeps the quotient finite where the mean distance is the floor. */
const TINY = 1e-6;

/**
 * Share d of the clean view as anchor. In the first epochs (input `settled` 0) it is 0.2, and the mean distance m between the
 * features of clean and attacked images is summed up; after them, with a the mean of these: 0.2 where m > a, 0.5 where
 * m < 0.4, else 0.2 + 0.3·(a-m)/(a-0.4). Distances are Euclidean, of the encoder's features through branch `normal`, each batch
 * by its own statistics, which stay out of the running ones.
 */
const inferiorShare = ({ store, encoder }: StepParts, clean: Value, attacked: Value) =>
  named("inferior_share", () => {
    const settled = store.input("settled", { dtype: "float32", shape: [] });
    const features = (x: Value) => encoder(new Scope(store, { branches: ["normal"], statistics: "keep" }), x);
    const moved = sub(features(clean), features(attacked));
    const distance = store.meanOfAll(
      reduceMean(sqrt(reduceSum(mul(moved, moved), { axes: [1], keepdims: 0 })), { keepdims: 0 }),
    );
    const start = { kind: "constant", value: 0 } as const;
    const [sum, count] = ["asymmetry.sum", "asymmetry.count"].map((path) =>
      store.state(path, { dtype: "float32", shape: [] }, start),
    ) as [Value, Value];
    const counted = sub(scalar(1), settled);
    store.update("asymmetry.sum", add(sum, mul(distance, counted)));
    store.update("asymmetry.count", add(count, counted));
    const mean = div(sum, max(count, 1));
    const between = add(mul(div(sub(mean, distance), max(sub(mean, FLOOR), TINY)), LARGEST - LEAST), LEAST);
    const known = where(greater(distance, mean), LEAST, where(less(distance, FLOOR), LARGEST, between));
    return { share: where(greater(settled, 0), known, LEAST), distance };
  });

const build = (options: StepOptions & AInfoNceOptions) => {
  const { inferiorWeight, hardNegatives, tau } = options;
  return advclStep(options, (parts, clean, attacked) => {
    const inferior = inferiorWeight > 0 ? inferiorShare(parts, clean, attacked) : undefined;
    return {
      contrast: (z, views) =>
        asymmetricContrastive(z, views, {
          ...options,
          tau: hardNegatives ? tau : undefined,
          inferior: inferior && { views: [0, 1], share: inferior.share, weight: inferiorWeight },
        }),
      figures: inferior ? { share: inferior.share, distance: inferior.distance } : {},
    };
  });
};

/** The first 30 of 400 epochs only measure distances. */
const measuring = (epochs: number): number => Math.round((epochs * 30) / 400);

const variant = (
  name: string,
  form: string,
  lr: number,
  own: Pick<AInfoNceOptions, "inferiorWeight" | "hardNegatives" | "tau">,
) =>
  defineMethod<AInfoNceOptions>({
    name,
    title: `A-InfoNCE, ${form} (Yu et al. 2022)`,
    branches: advclBranches,
    evaluatedBranch: "pgd",
    own: { ...advclPaper, ...own },
    training: { ...advclTraining, epochs: 400, lr },
    inputs: advclInputs,
    scalars: ({ inferiorWeight, epochs }, epoch): Readonly<Record<string, number>> =>
      inferiorWeight > 0 ? { settled: Number(epoch > measuring(epochs)) } : {},
    build,
  });

export const aInfoNce = variant("a-infonce", "inferior positives and hard negatives", 2, {
  inferiorWeight: 0.7,
  hardNegatives: true,
  tau: 0.1,
});
export const aInfoNceIp = variant("a-infonce-ip", "inferior positives", 1, {
  inferiorWeight: 1.2,
  hardNegatives: false,
  tau: 0.12,
});
export const aInfoNceHn = variant("a-infonce-hn", "hard negatives", 1.2, {
  inferiorWeight: 0,
  hardNegatives: true,
  tau: 0.12,
});
