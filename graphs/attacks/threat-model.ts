/** What an attacker may do to an image. Pixels are in [0, 1]. */
import type { Value } from "../onnx/graph.ts";
import { add, clip, max, min, sign, sub } from "../ops/index.ts";

export interface ThreatModel {
  readonly name: "linf" | "l2";
  readonly eps: number;
  /** The steepest direction of a gradient under the norm. */
  direction(gradient: Value): Value;
  /** Onto the ball around the clean images, then into the box [0, 1]. */
  project(x: Value, clean: Value): Value;
}

/** Each pixel moves by at most eps. */
export const linf = (eps: number): ThreatModel => ({
  name: "linf",
  eps,
  direction: sign,
  project: (x, clean) => clip(min(max(x, sub(clean, eps)), add(clean, eps)), 0, 1),
});
