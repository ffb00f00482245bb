/**
 * k-means on ONNX Runtime (Lloyd 1982, started by greedy k-means++: Arthur and Vassilvitskii 2007). The products of points
 * and centres run on the engine, but those that bounds show to change nothing (Ding et al., "Yinyang k-means", ICML 2015):
 * centres form groups, and a point meets a group only where its nearest centre may have come to lie in it. The engine
 * proposes, exact distances decide. The sums of clusters are kept here, where only points that changed cluster cost.
 */
import { nearestCentres, productsWith } from "../../graphs/steps/k-means.ts";
import { type Random, random } from "../data/random.ts";
import { createSession, type Session, type SessionOptions } from "../engine/session.ts";
import { RequestError, RunError } from "../errors.ts";

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

/** Centres of a group: few enough that bounds spare work, enough that a product with them outweighs copying the points. */
const groupSize = 64;

/** Share of the pairs of points and groups from which one product with all centres is faster than one for each group. */
const most = 0.5;

const float32 = (shape: readonly number[], data: Float32Array) => ({ dtype: "float32" as const, shape, data });

/** Writes the chosen points, row by row, to `out`. */
const copyRows = ({ dim, data }: Points, chosen: Int32Array, out: Float32Array): void => {
  chosen.forEach((point, row) => {
    out.set(data.subarray(point * dim, (point + 1) * dim), row * dim);
  });
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
        const [square, most] = [squares[i]!, closest[i]!];
        for (let t = 0; t < trials; t++) {
          const d = Math.min(Math.max(square + own[t]! - 2 * products[at + t]!, 0), most);
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
    return Float64Array.from(this.labels, (c, i) => squaredDistance(this.points, i, centres, c));
  }

  /** Gives each empty cluster one point, of those farthest from their centres. Returns these points. */
  refill(centres: Float32Array): number[] {
    const empty = Array.from(this.sizes.keys()).filter((c) => this.sizes[c] === 0);
    if (empty.length === 0) return [];
    const distances = this.distances(centres);
    const farthest = Array.from(distances.keys()).sort((a, b) => distances[b]! - distances[a]! || a - b);
    let next = 0;
    const moved: number[] = [];
    for (const cluster of empty) {
      while (next < farthest.length && this.sizes[this.labels[farthest[next]!]!]! < 2) next++;
      const point = farthest[next++];
      if (point === undefined || distances[point] === 0) break; // fewer different points than clusters
      this.move(point, cluster);
      moved.push(point);
    }
    return moved;
  }

  /** Writes the mean of each cluster over its centre, and to `moves` [k] how far that is. */
  recentre(centres: Float32Array, moves: Float64Array): void {
    const { dim } = this.points;
    for (let c = 0; c < this.k; c++) {
      const size = this.sizes[c]!;
      let moved = 0;
      for (let at = c * dim; size > 0 && at < (c + 1) * dim; at++) {
        const before = centres[at]!;
        centres[at] = this.sums[at]! / size;
        moved += (centres[at]! - before) ** 2;
      }
      moves[c] = Math.sqrt(moved);
    }
  }
}

/** Squared distance of a point and a centre. Four sums, as each addition waits for the one before it. */
const squaredDistance = ({ dim, data }: Points, point: number, centres: Float32Array, centre: number): number => {
  let [a, b, c, d] = [0, 0, 0, 0];
  let [x, y] = [point * dim, centre * dim];
  for (const end = x + dim - 3; x < end; x += 4, y += 4) {
    a += (data[x]! - centres[y]!) ** 2;
    b += (data[x + 1]! - centres[y + 1]!) ** 2;
    c += (data[x + 2]! - centres[y + 2]!) ** 2;
    d += (data[x + 3]! - centres[y + 3]!) ** 2;
  }
  for (const end = (point + 1) * dim; x < end; x++, y++) a += (data[x]! - centres[y]!) ** 2;
  return a + b + c + d;
};

const squaresOf = (centres: Float32Array, dim: number): Float64Array =>
  Float64Array.from({ length: centres.length / dim }, (_, c) => {
    let sum = 0;
    for (let j = c * dim; j < (c + 1) * dim; j++) sum += centres[j]! ** 2;
    return sum;
  });

/** The chosen points in an order in which those of a group lie close: one that was left and those nearest to it. */
const byNearness = (points: Points, chosen: Int32Array, size: number): Int32Array => {
  const order = chosen.slice();
  for (let start = 0; start < order.length; start += size) {
    const seed = order[start]!;
    const far = new Map(Array.from(order, (point) => [point, squaredDistance(points, point, points.data, seed)]));
    order.subarray(start).sort((a, b) => far.get(a)! - far.get(b)! || a - b);
  }
  return order;
};

/** Groups of one size. Places that k centres leave empty get a score that no point can prefer. */
const groupsOf = (k: number): { groups: number; size: number } => {
  const groups = Math.max(1, Math.round(k / groupSize));
  return { groups, size: Math.max(2, Math.ceil(k / groups)) };
};

/** Sessions of `nearestCentres`: one for all groups, one for a single group. */
interface Assigning {
  readonly all: Session;
  readonly one: Session;
}

/**
 * Gives points to their nearest centres, pass after pass. For each point it keeps how far its centre is at most (`upper`)
 * and, for each group of centres, how far the others are at least (`lower`); as centres move, so do the bounds.
 */
class Assignment {
  private readonly points: Points;
  private readonly forming: Forming;
  private readonly sessions: Assigning;
  private readonly groups: number;
  private readonly size: number;
  /** [groups·size, dim] */
  private readonly centres: Float32Array;
  /** [groups·size], half the squared norm of each centre. */
  private readonly halves: Float32Array;
  /** Norm of the longest centre. */
  private longest = 0;
  /** [count] */
  private readonly nearest: Int32Array;
  /** [count] */
  private readonly upper: Float64Array;
  /** [count, groups] */
  private readonly lower: Float64Array;
  /** Points to compare, and their copy side by side. */
  private readonly rows = new Int32Array(chunk);
  private readonly copies: Float32Array;

  constructor(points: Points, forming: Forming, sessions: Assigning, centres: Float32Array, k: number) {
    const { groups, size } = groupsOf(k);
    this.points = points;
    this.forming = forming;
    this.sessions = sessions;
    this.groups = groups;
    this.size = size;
    this.centres = centres;
    this.halves = new Float32Array(groups * size).fill(1e30); // of the empty places
    this.nearest = new Int32Array(points.count).fill(-1);
    this.upper = new Float64Array(points.count).fill(Infinity);
    this.lower = new Float64Array(points.count * groups);
    this.copies = new Float32Array(chunk * points.dim);
  }

  /** Learns that a point was given to another cluster. */
  forget(point: number): void {
    this.nearest[point] = this.forming.labels[point]!;
    this.upper[point] = Infinity;
    this.lower.fill(0, point * this.groups, (point + 1) * this.groups);
  }

  /** One pass, after the centres moved by `moves` [k]. Returns how many points changed their cluster. */
  async pass(moves: Float64Array): Promise<number> {
    const { points, forming, groups, size, centres, nearest, upper, lower, rows } = this;
    const drifts = Array.from({ length: groups }, (_, g) => Math.max(0, ...moves.subarray(g * size, (g + 1) * size)));
    const squares = squaresOf(centres.subarray(0, moves.length * points.dim), points.dim);
    for (const [c, square] of squares.entries()) this.halves[c] = square / 2;
    this.longest = Math.sqrt(squares.reduce((a, b) => Math.max(a, b)));
    let changed = 0;
    for (let from = 0; from < points.count; from += chunk) {
      const to = Math.min(from + chunk, points.count);
      let pairs = 0;
      let open = 0;
      for (let i = from, at = from * groups; i < to; i++) {
        const before = pairs;
        upper[i]! += moves[nearest[i]!] ?? 0;
        for (let g = 0; g < groups; g++, at++) {
          lower[at]! -= drifts[g]!;
          if (upper[i]! > lower[at]!) pairs++;
        }
        if (pairs > before) rows[open++] = i;
      }
      if (pairs > most * (to - from) * groups) {
        for (let i = from; i < to; i++) rows[i - from] = i;
        await this.compare(to - from, 0, groups);
      } else {
        for (const i of rows.subarray(0, open)) upper[i] = Math.sqrt(squaredDistance(points, i, centres, nearest[i]!));
        for (let g = 0; g < groups; g++) {
          let n = 0;
          for (let i = from; i < to; i++) if (upper[i]! > lower[i * groups + g]!) rows[n++] = i;
          if (n > 0) await this.compare(n, g, g + 1);
        }
      }
      for (let i = from; i < to; i++)
        if (nearest[i] !== forming.labels[i]) {
          forming.move(i, nearest[i]!);
          changed++;
        }
    }
    return changed;
  }

  /** Compares the first n of `rows` with one group of centres or with all. */
  private async compare(n: number, firstGroup: number, endGroup: number): Promise<void> {
    const { points, groups, size, centres, halves, longest, nearest, upper, lower, copies } = this;
    const { dim, data } = points;
    const rows = this.rows.subarray(0, n);
    const start = firstGroup * size;
    const end = endGroup * size;
    const adjacent = rows[n - 1]! - rows[0]! === n - 1;
    if (!adjacent) copyRows(points, rows, copies);
    const given = adjacent ? data.subarray(rows[0]! * dim) : copies;
    const results = await (end - start > size ? this.sessions.all : this.sessions.one).run({
      "input.points": float32([n, dim], given.subarray(0, n * dim)),
      "input.centres": float32([end - start, dim], centres.subarray(start * dim, end * dim)),
      "input.halves": float32([end - start], halves.subarray(start, end)),
    });
    const scores = results.scores!.data as Float32Array;
    const indices = results.nearest!.data as Int32Array;
    const best = results.best!.data as Float32Array;
    for (let row = 0, of = 0; row < n; row++) {
      const i = rows[row]!;
      const square = points.squares[i]!;
      // What a squared distance from a float32 product of this length may be wrong by, at most.
      const rounding = 2 ** -23 * (dim + 2) * longest * (Math.sqrt(square) + longest);
      const first = start + indices[2 * row]!;
      if (first === nearest[i])
        upper[i] = Math.min(upper[i]!, Math.sqrt(Math.max(0, square - 2 * scores[2 * row]! + rounding)));
      for (let at = 2 * row; at < 2 * row + 2; at++) {
        const centre = start + indices[at]!;
        const own = nearest[i]!;
        if (centre === own || square - 2 * scores[at]! - rounding >= upper[i]! ** 2) continue;
        if (own >= 0) upper[i] = Math.sqrt(squaredDistance(points, i, centres, own));
        const distance = Math.sqrt(squaredDistance(points, i, centres, centre));
        if (distance >= upper[i]!) continue;
        const left = i * groups + Math.floor(own / size);
        if (own >= 0) lower[left] = Math.min(lower[left]!, upper[i]!);
        nearest[i] = centre;
        upper[i] = distance;
      }
      const home = Math.floor(nearest[i]! / size);
      for (let g = firstGroup; g < endGroup; g++, of++) {
        // The nearest of the others: at home not the point's own centre, and then at most the second of all.
        const score = g === home && first === nearest[i] ? scores[2 * row + 1]! : best[of]!;
        lower[i * groups + g] = Math.sqrt(Math.max(0, square - 2 * score - rounding));
      }
    }
  }
}

/** One run from given first centres. */
const lloyd = async (
  points: Points,
  chosen: Int32Array,
  sessions: Assigning,
  { k, maxPasses, tolerance, onPass, signal }: KMeansOptions,
  restart: number,
): Promise<Omit<Clustering, "k">> => {
  const { count, dim, mean, squares } = points;
  const { groups, size } = groupsOf(k);
  const padded = new Float32Array(groups * size * dim);
  copyRows(points, byNearness(points, chosen, size), padded);
  const centres = padded.subarray(0, k * dim);
  const total = squares.reduce((a, b) => a + b, 0);
  const still = (tolerance * total) / (count * dim);
  const forming = new Forming(points, k);
  const assignment = new Assignment(points, forming, sessions, padded, k);
  const moves = new Float64Array(k);
  let pass = 0;
  for (let settled = false; pass < maxPasses; ) {
    signal?.throwIfAborted();
    const changed = await assignment.pass(moves);
    pass++;
    const filled = forming.refill(centres);
    for (const point of filled) assignment.forget(point);
    // Once the centres rest, this pass has only brought the labels up to date with them.
    if ((changed === 0 || settled) && filled.length === 0) break;
    forming.recentre(centres, moves);
    settled = moves.reduce((sum, move) => sum + move ** 2, 0) <= still && filled.length === 0;
    if (onPass) {
      const sq = squaresOf(centres, dim);
      onPass({ restart, pass, inertia: total - sq.reduce((sum, s, c) => sum + s * forming.sizes[c]!, 0) });
    }
  }
  const inertia = forming.distances(centres).reduce((a, b) => a + b, 0);
  const found = centres.map((value, at) => value + mean[at % dim]!);
  return { labels: forming.labels, sizes: forming.sizes, centres: found, inertia, passes: pass };
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
  const { groups, size } = groupsOf(k);
  const all = await createSession(nearestCentres({ dim, groups, size }).bytes, engine);
  const one = await createSession(nearestCentres({ dim, groups: 1, size }).bytes, engine);
  const drawing = await createSession(productsWith({ dim, k: trials }).bytes, engine);
  try {
    let best: Omit<Clustering, "k"> | undefined;
    for (let restart = 0; restart < restarts; restart++) {
      const first = await plusPlus(points, k, random(seed, restart, k, "k-means"), drawing, trials);
      const run = await lloyd(points, first, { all, one }, options, restart);
      if (best === undefined || run.inertia < best.inertia) best = run;
    }
    return { k, ...(best as Omit<Clustering, "k">) };
  } finally {
    await all.release();
    await one.release();
    await drawing.release();
  }
};
