/** Programs that an evaluation runs: logits, a loss with its input gradient for each image, PGD as a whole. */
import { type PgdOptions, pgd } from "../attacks/pgd.ts";
import { maybeGrad } from "../autodiff/grad.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { dlr, margin, targetedDlr } from "../losses/margin.ts";
import { input, type Value } from "../onnx/graph.ts";
import { finiteGradient, identity, mul, reduceSum } from "../ops/index.ts";
import { feedName } from "./names.ts";

/** Images [B,C,H,W] in [0, 1] to logits [B,classes]. */
export type Classifier = (x: Value) => Value;

/** Losses that an attacker raises, [B] each. `targets` are read by the targeted ones only. */
export const attackLosses = {
  ce: (logits: Value, labels: Value): Value => crossEntropy(logits, labels, "none"),
  dlr,
  "dlr-targeted": targetedDlr,
  margin,
} as const;
export type AttackLoss = keyof typeof attackLosses;
/** A loss of logits [B,classes] and labels int32 [B], one number an image: [B]. */
export type ImageLoss = (logits: Value, labels: Value) => Value;
export const isTargeted = (loss: string): boolean => loss === "dlr-targeted" || loss === "margin";

/** Shape [C,H,W] of one image, and how many there are. */
export interface ImageBatch {
  readonly batch: number;
  readonly image: readonly [channels: number, height: number, width: number];
}

const images = ({ batch, image }: ImageBatch, name: string): Value =>
  input(feedName(name), { dtype: "float32", shape: [batch, ...image] });
const classes = ({ batch }: ImageBatch, name: string): Value =>
  input(feedName(name), { dtype: "int32", shape: [batch] });

/** `input.x` to `logits`. */
export const logitsStep = (classifier: Classifier, size: ImageBatch): Record<"logits", Value> => ({
  logits: identity(classifier(images(size, "x"))),
});

/** `input.x`, `input.label` and for a targeted loss `input.target` to `logits`, `loss` [B] and `gradient`, each image's own. */
export const gradientStep = (
  classifier: Classifier,
  size: ImageBatch,
  loss: AttackLoss | ImageLoss,
): Record<"logits" | "loss" | "gradient", Value> => {
  const x = images(size, "x");
  const logits = classifier(x);
  const label = classes(size, "label");
  const each =
    typeof loss === "function"
      ? loss(logits, label)
      : attackLosses[loss](logits, label, isTargeted(loss) ? classes(size, "target") : label);
  return { logits: identity(logits), loss: identity(each), gradient: inputGradient(each, x) ?? mul(x, 0) };
};

/** Each image's gradient; undefined where the pixels reach the loss only through ops without one, such as Round. */
const inputGradient = (each: Value, x: Value): Value | undefined => maybeGrad(reduceSum(each, { keepdims: 0 }), [x])[0];

/**
 * `input.clean`, `input.start`, `input.label` to the attacked images `x` and their `logits`: PGD on the cross-entropy. What of
 * a gradient is not finite counts as 0.
 */
export const pgdStep = (
  classifier: Classifier,
  size: ImageBatch,
  options: PgdOptions,
): Record<"x" | "logits", Value> => {
  const label = classes(size, "label");
  const loss = (x: Value) => attackLosses.ce(classifier(finiteGradient(x)), label);
  const start = images(size, "start");
  // Without a gradient no step leads anywhere.
  const steps = inputGradient(loss(start), start) === undefined ? 0 : options.steps;
  const x = pgd({ ...options, steps }, loss)(images(size, "clean"), start);
  return { x, logits: identity(classifier(x)) };
};
