/** Square Attack (Andriushchenko, Croce, Flammarion & Hein, ECCV 2020): random search, logits only. */

import type { Random } from "../../data/random.ts";
import { predictionOf } from "../../models/prediction.ts";
import { type Answer, type AttackedImage, type Attempt, type Attempts, attackRandom } from "./attack.ts";
import type { Ball } from "./ball.ts";

export interface SquareOptions {
  readonly queries?: number;
  /** Share of the pixels that the first squares change. */
  readonly share?: number;
  readonly restarts?: number;
  readonly seed: number;
}

/** Halvings of the share, by the iteration of a budget of 10,000. */
const HALVINGS = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000] as const;

const shareAt = (iteration: number, queries: number, first: number): number => {
  const scaled = Math.floor((iteration / queries) * 10_000);
  return first / 2 ** HALVINGS.filter((limit) => scaled > limit).length;
};

/** By how much the label leads the best other class; the search lowers it. */
const leadOf = (logits: Float32Array, label: number): number => {
  let other = Number.NEGATIVE_INFINITY;
  for (let k = 0; k < logits.length; k++) if (k !== label) other = Math.max(other, logits[k]!);
  return logits[label]! - other;
};

const sign = (random: Random): number => (random.int(2) === 0 ? -1 : 1);

/** Makes an image to try from the best one so far, in given memory. */
type Proposal = (best: Float32Array, side: number, random: Random, x: Float32Array) => Float32Array;

/** Squares of one colour at ±eps; the start is in vertical stripes. */
const linfSearch = ({ clean, shape: [c, h, w] }: AttackedImage, ball: Ball) => {
  const start = (random: Random): Float32Array => {
    const x = new Float32Array(clean.length);
    for (let channel = 0; channel < c; channel++)
      for (let column = 0; column < w; column++) {
        const change = ball.eps * sign(random);
        for (let row = 0; row < h; row++) {
          const i = (channel * h + row) * w + column;
          x[i] = clean[i]! + change;
        }
      }
    return ball.project(x, clean);
  };
  const propose: Proposal = (best, side, random, x) => {
    x.set(best);
    const [top, left] = [random.int(h - side + 1), random.int(w - side + 1)];
    for (let channel = 0; channel < c; channel++) {
      const change = 2 * ball.eps * sign(random);
      for (let row = top; row < top + side; row++)
        for (let column = left; column < left + side; column++) {
          const i = (channel * h + row) * w + column;
          const at = clean[i]!;
          const moved = Math.min(Math.max(best[i]! + change, at - ball.eps), at + ball.eps);
          x[i] = Math.min(Math.max(moved, 0), 1);
        }
    }
    return x;
  };
  return { start, propose, smallest: 1, odd: false };
};

/** The length of a vector, summed in order. */
const lengthOf = (values: Float64Array): number => {
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += values[i]! ** 2;
  return Math.sqrt(squares);
};

/** Growing rectangles around the centre, the n-th adding 1/n²: half of the L2 attack's pattern. */
const bump = (rows: number, columns: number): Float64Array => {
  const out = new Float64Array(rows * columns);
  let [top, left] = [Math.floor(rows / 2), Math.floor(columns / 2)];
  const rounds = Math.max(top, left) + 1;
  for (let n = 0; n < rounds; n++) {
    for (let r = Math.max(top, 0); r < Math.min(top + 2 * n + 1, rows); r++)
      for (let k = Math.max(left, 0); k < Math.min(left + 2 * n + 1, columns); k++)
        out[r * columns + k] = out[r * columns + k]! + 1 / (n + 1) ** 2;
    top--;
    left--;
  }
  const length = lengthOf(out);
  return out.map((v) => v / length);
};

const makePattern = (side: number, across: boolean): Float64Array => {
  const half = Math.floor(side / 2);
  const [upper, lower] = [bump(half, side), bump(side - half, side)];
  const out = new Float64Array(side * side);
  out.set(upper, 0);
  lower.forEach((v, i) => {
    out[half * side + i] = -v;
  });
  const length = lengthOf(out);
  return out.map((_, i) => out[across ? (i % side) * side + Math.floor(i / side) : i]! / length);
};

const patterns = new Map<number, Float64Array>();
/** The pattern η of a window, of unit length: a bump up beside a bump down, along a random axis. */
const pattern = (side: number, random: Random): Float64Array => {
  const across = random.int(2);
  const key = 2 * side + across;
  const known = patterns.get(key) ?? makePattern(side, across === 1);
  patterns.set(key, known);
  return known;
};

/** Moves the perturbation's length from one window to another, within the ball. */
const l2Search = ({ clean, shape: [c, h, w] }: AttackedImage, ball: Ball) => {
  /** clean + eps · (direction), clipped. */
  const along = (direction: Float64Array, x: Float32Array): Float32Array => {
    const length = Math.max(lengthOf(direction), 1e-12);
    for (let i = 0; i < x.length; i++) x[i] = Math.min(Math.max(clean[i]! + (ball.eps * direction[i]!) / length, 0), 1);
    return x;
  };
  const start = (random: Random): Float32Array => {
    const side = Math.max(Math.floor(Math.min(h, w) / 5), 2);
    const direction = new Float64Array(clean.length);
    for (let top = Math.floor((h % side) / 2); top + side <= h; top += side)
      for (let left = Math.floor((w % side) / 2); left + side <= w; left += side) {
        const eta = pattern(side, random);
        for (let channel = 0; channel < c; channel++) {
          const s = sign(random);
          for (let k = 0; k < side * side; k++)
            direction[(channel * h + top + Math.floor(k / side)) * w + left + (k % side)] = s * eta[k]!;
        }
      }
    return along(direction, new Float32Array(clean.length));
  };
  /** The perturbation of the best image so far, from which many proposals are made. */
  let known: Float32Array | undefined;
  const [perturbation, delta] = [new Float64Array(clean.length), new Float64Array(clean.length)];
  let length = 0;
  const perturbationOf = (best: Float32Array): void => {
    if (best === known) return;
    [known, length] = [best, 0];
    for (let i = 0; i < clean.length; i++) {
      perturbation[i] = best[i]! - clean[i]!;
      length += perturbation[i]! ** 2;
    }
  };
  const propose: Proposal = (best, side, random, x) => {
    perturbationOf(best);
    delta.set(perturbation);
    const unused = Math.max(ball.eps ** 2 - length, 0);
    const [top, left] = [random.int(h - side + 1), random.int(w - side + 1)];
    const [top2, left2] = [random.int(h - side + 1), random.int(w - side + 1)];
    const eta = pattern(side, random);
    const fresh = new Float64Array(side * side);
    for (let channel = 0; channel < c; channel++) {
      const [here, there] = [(channel * h + top) * w + left, (channel * h + top2) * w + left2];
      let [first, both] = [0, 0];
      for (let row = 0; row < side; row++)
        for (let column = 0; column < side; column++) {
          const square = delta[here + row * w + column]! ** 2;
          first += square;
          both += square;
          const [down, right] = [top2 + row - top, left2 + column - left];
          if (down < 0 || down >= side || right < 0 || right >= side) both += delta[there + row * w + column]! ** 2;
        }
      const norm = 1e-12 + Math.sqrt(first);
      const s = sign(random);
      for (let row = 0; row < side; row++)
        for (let column = 0; column < side; column++) {
          const k = row * side + column;
          fresh[k] = s * eta[k]! + delta[here + row * w + column]! / norm;
        }
      const scale = 1e-12 + lengthOf(fresh);
      const available = Math.sqrt(both + unused / c);
      for (let row = 0; row < side; row++) delta.fill(0, there + row * w, there + row * w + side);
      for (let row = 0; row < side; row++)
        for (let column = 0; column < side; column++)
          delta[here + row * w + column] = (fresh[row * side + column]! / scale) * available;
    }
    return along(delta, x);
  };
  return { start, propose, smallest: 3, odd: true };
};

/** @param randomAt random numbers of the start, 0, and of the k-th proposal, k + 1 */
function* run(
  image: AttackedImage,
  ball: Ball,
  options: Required<Omit<SquareOptions, "seed" | "restarts">>,
  randomAt: (k: number) => Random,
): Attempt {
  const { label, shape } = image;
  const [, h, w] = shape;
  const search = (ball.norm === "linf" ? linfSearch : l2Search)(image, ball);
  let best = search.start(randomAt(0));
  const { logits } = yield { kind: "logits", x: best };
  let queries = 1;
  let lead = leadOf(logits, label);
  let prediction = predictionOf(logits);
  /** Memory of proposals that were not taken, for later ones: they are thousands. */
  const rejected: Float32Array[] = [];
  const proposals = function* (k: number): Generator<Float32Array, void> {
    for (; k < options.queries; k++) {
      let side = Math.max(Math.round(Math.sqrt(shareAt(k, options.queries, options.share) * h * w)), search.smallest);
      if (search.odd && side % 2 === 0) side++;
      yield search.propose(
        best,
        Math.min(side, h, w),
        randomAt(k + 1),
        rejected.pop() ?? new Float32Array(best.length),
      );
    }
  };
  // Most proposals are not taken, so that those after them are asked ahead.
  let tried: { x: Float32Array; logits: Float32Array }[] = [];
  for (let k = 0; k < options.queries && prediction === label; k++) {
    if (tried.length === 0) {
      const ahead = proposals(k);
      const x = ahead.next().value as Float32Array;
      const answer: Answer = yield { kind: "logits", x, ahead };
      tried = [{ x, logits: answer.logits }, ...(answer.ahead ?? [])];
    }
    const { x, logits } = tried.shift() as { x: Float32Array; logits: Float32Array };
    queries++;
    const next = leadOf(logits, label);
    if (next >= lead && predictionOf(logits) === label) {
      rejected.push(x);
      continue;
    }
    [best, lead, prediction] = [x, next, predictionOf(logits)];
    tried = [];
  }
  return { broken: prediction !== label, x: best, prediction, queries };
}

export const squareAttack = (image: AttackedImage, ball: Ball, options: SquareOptions): Attempts => {
  const { queries = 5000, share = 0.8, restarts = 1, seed } = options;
  const attempts = Array.from({ length: restarts }, (_, round) =>
    run(image, ball, { queries, share }, (k) => attackRandom(seed, image, `square/${round}`, k)),
  );
  return { attempts, queries: 0 };
};
