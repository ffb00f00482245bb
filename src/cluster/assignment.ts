/** Which centre each point belongs to, by bounds that spare most comparisons (Ding et al., "Yinyang k-means", ICML 2015). */
import type { Session } from "../engine/session.ts";
import type { Forming } from "./forming.ts";
import { chunk, copyRows, float32, type Points, squaredDistance, squaresOf } from "./points.ts";

/** Centres of a group: few enough that bounds spare work, enough that a product with them outweighs copying the points. */
const groupSize = 64;

/** Share of the pairs of points and groups from which one product with all centres is faster than one for each group. */
const wholeProductShare = 0.5;

/** Groups of one size. Places that k centres leave empty get a score that no point can prefer. */
export const groupsOf = (k: number): { groups: number; size: number } => {
  const groups = Math.max(1, Math.round(k / groupSize));
  return { groups, size: Math.max(2, Math.ceil(k / groups)) };
};

/** Share of the points up to which a pass may change clusters for bounds to spare more than they cost in the next ones. */
const boundedShare = 0.01;

/** Sessions: of `nearerCentre`, and of `nearestCentres` for all groups and for a single group. */
export interface Assigning {
  readonly plain: Session;
  readonly all: Session;
  readonly one: Session;
}

/**
 * Gives points to their nearest centres, pass after pass: first by the engine's products alone, until few points change their
 * cluster, then by bounds, where exact distances decide. For each point it keeps how far its centre is at most (`upper`)
 * and, for each group of centres, how far the others are at least (`lower`); as centres move, so do the bounds.
 */
export class Assignment {
  readonly #points: Points;
  readonly #forming: Forming;
  readonly #sessions: Assigning;
  readonly #groups: number;
  readonly #size: number;
  /** [groups·size, dim] */
  readonly #centres: Float32Array;
  /** [groups·size], half the squared norm of each centre. */
  readonly #halves: Float32Array;
  /** Norm of the longest centre. */
  #longest = 0;
  /** [count] */
  readonly #nearest: Int32Array;
  /** [count] */
  readonly #upper: Float64Array;
  /** [count, groups] */
  readonly #lower: Float64Array;
  /** Points to compare, and their copy side by side. */
  readonly #rows = new Int32Array(chunk);
  readonly #copies: Float32Array;
  #bounded = false;

  constructor(points: Points, forming: Forming, sessions: Assigning, centres: Float32Array, k: number) {
    const { groups, size } = groupsOf(k);
    this.#points = points;
    this.#forming = forming;
    this.#sessions = sessions;
    this.#groups = groups;
    this.#size = size;
    this.#centres = centres;
    this.#halves = new Float32Array(groups * size).fill(1e30); // of the empty places
    this.#nearest = new Int32Array(points.count).fill(-1);
    this.#upper = new Float64Array(points.count).fill(Infinity);
    this.#lower = new Float64Array(points.count * groups);
    this.#copies = new Float32Array(chunk * points.dim);
  }

  /** Learns that a point was given to another cluster. */
  forget(point: number): void {
    this.#nearest[point] = this.#forming.labels[point]!;
    this.#upper[point] = Infinity;
    this.#lower.fill(0, point * this.#groups, (point + 1) * this.#groups);
  }

  /** One pass, after the centres moved by `moves` [k]. Returns how many points changed their cluster. */
  async pass(moves: Float64Array): Promise<number> {
    const points = this.#points;
    const squares = squaresOf(this.#centres.subarray(0, moves.length * points.dim), points.dim);
    for (const [c, square] of squares.entries()) this.#halves[c] = square / 2;
    this.#longest = Math.sqrt(squares.reduce((a, b) => Math.max(a, b)));
    if (this.#bounded) return this.#boundedPass(moves);
    const changed = await this.#plainPass();
    this.#bounded = changed <= boundedShare * points.count;
    return changed;
  }

  /** One product of all points with all centres, whose largest scores decide. */
  async #plainPass(): Promise<number> {
    const { count } = this.#points;
    const { labels } = this.#forming;
    let changed = 0;
    let asked = this.#askPlainly(0);
    for (let from = 0; from < count; from += chunk) {
      const found = await asked;
      // The engine computes the next ones while these are sorted in.
      if (from + chunk < count) asked = this.#askPlainly(from + chunk);
      const nearest = found.nearest!.data as Int32Array;
      const nearer = found.nearer!.data as Int32Array;
      for (let row = 0, next = 1; row < nearer.length; row++) {
        const own = labels[from + row]!;
        const centre = nearer[row] === 1 ? nearest[next++]! : Math.max(own, 0);
        if (centre === own) continue;
        this.#nearest[from + row] = centre;
        this.#forming.move(from + row, centre);
        changed++;
      }
    }
    return changed;
  }

  /** Which points of a chunk have a nearer centre than their own; those of none are taken to be of the first. */
  #askPlainly(from: number): ReturnType<Session["run"]> {
    const { count, dim, data } = this.#points;
    const to = Math.min(from + chunk, count);
    return this.#sessions.plain.run({
      "input.points": float32([to - from, dim], data.subarray(from * dim, to * dim)),
      "input.centres": float32([this.#halves.length, dim], this.#centres),
      "input.halves": float32([this.#halves.length], this.#halves),
      "input.labels": {
        dtype: "int32",
        shape: [to - from, 1],
        data: this.#forming.labels.subarray(from, to).map((label) => Math.max(label, 0)),
      },
    });
  }

  async #boundedPass(moves: Float64Array): Promise<number> {
    const points = this.#points;
    const forming = this.#forming;
    const groups = this.#groups;
    const size = this.#size;
    const centres = this.#centres;
    const nearest = this.#nearest;
    const upper = this.#upper;
    const lower = this.#lower;
    const rows = this.#rows;
    const drifts = Array.from({ length: groups }, (_, g) => Math.max(0, ...moves.subarray(g * size, (g + 1) * size)));
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
      if (pairs > wholeProductShare * (to - from) * groups) {
        for (let i = from; i < to; i++) rows[i - from] = i;
        await this.#compare(to - from, 0, groups);
      } else {
        for (const i of rows.subarray(0, open)) upper[i] = Math.sqrt(squaredDistance(points, i, centres, nearest[i]!));
        for (let g = 0; g < groups; g++) {
          let n = 0;
          for (let i = from; i < to; i++) if (upper[i]! > lower[i * groups + g]!) rows[n++] = i;
          if (n > 0) await this.#compare(n, g, g + 1);
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
  async #compare(n: number, firstGroup: number, endGroup: number): Promise<void> {
    const points = this.#points;
    const groups = this.#groups;
    const size = this.#size;
    const centres = this.#centres;
    const halves = this.#halves;
    const longest = this.#longest;
    const nearest = this.#nearest;
    const upper = this.#upper;
    const lower = this.#lower;
    const copies = this.#copies;
    const { dim, data } = points;
    const rows = this.#rows.subarray(0, n);
    const start = firstGroup * size;
    const end = endGroup * size;
    const adjacent = rows[n - 1]! - rows[0]! === n - 1;
    if (!adjacent) copyRows(points, rows, copies);
    const given = adjacent ? data.subarray(rows[0]! * dim) : copies;
    const results = await (end - start > size ? this.#sessions.all : this.#sessions.one).run({
      "input.points": float32([n, dim], given.subarray(0, n * dim)),
      "input.centres": float32([end - start, dim], centres.subarray(start * dim, end * dim)),
      "input.halves": float32([end - start], halves.subarray(start, end)),
    });
    const scores = results.scores!.data as Float32Array;
    const indices = results.nearest!.data as Int32Array;
    const best = results.best!.data as Float32Array;
    for (let row = 0, pair = 0; row < n; row++) {
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
      for (let g = firstGroup; g < endGroup; g++, pair++) {
        // The nearest of the others: at home not the point's own centre, and then at most the second of all.
        const score = g === home && first === nearest[i] ? scores[2 * row + 1]! : best[pair]!;
        lower[i * groups + g] = Math.sqrt(Math.max(0, square - 2 * score - rounding));
      }
    }
  }
}
