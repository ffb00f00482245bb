/**
 * Adversarial finetuning of a classifier that came from elsewhere. Its batch norms stay in evaluation mode, as files hold
 * them; weights move by SGD.
 */
import { type AttackOptions, pgd } from "../attacks/pgd.ts";
import { linf } from "../attacks/threat-model.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { klDivergence, trades } from "../losses/trades.ts";
import { Store } from "../nn/scope.ts";
import type { Value } from "../onnx/graph.ts";
import { add, clip, mul } from "../ops/index.ts";
import { type SgdOptions, sgd } from "../optim/sgd.ts";
import { accuracy } from "./accuracy.ts";
import { metrics } from "./names.ts";
import { type Step, update } from "./step.ts";

export interface HardenOptions extends AttackOptions, SgdOptions {
  readonly objective: "pgd" | "trades";
  /** Weight of the closeness in TRADES. */
  readonly beta: number;
  /** The largest norm of all gradients together; 0 or left out, they are as they are. */
  readonly clip?: number;
  readonly batch: number;
  readonly image: readonly [channels: number, height: number, width: number];
}

/**
 * Builds the step. Inputs: `clean`, `label` [B], `start` (noise), `lr`, and `strength` in [0, 1], by which the attack is scaled: its
 * start, step size and eps.
 * @param classify builds the classifier over images; its weights are parameters of the store
 */
export const hardenStep = (options: HardenOptions, classify: (store: Store) => (x: Value) => Value): Step => {
  const { objective, beta, batch, image, attackSteps, eps, stepSize } = options;
  const store = new Store();
  const logits = classify(store);
  const type = { dtype: "float32", shape: [batch, ...image] } as const;
  const clean = store.input("clean", type);
  const label = store.input("label", { dtype: "int32", shape: [batch] });
  const strength = store.input("strength", { dtype: "float32", shape: [] });
  const start = clip(add(clean, mul(store.input("start", type), strength)), 0, 1);
  const natural = logits(clean);
  const loss = (x: Value): Value =>
    objective === "trades" ? klDivergence(natural, logits(x), "none") : crossEntropy(logits(x), label, "none");
  const attack = { threat: linf(mul(strength, eps)), steps: attackSteps, stepSize: mul(strength, stepSize) };
  const attacked = logits(pgd(attack, loss)(clean, start));
  const measured =
    objective === "trades" ? trades(natural, attacked, label, beta) : { loss: crossEntropy(attacked, label) };
  const { outputs, gradients } = update(store, measured.loss, sgd(options), undefined, options.clip);
  const figures = {
    ...measured,
    trainAccuracy: accuracy(natural, label),
    trainRobustAccuracy: accuracy(attacked, label),
  };
  return { store, outputs: { ...outputs, ...metrics(figures) }, gradients };
};
