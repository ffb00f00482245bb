/** The step of an attack under L∞ among the ops of a graph, for targets that compute it in one pass. */
import type { Node, Value } from "../onnx/graph.ts";
import { add, max, min, mul, sign, sub } from "../ops/index.ts";
import { numberOf, operands } from "./operands.ts";

/** x + stepSize · sign(gradient), to within eps of the clean images and to [0, 1]. Images [N,C,H,W] float32. */
export interface PgdStep {
  readonly x: Value;
  readonly gradient: Value;
  readonly clean: Value;
  /** clean - eps and clean + eps, as the graph has them. */
  readonly least: Value;
  readonly most: Value;
  readonly stepSize: number;
  readonly eps: number;
}

/** The step that a Clip ends, as graphs/attacks writes it: clip(min(max(x + stepSize · sign(g), clean - eps), clean + eps), 0, 1). */
export const pgdStepOf = ({ inputs: [limited, low, high] }: Node): PgdStep | undefined => {
  const [above, most] = operands(limited, min);
  const [moved, least] = operands(above, max);
  const [x, scaled] = operands(moved, add);
  const [direction, stepSize] = operands(scaled, mul);
  const [gradient] = operands(direction, sign);
  const [clean, below] = operands(least, sub);
  const [same, beyond] = operands(most, add);
  const [step, eps] = [numberOf(stepSize), numberOf(below)];
  if (x === undefined || gradient === undefined || clean === undefined || clean !== same) return undefined;
  if (least === undefined || most === undefined) return undefined;
  if (step === undefined || eps === undefined || eps !== numberOf(beyond)) return undefined;
  if (numberOf(low) !== 0 || numberOf(high) !== 1) return undefined;
  const same4 = [gradient, clean].every((v) => v.shape.join() === x.shape.join() && v.dtype === "float32");
  return same4 && x.rank === 4 && x.dtype === "float32"
    ? { x, gradient, clean, least, most, stepSize: step, eps }
    : undefined;
};
