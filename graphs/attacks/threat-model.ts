/** What an attacker may do to an image. Pixels are in [0, 1]. */
import type { Value } from "../onnx/graph.ts";
import type { Operand } from "../ops/define.ts";
import { add, clip, div, max, min, mul, reduceSum, sign, sqrt, sub, valuesOf } from "../ops/index.ts";

export type Norm = "linf" | "l2";

export interface ThreatModel {
  /** Of the norm, in which messages and caches tell it from others: `linf`, `l2`, or a name of your own. */
  readonly name: string;
  readonly eps: Operand;
  /** The steepest direction of a gradient under the norm. */
  direction(gradient: Value): Value;
  /** Onto the ball around the clean images, then into the box [0, 1]. */
  project(x: Value, clean: Value): Value;
}

/** Each pixel moves by at most eps. */
export const linf = (eps: Operand): ThreatModel => ({
  name: "linf",
  eps,
  direction: sign,
  project: (x, clean) => clip(min(max(x, sub(clean, eps)), add(clean, eps)), 0, 1),
});

/** Keeps a division by a length of 0 finite. */
const TINY = 1e-12;

/** Euclidean length of each image [B,…] as [B,1,…]. */
const lengths = (x: Value): Value =>
  sqrt(reduceSum(mul(x, x), { axes: x.shape.flatMap((_, i) => (i === 0 ? [] : [i])), keepdims: 1 }));

/** The whole image moves by at most eps, in Euclidean length. */
export const l2 = (eps: number): ThreatModel => ({
  name: "l2",
  eps,
  direction: (gradient) => div(gradient, max(lengths(gradient), TINY)),
  // The clip only moves pixels towards the clean image, which is in the box.
  project: (x, clean) => {
    const moved = sub(x, clean);
    return clip(add(clean, mul(moved, div(valuesOf([eps, moved])[0] as Value, max(lengths(moved), eps)))), 0, 1);
  },
});

export const threatModel = (norm: Norm, eps: number): ThreatModel => (norm === "linf" ? linf(eps) : l2(eps));
