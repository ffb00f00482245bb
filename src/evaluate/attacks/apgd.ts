/** Auto-PGD (Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020). */

import { predictionOf } from "../../models/prediction.ts";
import {
  type Answer,
  type Attack,
  type AttackedImage,
  type AttackResult,
  type Attempt,
  type Attempts,
  attackRandom,
  isZero,
  type LossKind,
  type Query,
  rankedTargets,
} from "./attack.ts";
import type { Ball } from "./ball.ts";

export interface ApgdOptions {
  readonly iterations?: number;
  readonly restarts?: number;
  readonly seed: number;
}

/** Weight of the projected step against the momentum, from the second step on. */
const STEP_WEIGHT = 0.75;
/** A stretch where fewer than this share of the steps raised the loss halves the step. */
const RISING = 0.75;

/** The steps after which the step size is judged: p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), as counts. */
const checkpoints = (iterations: number): Set<number> => {
  let length = Math.max(Math.floor(0.22 * iterations), 1);
  const shortest = Math.max(Math.floor(0.06 * iterations), 1);
  const shrink = Math.max(Math.floor(0.03 * iterations), 1);
  const points = new Set<number>();
  for (let at = length; at <= iterations; at += length) {
    points.add(at);
    length = Math.max(length - shrink, shortest);
  }
  return points;
};

/** x + weight · (straight - x) + (1 - weight) · (x - before), in the memory of `straight`. */
const withMomentum = (x: Float32Array, straight: Float32Array, before: Float32Array, weight: number): Float32Array => {
  for (let i = 0; i < x.length; i++) {
    const from = x[i]!;
    straight[i] = from + weight * (straight[i]! - from) + (1 - weight) * (from - before[i]!);
  }
  return straight;
};

/** One run from a random start; ends with the first image that is taken for another class. */
function* run(
  image: AttackedImage,
  ball: Ball,
  kind: LossKind,
  target: number,
  iterations: number,
  stream: [seed: number, name: string, round: number],
): Attempt {
  const { clean, label } = image;
  const ask = (x: Float32Array): Query => ({ kind, x, label, target });
  const points = checkpoints(iterations);
  let x = ball.startOnSurface(clean, attackRandom(stream[0], image, stream[1], stream[2]));
  let before = x;
  let answer: Answer = yield ask(x);
  let queries = 1;
  const zeroGradient = isZero(answer.gradient);
  const done = (found: Float32Array, { logits }: Answer): AttackResult => {
    const prediction = predictionOf(logits);
    return { broken: prediction !== label, x: found, prediction, queries, zeroGradient };
  };
  if (predictionOf(answer.logits) !== label) return done(x, answer);
  let best = { x, answer };
  let size = 2 * ball.eps;
  let rises = 0;
  let since = 0;
  let bestAtCheck = answer.loss;
  let halvedAtCheck = true;
  for (let k = 1; k <= iterations; k++) {
    const straight = ball.project(ball.step(x, answer.gradient, size), clean);
    const next = ball.project(withMomentum(x, straight, before, k === 1 ? 1 : STEP_WEIGHT), clean);
    const loss = answer.loss;
    [before, x] = [x, next];
    answer = yield ask(x);
    queries++;
    if (predictionOf(answer.logits) !== label) return done(x, answer);
    since++;
    if (answer.loss > loss) rises++;
    if (answer.loss > best.answer.loss) best = { x, answer };
    if (!points.has(k)) continue;
    const stalled = rises <= RISING * since;
    const stuck: boolean = !halvedAtCheck && bestAtCheck >= best.answer.loss;
    halvedAtCheck = stalled || stuck;
    if (halvedAtCheck) {
      size /= 2;
      ({ x, answer } = best);
    }
    bestAtCheck = best.answer.loss;
    [rises, since] = [0, 0];
  }
  return done(best.x, best.answer);
}

/** Losses that need no target. */
export type UntargetedLoss = Exclude<LossKind, "dlr-targeted" | "margin">;

/** Untargeted: the cross-entropy, the DLR loss, or one's own. */
export const apgd = (image: AttackedImage, ball: Ball, loss: UntargetedLoss, options: ApgdOptions): Attempts => {
  const { iterations = 100, restarts = 1, seed } = options;
  const attempts = Array.from({ length: restarts }, (_, round) =>
    run(image, ball, loss, image.label, iterations, [seed, `apgd-${loss}`, round]),
  );
  return { attempts, queries: 0 };
};

/** Targeted DLR loss at the classes that come next after the label, the likeliest first. */
export function* apgdTargeted(image: AttackedImage, ball: Ball, options: ApgdOptions & { targets?: number }): Attack {
  const { iterations = 100, restarts = 1, targets = 9, seed } = options;
  const { logits } = yield { kind: "logits", x: image.clean };
  const prediction = predictionOf(logits);
  if (prediction !== image.label) return { broken: true, x: image.clean, prediction, queries: 1 };
  const classes = rankedTargets(logits, image.label).slice(0, targets);
  const attempts = Array.from({ length: restarts * classes.length }, (_, round) => {
    const target = classes[round % classes.length]!;
    return run(image, ball, "dlr-targeted", target, iterations, [seed, "apgd-t", round]);
  });
  return { attempts, queries: 1 };
}
