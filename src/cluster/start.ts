/** The first centres of k-means: greedy k-means++ (Arthur and Vassilvitskii 2007). */
import type { Random } from "../data/random.ts";
import type { Session } from "../engine/session.ts";
import { chunk, copyRows, float32, type Points, squaredDistance } from "./points.ts";

/**
 * The first centres: one at random, then each of several candidates drawn by squared distance to the centres so far, of
 * which the one that lowers the sum of those distances most is kept.
 */
export const plusPlus = async (
  points: Points,
  k: number,
  r: Random,
  session: Session,
  trials: number,
): Promise<Int32Array> => {
  const { count, dim, data, squares } = points;
  const chosen = new Int32Array(k);
  const closest = new Float64Array(count).fill(Infinity);
  const distances = new Float64Array(count * trials);
  const centres = new Float32Array(trials * dim);
  const candidates = new Int32Array(trials).fill(r.int(count)); // the first centre stands for all candidates
  for (let c = 0; c < k; c++) {
    if (c > 0) draw(closest, r, candidates);
    copyRows(points, candidates, centres);
    const own = Float64Array.from(candidates, (point) => squares[point]!);
    const totals = new Float64Array(trials);
    for (let from = 0; from < count; from += chunk) {
      const to = Math.min(from + chunk, count);
      const results = await session.run({
        "input.points": float32([to - from, dim], data.subarray(from * dim, to * dim)),
        "input.centres": float32([trials, dim], centres),
      });
      const products = results.products!.data as Float32Array;
      for (let i = from, at = 0; i < to; i++, at += trials) {
        const [square, far] = [squares[i]!, closest[i]!];
        for (let t = 0; t < trials; t++) {
          const d = Math.min(Math.max(square + own[t]! - 2 * products[at + t]!, 0), far);
          distances[i * trials + t] = d;
          totals[t]! += d;
        }
      }
    }
    const best = totals.indexOf(totals.reduce((a, b) => Math.min(a, b)));
    chosen[c] = candidates[best]!;
    for (let i = 0; i < count; i++) closest[i] = distances[i * trials + best]!;
    closest[chosen[c]!] = 0;
  }
  return chosen;
};

/** Draws points with probability in proportion to `weights`; any point where all weights are 0. */
const draw = (weights: Float64Array, r: Random, out: Int32Array): void => {
  let total = 0;
  for (const w of weights) total += w;
  const aims = Array.from(out, () => r.uniform() * total);
  const order = aims.map((_, t) => t).sort((a, b) => aims[a]! - aims[b]!);
  let next = 0;
  let sum = 0;
  for (let i = 0; i < weights.length && next < order.length; i++) {
    sum += weights[i]!;
    while (next < order.length && sum > aims[order[next]!]!) out[order[next++]!] = i;
  }
  for (; next < order.length; next++) out[order[next]!] = r.int(weights.length);
};

/** The chosen points in an order in which those of a group lie close: one that was left and those nearest to it. */
export const byNearness = (points: Points, chosen: Int32Array, size: number): Int32Array => {
  const order = chosen.slice();
  for (let start = 0; start < order.length; start += size) {
    const seed = order[start]!;
    const far = new Map(Array.from(order, (point) => [point, squaredDistance(points, point, points.data, seed)]));
    order.subarray(start).sort((a, b) => far.get(a)! - far.get(b)! || a - b);
  }
  return order;
};
