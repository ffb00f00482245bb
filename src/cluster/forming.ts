import { type Points, squaredDistance } from "./points.ts";

/** Clusters as they form: labels, and the sums from which centres follow. */
export class Forming {
  readonly labels: Int32Array;
  readonly sizes: Int32Array;
  readonly #sums: Float64Array;
  readonly #points: Points;
  readonly #k: number;

  constructor(points: Points, k: number) {
    this.#points = points;
    this.#k = k;
    this.labels = new Int32Array(points.count).fill(-1);
    this.sizes = new Int32Array(k);
    this.#sums = new Float64Array(k * points.dim);
  }

  move(point: number, to: number): void {
    const { dim, data } = this.#points;
    const { labels, sizes } = this;
    const sums = this.#sums;
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
    return Float64Array.from(this.labels, (c, i) => squaredDistance(this.#points, i, centres, c));
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
    const { dim } = this.#points;
    for (let c = 0; c < this.#k; c++) {
      const size = this.sizes[c]!;
      let moved = 0;
      for (let at = c * dim; size > 0 && at < (c + 1) * dim; at++) {
        const before = centres[at]!;
        centres[at] = this.#sums[at]! / size;
        moved += (centres[at]! - before) ** 2;
      }
      moves[c] = Math.sqrt(moved);
    }
  }
}
