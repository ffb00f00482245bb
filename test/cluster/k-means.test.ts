import { describe, expect, test } from "@jest/globals";
import { normalizedMutualInformation, purity } from "../../src/cluster/agreement.ts";
import { type KMeansOptions, kMeans } from "../../src/cluster/k-means.ts";
import { createPoints } from "../../src/cluster/points.ts";
import { random } from "../../src/data/random.ts";

const options: KMeansOptions = { k: 5, seed: 3, restarts: 2, maxPasses: 50, tolerance: 1e-4, engine: { threads: 1 } };

/** `each` points around each of `k` far centres, in random order. */
const blobs = (k: number, each: number, dim: number, offset = 0) => {
  const r = random(7, 0, 0, "blobs");
  const centres = Float32Array.from({ length: k * dim }, () => offset + 10 * r.uniform());
  const classes = r.permutation(k * each).map((i) => i % k);
  const data = new Float32Array(k * each * dim);
  classes.forEach((c, i) => {
    for (let j = 0; j < dim; j++) data[i * dim + j] = centres[c * dim + j]! + 0.3 * r.normal();
  });
  return { data, classes };
};

/** Lloyd by definition, from given labels, for comparison. */
const inertiaOf = (data: Float32Array, dim: number, labels: Int32Array, k: number): number => {
  const sums = new Float64Array(k * dim);
  const sizes = new Float64Array(k);
  labels.forEach((c, i) => {
    sizes[c]! += 1;
    for (let j = 0; j < dim; j++) sums[c * dim + j]! += data[i * dim + j]!;
  });
  let total = 0;
  labels.forEach((c, i) => {
    for (let j = 0; j < dim; j++) total += (data[i * dim + j]! - sums[c * dim + j]! / sizes[c]!) ** 2;
  });
  return total;
};

describe("k-means", () => {
  test("finds blobs, wherever they lie, and the same ones again", async () => {
    for (const offset of [0, 1000]) {
      const { data, classes } = blobs(5, 1000, 8, offset);
      const before = data.slice();
      const found = await kMeans(createPoints(data, 8), options);
      expect(purity(found.labels, classes)).toBe(1);
      expect(Array.from(found.sizes)).toEqual([1000, 1000, 1000, 1000, 1000]);
      expect(found.inertia / inertiaOf(before, 8, found.labels, 5)).toBeCloseTo(1, 3);
      // The centres are the means of the data as it was.
      const own = found.labels[0]!;
      const members = Array.from(found.labels.keys()).filter((i) => found.labels[i] === own);
      const mean = members.reduce((sum, i) => sum + before[i * 8]!, 0) / members.length;
      expect(found.centres[own * 8]! / mean).toBeCloseTo(1, 4);
      const again = await kMeans(createPoints(before.slice(), 8), options);
      expect(again.labels).toEqual(found.labels);
    }
  });

  test("each pass is Lloyd's: labels are of the nearest centres of the pass before", async () => {
    const [count, dim, k] = [10000, 3, 130];
    const r = random(5, 0, 0, "points");
    const points = createPoints(
      Float32Array.from({ length: count * dim }, () => r.normal()),
      dim,
    );
    const original = points.data.map((value, at) => value + points.mean[at % dim]!);
    const upTo = (maxPasses: number) => kMeans(points, { ...options, k, restarts: 1, tolerance: 0, maxPasses });
    const distance = (i: number, centres: Float32Array, c: number) => {
      let sum = 0;
      for (let j = 0; j < dim; j++) sum += (original[i * dim + j]! - centres[c * dim + j]!) ** 2;
      return sum;
    };
    for (const passes of [5, 40]) {
      const { centres } = await upTo(passes);
      const { labels, passes: done } = await upTo(passes + 1);
      expect(done).toBe(passes + 1);
      const wrong = Array.from(labels.keys()).filter((i) => {
        const nearest = Math.min(...Array.from({ length: k }, (_, c) => distance(i, centres, c)));
        return distance(i, centres, labels[i]!) > nearest + 1e-5;
      });
      expect(wrong).toEqual([]);
    }
  });

  test("refills clusters that lose all their points", async () => {
    const { data } = blobs(3, 40, 2);
    const found = await kMeans(createPoints(data, 2), { ...options, k: 60, restarts: 1 });
    expect(found.sizes.every((size) => size > 0)).toBe(true);
    expect(found.sizes.reduce((a, b) => a + b, 0)).toBe(120);
  });

  test("ends where there are fewer different points than clusters", async () => {
    const data = Float32Array.from({ length: 40 }, (_, i) => (i >> 1) % 3);
    const found = await kMeans(createPoints(data, 2), { ...options, k: 4 });
    expect(found.inertia).toBeCloseTo(0, 6);
    expect(found.sizes.filter((size) => size > 0).length).toBe(3);
  });

  test("refuses more clusters than points, and features that are not finite", async () => {
    await expect(kMeans(createPoints(new Float32Array(8), 2), options)).rejects.toThrow(
      "4 images cannot form 5 clusters; give a smaller K.",
    );
    expect(() => createPoints(Float32Array.of(0, 1, Number.NaN, 2), 2)).toThrow("those of image 1 are not finite");
  });
});

test("purity and normalised mutual information", () => {
  const classes = Int32Array.of(0, 0, 1, 1, 2, 2);
  expect(purity(Int32Array.of(1, 1, 0, 0, 2, 2), classes)).toBe(1);
  expect(normalizedMutualInformation(Int32Array.of(1, 1, 0, 0, 2, 2), classes)).toBeCloseTo(1, 12);
  expect(purity(Int32Array.of(0, 0, 0, 0, 1, 1), classes)).toBeCloseTo(4 / 6, 12);
  // From scikit-learn's normalized_mutual_info_score.
  expect(normalizedMutualInformation(Int32Array.of(0, 0, 0, 0, 1, 1), classes)).toBeCloseTo(0.733_680_4, 6);
  expect(normalizedMutualInformation(Int32Array.of(0, 1, 0, 1, 0, 1), classes)).toBeCloseTo(0, 12);
});
