/** Projected gradient descent (Madry et al., ICLR 2018) on a loss that the attacker raises; FGSM is its first step. */
import { grad } from "../autodiff/grad.ts";
import { named, type Value } from "../onnx/graph.ts";
import type { Operand } from "../ops/define.ts";
import { add, loop, mul, reduceSum, stopGradient } from "../ops/index.ts";
import { linf, type ThreatModel } from "./threat-model.ts";

/** The attack of a training: PGD under L-infinity. Pixels are in [0, 1]. */
export interface AttackOptions {
  /** 0 takes the start as the attacked images. */
  readonly attackSteps: number;
  /** Radius of the ball around the clean image. */
  readonly eps: number;
  readonly stepSize: number;
}

export interface PgdOptions {
  readonly threat: ThreatModel;
  readonly steps: number;
  readonly stepSize: Operand;
}

/** PGD as the options of a training say it. */
export const linfPgd = ({ attackSteps, eps, stepSize }: AttackOptions): PgdOptions => ({
  threat: linf(eps),
  steps: attackSteps,
  stepSize,
});

/** One step: project(x + stepSize · direction(gradient)). */
export const pgdUpdate = (
  { threat, stepSize }: Pick<PgdOptions, "threat" | "stepSize">,
  gradient: Value,
  x: Value,
  clean: Value,
): Value => threat.project(add(x, mul(threat.direction(gradient), stepSize)), clean);

/** How the steps are built, where that is not a plain Loop. */
export interface PgdHooks {
  /** Repeats a step: a Loop in which the loss may move state is `Store.loop`. */
  readonly loop?: typeof loop;
  /** Sees the first step, which then stands before the Loop. */
  readonly first?: (step: { readonly gradient: Value; readonly next: Value }) => void;
}

/**
 * The steps of the attack: from `start`, `steps` times x ← project(x + stepSize · direction(∂loss/∂x)).
 * @param loss of images [B,…] one number an image ([B]) or in all; it is summed, so images do not touch each other
 * @returns the attacked images, through which no gradient flows
 */
export const pgdSteps =
  (options: PgdOptions, loss: (x: Value) => Value, { loop: repeat = loop, first }: PgdHooks = {}) =>
  (clean: Value, start: Value): Value => {
    const step = (x: Value) => {
      const each = loss(x);
      const [gradient] = grad(each.rank === 0 ? each : reduceSum(each, { keepdims: 0 }), [x]) as [Value];
      return { gradient, next: pgdUpdate(options, gradient, x, clean) };
    };
    let [x, left] = [start, options.steps];
    if (first && left > 0) {
      const begun = step(x);
      first(begun);
      [x, left] = [begun.next, left - 1];
    }
    if (left > 0) [x] = repeat(left, [x], (_, [at]) => [step(at as Value).next]) as [Value];
    return stopGradient(x);
  };

/**
 * Projected gradient descent (Madry et al. 2018): from `start`, steps of `stepSize` up the loss in the threat model's steepest
 * direction, each projected onto the ball around `clean` and into [0, 1]. `loss` takes images and gives a scalar, or one number for
 * each image. No gradient flows through the result; its nodes are named `attack`.
 */
export const pgd =
  (options: PgdOptions, loss: (x: Value) => Value) =>
  (clean: Value, start: Value): Value =>
    named("attack", () => pgdSteps(options, loss)(clean, start));
