/**
 * k-means on ONNX Runtime (Lloyd 1982, started by greedy k-means++: Arthur and Vassilvitskii 2007). The products of points
 * and centres run on the engine, but those that bounds show to change nothing (Ding et al., "Yinyang k-means", ICML 2015):
 * centres form groups, and a point meets a group only where its nearest centre may have come to lie in it. The engine
 * proposes, exact distances decide. The sums of clusters are kept here, where only points that changed cluster cost.
 */
import { deserialize, serialize } from "node:v8";
import { nearerCentre, nearestCentres, productsWith } from "../../graphs/steps/k-means.ts";
import { random } from "../data/random.ts";
import { alone, type Collective, gathered, isMine } from "../distributed/collective.ts";
import { createSession, type SessionOptions } from "../engine/session.ts";
import { RequestError } from "../errors.ts";
import { type Assigning, Assignment, groupsOf } from "./assignment.ts";
import { Forming } from "./forming.ts";
import { copyRows, type Points, squaresOf } from "./points.ts";
import { byNearness, plusPlus } from "./start.ts";

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
  /** Processes that each do a part of the restarts (default: this one does all). */
  readonly ranks?: Collective;
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

/** A run of k-means, of that number. */
interface Restart extends Omit<Clustering, "k"> {
  readonly restart: number;
}

/** Of the ranks' best runs the one that a single process would have kept: the first of those that fit best. */
const bestOf = async (own: Restart | undefined, ranks: Collective): Promise<Restart> => {
  if (ranks.size === 1) return own as Restart;
  const told = await gathered(ranks, serialize(own));
  const all = told.flatMap((bytes) => (deserialize(bytes) as Restart | undefined) ?? []);
  return all.sort((a, b) => a.inertia - b.inertia || a.restart - b.restart)[0]!;
};

/**
 * Clusters points into k. The same points, options and engine give the same labels.
 * @throws RequestError where there are fewer points than clusters
 */
export const kMeans = async (points: Points, options: KMeansOptions): Promise<Clustering> => {
  const { k, seed, restarts, engine = {}, ranks = alone } = options;
  const { count, dim } = points;
  if (k > count) throw new RequestError(`${count} images cannot form ${k} clusters; give a smaller K.`);
  const trials = 2 + Math.floor(Math.log(k));
  const { groups, size } = groupsOf(k);
  const plain = await createSession(nearerCentre({ dim, k: groups * size }).bytes, engine);
  const all = await createSession(nearestCentres({ dim, groups, size }).bytes, engine);
  const one = await createSession(nearestCentres({ dim, groups: 1, size }).bytes, engine);
  const drawing = await createSession(productsWith({ dim, k: trials }).bytes, engine);
  try {
    let best: Restart | undefined;
    for (let restart = 0; restart < restarts; restart++) {
      if (!isMine(ranks, restart)) continue;
      const first = await plusPlus(points, k, random(seed, restart, k, "k-means"), drawing, trials);
      const run = await lloyd(points, first, { plain, all, one }, options, restart);
      if (best === undefined || run.inertia < best.inertia) best = { restart, ...run };
    }
    const { restart: _, ...run } = await bestOf(best, ranks);
    return { k, ...run };
  } finally {
    await plain.release();
    await all.release();
    await one.release();
    await drawing.release();
  }
};
