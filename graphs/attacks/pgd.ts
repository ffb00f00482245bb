/** Projected gradient descent (Madry et al., ICLR 2018) on a loss that the attacker raises; FGSM is its first step. */
import { grad } from "../autodiff/grad.ts";
import { named, type Value } from "../onnx/graph.ts";
import type { Operand } from "../ops/define.ts";
import { add, loop, mul, reduceSum, stopGradient } from "../ops/index.ts";
import type { ThreatModel } from "./threat-model.ts";

export interface PgdOptions {
  readonly threat: ThreatModel;
  readonly steps: number;
  readonly stepSize: Operand;
}

/**
 * The attack as a Loop: from `start`, `steps` times x ← project(x + stepSize · direction(∂loss/∂x)).
 * @param loss of images [B,…] one number an image ([B]) or in all; it is summed, so images do not touch each other
 * @returns the attacked images, through which no gradient flows
 */
export const pgd =
  ({ threat, steps, stepSize }: PgdOptions, loss: (x: Value) => Value) =>
  (clean: Value, start: Value): Value =>
    named("attack", () => {
      if (steps === 0) return stopGradient(start);
      const [x] = loop(steps, [start], (_, [at]) => {
        const images = at as Value;
        const each = loss(images);
        const [gradient] = grad(each.rank === 0 ? each : reduceSum(each, { keepdims: 0 }), [images]) as [Value];
        return [threat.project(add(images, mul(threat.direction(gradient), stepSize)), clean)];
      }) as [Value];
      return stopGradient(x);
    });
