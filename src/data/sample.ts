import { random } from "./random.ts";

/** What a sample is drawn from. */
export interface SampleOptions {
  /** How many images there are. */
  readonly count: number;
  /** How many to take; all where there are no more. */
  readonly limit: number;
  /** [count] class of each image; without it the sample is drawn from all alike. */
  readonly labels?: ArrayLike<number> | undefined;
  readonly seed: number;
  /** What is sampled, part of the random key: "cifar10:test". */
  readonly stream: string;
}

/**
 * Places of a seeded sample, ascending; with labels each class has its share of it, to within one image. A smaller
 * sample is a part of a larger one of the same seed.
 *
 * Image j of the n of a class, in a random order, stands at (j + u) / n with one random u in [0, 1) a class, and the
 * sample is what stands lowest: systematic sampling in each class by itself.
 */
export const samplePlaces = ({ count, limit, labels, seed, stream }: SampleOptions): Int32Array => {
  if (limit >= count) return Int32Array.from({ length: count }, (_, i) => i);
  const classes = new Map<number, number[]>();
  for (let i = 0; i < count; i++) {
    const label = labels?.[i] ?? 0;
    const members = classes.get(label);
    if (members === undefined) classes.set(label, [i]);
    else members.push(i);
  }
  const height = new Float64Array(count);
  for (const [label, members] of classes) {
    const r = random(seed, 0, label, `sample:${stream}`);
    const offset = r.uniform();
    r.permutation(members.length).forEach((member, j) => {
      height[members[member]!] = (j + offset) / members.length;
    });
  }
  const order = Int32Array.from({ length: count }, (_, i) => i).sort((a, b) => height[a]! - height[b]! || a - b);
  return order.subarray(0, limit).sort();
};
