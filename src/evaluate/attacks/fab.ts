/** FAB, targeted (Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020). */
import { predictionOf } from "../../models/prediction.ts";
import {
  type Answer,
  type Attack,
  type AttackedImage,
  type Attempt,
  attackRandom,
  isZero,
  rankedTargets,
} from "./attack.ts";
import type { Ball } from "./ball.ts";

export interface FabOptions {
  readonly iterations?: number;
  readonly targets?: number;
  readonly restarts?: number;
  readonly seed: number;
}

/** Largest weight of the step from the clean image, overshoot of the boundary, and how far a found point is drawn back. */
const ALPHA_MAX = 0.1;
const OVERSHOOT = 1.05;
const BACK = 0.9;

const product = (a: Float32Array, b: Float32Array): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};

/** Memory of planeProjection, which is called for every step of every class: arrays of its own are gigabytes of garbage. */
let [sizes, rooms] = [new Float64Array(0), new Float64Array(0)];

/**
 * The shortest step d with w·(x + d) = b and x + d in [0, 1], under the norm; where the box does not reach the plane, the
 * step to the corner nearest to it.
 *
 * With c = |w·x - b|, each pixel moves against sign(w·x - b)·w by min(λ·r, p), where p is its room to the box and r is 1
 * (L-inf) or |w| (L2). What that gains, Σ|w|·min(λ·r, p), is concave in λ and made of straight pieces, so Newton's method
 * from 0 climbs to the λ that gains c without overshooting it; a pixel that has reached the box stays there.
 *
 * @param d where to put the step
 */
export const planeProjection = (
  x: Float32Array,
  w: Float32Array,
  b: number,
  norm: Ball["norm"],
  d: Float32Array = new Float32Array(x.length),
): Float32Array => {
  const n = x.length;
  const linf = norm === "linf";
  const excess = product(w, x) - b;
  const side = excess < 0 ? -1 : 1;
  // Of the pixels that are not at the box yet: |w| and the room.
  if (sizes.length < n) [sizes, rooms] = [new Float64Array(n), new Float64Array(n)];
  let count = 0;
  let slope = 0;
  for (let i = 0; i < n; i++) {
    const towards = side * w[i]!;
    if (towards === 0) continue;
    const size = Math.abs(towards);
    sizes[count] = size;
    rooms[count++] = towards > 0 ? x[i]! : 1 - x[i]!;
    slope += linf ? size : size * size;
  }
  let missing = Math.abs(excess);
  let lambda = 0;
  for (;;) {
    lambda = count === 0 ? Number.POSITIVE_INFINITY : missing / slope;
    let kept = 0;
    slope = 0;
    for (let j = 0; j < count; j++) {
      const size = sizes[j]!;
      const room = rooms[j]!;
      if ((linf ? lambda : lambda * size) >= room) missing -= size * room;
      else {
        slope += linf ? size : size * size;
        sizes[kept] = size;
        rooms[kept++] = room;
      }
    }
    if (kept === count) break;
    count = kept;
  }
  for (let i = 0; i < n; i++) {
    const towards = side * w[i]!;
    if (towards === 0) {
      d[i] = 0;
      continue;
    }
    const far = linf ? lambda : lambda * Math.abs(towards);
    const room = towards > 0 ? x[i]! : 1 - x[i]!;
    const step = Math.min(far, room);
    d[i] = towards > 0 ? -step : step;
  }
  return d;
};

const lengthOf = (d: Float32Array, norm: Ball["norm"]): number => {
  let [most, squares] = [0, 0];
  for (let i = 0; i < d.length; i++) {
    most = Math.max(most, Math.abs(d[i]!));
    squares += d[i]! * d[i]!;
  }
  return norm === "linf" ? most : Math.sqrt(squares);
};

/** (1 - alpha) · (x + OVERSHOOT · d) + alpha · (clean + OVERSHOOT · e), in the box, put into `out`. */
const between = (
  x: Float32Array,
  d: Float32Array,
  clean: Float32Array,
  e: Float32Array,
  alpha: number,
  out: Float32Array,
): Float32Array => {
  for (let i = 0; i < out.length; i++) {
    const v = (1 - alpha) * (x[i]! + OVERSHOOT * d[i]!) + alpha * (clean[i]! + OVERSHOOT * e[i]!);
    out[i] = Math.min(Math.max(v, 0), 1);
  }
  return out;
};

/** Draws x back towards the clean image, in place. */
const drawBack = (x: Float32Array, clean: Float32Array): void => {
  for (let i = 0; i < x.length; i++) x[i] = clean[i]! + BACK * (x[i]! - clean[i]!);
};

/** One target: ends with the first point of the other class inside the ball. */
function* run(
  image: AttackedImage,
  ball: Ball,
  target: number,
  start: () => Float32Array,
  iterations: number,
): Attempt {
  const { clean, label } = image;
  let x = start();
  // Images by turns, and steps from them: no more than two images are looked at together.
  const [here, there, fromHere, fromClean] = Array.from({ length: 4 }, () => new Float32Array(clean.length)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  let answer: Answer = yield { kind: "margin", x, label, target };
  let queries = 1;
  const zeroGradient = isZero(answer.gradient);
  for (let k = 0; k < iterations; k++) {
    const { loss, gradient } = answer;
    // The plane where the linearised margin is 0.
    const b = product(gradient, x) - loss;
    planeProjection(x, gradient, b, ball.norm, fromHere);
    planeProjection(clean, gradient, b, ball.norm, fromClean);
    const [a1, a2] = [fromHere, fromClean].map((d) => Math.max(lengthOf(d, ball.norm), 1e-8)) as [number, number];
    const alpha = Math.min(a1 / (a1 + a2), ALPHA_MAX);
    x = between(x, fromHere, clean, fromClean, alpha, x === here ? there : here);
    // Most steps cross the boundary and are drawn back: the gradient is asked for where the next step starts.
    const { logits } = yield { kind: "logits", x };
    queries++;
    const prediction = predictionOf(logits);
    if (prediction !== label) {
      if (ball.distance(x, clean) <= ball.eps) return { broken: true, x, prediction, queries, zeroGradient };
      drawBack(x, clean);
    }
    if (k === iterations - 1) break;
    answer = yield { kind: "margin", x, label, target };
    queries++;
  }
  // What lies outside the ball is no adversarial image of this threat model.
  return { broken: false, x: clean, prediction: label, queries, zeroGradient };
}

export function* fabTargeted(image: AttackedImage, ball: Ball, options: FabOptions): Attack {
  const { iterations = 100, targets = 9, restarts = 1, seed } = options;
  const { logits } = yield { kind: "logits", x: image.clean };
  const prediction = predictionOf(logits);
  if (prediction !== image.label) return { broken: true, x: image.clean, prediction, queries: 1 };
  const classes = rankedTargets(logits, image.label).slice(0, targets);
  // The first run starts at the image itself, the others within half the ball.
  const startOf = (restart: number, i: number): Float32Array => {
    if (restart === 0) return image.clean;
    const away = ball.startOnSurface(image.clean, attackRandom(seed, image, "fab-t", restart * classes.length + i));
    return away.map((v, k) => (v + image.clean[k]!) / 2);
  };
  const attempts = classes.flatMap((target, i) =>
    Array.from({ length: restarts }, (_, restart) => run(image, ball, target, () => startOf(restart, i), iterations)),
  );
  return { attempts, queries: 1 };
}
