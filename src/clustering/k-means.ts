/**
 * k-means on ONNX Runtime (Lloyd 1982, started by greedy k-means++: Arthur and Vassilvitskii 2007). The products of points
 * and centres run on the engine; the sums of clusters are kept here, where only the points that changed cluster cost.
 */
import { nearestCentres, productsWith } from "../../graphs/steps/k-means.ts";
import { type Random, random } from "../data/random.ts";
import { RequestError, RunError } from "../errors.ts";
import { createSession, type Session, type SessionOptions } from "../runtime.ts";

/** Points moved so that their mean is 0: then float32 products keep the digits of distances. */
export interface Points {
  readonly count: number;
  readonly dim: number;
  /** [count, dim] less the mean. */
  readonly data: Float32Array;
  /** [dim] */
  readonly mean: Float64Array;
  /** [count] ‖x‖². */
  readonly squares: Float64Array;
}

/**
 * Points for `kMeans`. The data is moved in place, not copied.
 * @throws RunError where a number is not finite
 */
export const createPoints = (data: Float32Array, dim: number): Points => {
  const count = data.length / dim;
  const mean = new Float64Array(dim);
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i]))
      throw new RunError(`features: those of image ${Math.floor(i / dim)} are not finite; check the teacher`);
    mean[i % dim]! += data[i]!;
  }
  for (let j = 0; j < dim; j++) mean[j]! /= count;
  const squares = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const from = i * dim;
    let sum = 0;
    for (let j = 0; j < dim; j++) {
      data[from + j]! -= mean[j]!;
      sum += data[from + j]! ** 2;
    }
    squares[i] = sum;
  }
  return { count, dim, data, mean, squares };
};

export interface KMeansOptions {
  readonly k: number;
  readonly seed: number;
  /** Runs from different starts, of which the best is taken. */
  readonly restarts: number;
  /** Passes over the points at most, in each run. */
  readonly maxPasses: number;
  /** A run ends when its centres together move by less than this share of the points' mean variance, squared. */
  readonly tolerance: number;
  readonly engine?: Pick<SessionOptions, "provider" | "threads">;
  /** Called after each pass. */
  readonly onPass?: (pass: { readonly restart: number; readonly pass: number; readonly inertia: number }) => void;
  readonly signal?: AbortSignal;
}

export interface Clustering {
  readonly k: number;
  /** [count] cluster of each point, 0 to k-1. */
  readonly labels: Int32Array;
  /** [k, dim], where the data was before it was moved. */
  readonly centres: Float32Array;
  /** Points of each cluster. */
  readonly sizes: Int32Array;
  /** Sum of the squared distances of points to their centres. */
  readonly inertia: number;
  /** Passes of the best run. */
  readonly passes: number;
}

/** Points that go to the engine at once: few enough that their scores stay in a cache, enough to fill its threads. */
const chunk = 2048;

/** Feeds the points to a session chunk by chunk. */
const overChunks = async (
  { count, dim, data }: Points,
  session: Session,
  others: Readonly<Record<string, { shape: readonly number[]; data: Float32Array }>>,
  take: (results: Record<string, { data: unknown }>, first: number) => void,
): Promise<void> => {
  const fixed = Object.entries(others).map(([name, { shape, data: values }]) => [
    `input.${name}`,
    { dtype: "float32" as const, shape, data: values },
  ]);
  for (let first = 0; first < count; first += chunk) {
    const last = Math.min(first + chunk, count);
    const points = {
      dtype: "float32" as const,
      shape: [last - first, dim],
      data: data.subarray(first * dim, last * dim),
    };
    take(await session.run({ "input.points": points, ...Object.fromEntries(fixed) }), first);
  }
};

/** Writes the chosen points, row by row, to `out`. */
const copyRows = ({ dim, data }: Points, chosen: Int32Array, out: Float32Array): void => {
  for (const [row, point] of chosen.entries()) out.set(data.subarray(point * dim, (point + 1) * dim), row * dim);
};

/**
 * The first centres: one at random, then each of several candidates drawn by squared distance to the centres so far, of
 * which the one that lowers the sum of those distances most is kept.
 */
const plusPlus = async (
  points: Points,
  k: number,
  r: Random,
  session: Session,
  trials: number,
): Promise<Int32Array> => {
  const { count, dim, squares } = points;
  const chosen = new Int32Array(k);
  const closest = new Float64Array(count).fill(Infinity);
  const distances = Array.from({ length: trials }, () => new Float64Array(count));
  const centres = new Float32Array(trials * dim);
  const candidates = new Int32Array(trials).fill(r.int(count)); // the first centre stands for all candidates
  for (let c = 0; c < k; c++) {
    if (c > 0) draw(closest, r, candidates);
    copyRows(points, candidates, centres);
    const totals = new Float64Array(trials);
    await overChunks(points, session, { centres: { shape: [trials, dim], data: centres } }, (results, first) => {
      const products = results.products!.data as Float32Array;
      for (let i = 0, at = 0; at < products.length; i++)
        for (let t = 0; t < trials; t++, at++) {
          const d = squares[first + i]! + squares[candidates[t]!]! - 2 * products[at]!;
          const nearest = Math.min(closest[first + i]!, Math.max(d, 0));
          distances[t]![first + i] = nearest;
          totals[t]! += nearest;
        }
    });
    const best = totals.indexOf(totals.reduce((a, b) => Math.min(a, b)));
    chosen[c] = candidates[best]!;
    closest.set(distances[best]!);
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

/** Clusters as they form: labels, and the sums from which centres follow. */
class Forming {
  readonly labels: Int32Array;
  readonly sizes: Int32Array;
  private readonly sums: Float64Array;
  private readonly points: Points;
  private readonly k: number;

  constructor(points: Points, k: number) {
    this.points = points;
    this.k = k;
    this.labels = new Int32Array(points.count).fill(-1);
    this.sizes = new Int32Array(k);
    this.sums = new Float64Array(k * points.dim);
  }

  move(point: number, to: number): void {
    const { dim, data } = this.points;
    const { labels, sizes, sums } = this;
    const from = labels[point]!;
    const at = point * dim;
    const into = to * dim;
    if (from < 0) for (let j = 0; j < dim; j++) sums[into + j]! += data[at + j]!;
    else {
      const out = from * dim;
      for (let j = 0; j < dim; j++) {
        const x = data[at + j]!;
        sums[into + j]! += x;
        sums[out + j]! -= x;
      }
      sizes[from]!--;
    }
    sizes[to]!++;
    labels[point] = to;
  }

  /** Squared distance of each point to its cluster's centre in `centres`. */
  distances(centres: Float32Array): Float64Array {
    const { count, dim, data } = this.points;
    const distances = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const [at, c] = [i * dim, this.labels[i]! * dim];
      let sum = 0;
      for (let j = 0; j < dim; j++) sum += (data[at + j]! - centres[c + j]!) ** 2;
      distances[i] = sum;
    }
    return distances;
  }

  /** Gives each empty cluster one point, of those farthest from their centres. Returns how many it filled. */
  refill(centres: Float32Array): number {
    const empty = Array.from(this.sizes.keys()).filter((c) => this.sizes[c] === 0);
    if (empty.length === 0) return 0;
    const distances = this.distances(centres);
    const farthest = Array.from(distances.keys()).sort((a, b) => distances[b]! - distances[a]! || a - b);
    let next = 0;
    let filled = 0;
    for (const cluster of empty) {
      while (next < farthest.length && this.sizes[this.labels[farthest[next]!]!]! < 2) next++;
      const point = farthest[next++];
      if (point === undefined || distances[point] === 0) break; // fewer different points than clusters
      this.move(point, cluster);
      filled++;
    }
    return filled;
  }

  /** Writes the mean of each cluster over its centre. Returns the sum of the squared moves. */
  recentre(centres: Float32Array): number {
    const { dim } = this.points;
    let moved = 0;
    for (let c = 0; c < this.k; c++) {
      const size = this.sizes[c]!;
      if (size === 0) continue;
      for (let at = c * dim; at < (c + 1) * dim; at++) {
        const before = centres[at]!;
        centres[at] = this.sums[at]! / size;
        moved += (centres[at]! - before) ** 2;
      }
    }
    return moved;
  }
}

const squaresOf = (centres: Float32Array, dim: number): Float32Array =>
  Float32Array.from({ length: centres.length / dim }, (_, c) => {
    let sum = 0;
    for (let j = c * dim; j < (c + 1) * dim; j++) sum += centres[j]! ** 2;
    return sum;
  });

/** One run from given first centres. */
const lloyd = async (
  points: Points,
  first: Int32Array,
  session: Session,
  { k, maxPasses, tolerance, onPass, signal }: KMeansOptions,
  restart: number,
): Promise<Omit<Clustering, "k">> => {
  const { count, dim, mean, squares } = points;
  const centres = new Float32Array(k * dim);
  copyRows(points, first, centres);
  const total = squares.reduce((a, b) => a + b, 0);
  const still = (tolerance * total) / (count * dim);
  const forming = new Forming(points, k);
  const assign = async (): Promise<number> => {
    const others = {
      centres: { shape: [k, dim], data: centres },
      squares: { shape: [k], data: squaresOf(centres, dim) },
    };
    let changed = 0;
    await overChunks(points, session, others, (results, from) => {
      const nearest = results.nearest!.data as Int32Array;
      for (let i = 0; i < nearest.length; i++)
        if (nearest[i] !== forming.labels[from + i]) {
          forming.move(from + i, nearest[i]!);
          changed++;
        }
    });
    return changed;
  };
  let pass = 0;
  for (let settled = false; pass < maxPasses; ) {
    signal?.throwIfAborted();
    const changed = await assign();
    pass++;
    const filled = forming.refill(centres);
    // Once the centres rest, this pass has only brought the labels up to date with them.
    if ((changed === 0 || settled) && filled === 0) break;
    const moved = forming.recentre(centres);
    settled = moved <= still && filled === 0;
    if (onPass) {
      const sq = squaresOf(centres, dim);
      onPass({ restart, pass, inertia: total - sq.reduce((sum, s, c) => sum + s * forming.sizes[c]!, 0) });
    }
  }
  const inertia = forming.distances(centres).reduce((a, b) => a + b, 0);
  for (let at = 0; at < centres.length; at++) centres[at]! += mean[at % dim]!;
  return { labels: forming.labels, sizes: forming.sizes, centres, inertia, passes: pass };
};

/**
 * Clusters points into k. The same points, options and engine give the same labels.
 * @throws RequestError where there are fewer points than clusters
 */
export const kMeans = async (points: Points, options: KMeansOptions): Promise<Clustering> => {
  const { k, seed, restarts, engine = {} } = options;
  const { count, dim } = points;
  if (k > count) throw new RequestError(`${count} images cannot form ${k} clusters; give a smaller K.`);
  const trials = 2 + Math.floor(Math.log(k));
  const assigning = await createSession(nearestCentres({ dim, k }).bytes, engine);
  const drawing = await createSession(productsWith({ dim, k: trials }).bytes, engine);
  try {
    let best: Omit<Clustering, "k"> | undefined;
    for (let restart = 0; restart < restarts; restart++) {
      const first = await plusPlus(points, k, random(seed, restart, k, "k-means"), drawing, trials);
      const run = await lloyd(points, first, assigning, options, restart);
      if (best === undefined || run.inertia < best.inertia) best = run;
    }
    return { k, ...(best as Omit<Clustering, "k">) };
  } finally {
    await assigning.release();
    await drawing.release();
  }
};
