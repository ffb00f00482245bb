import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { samplePlaces } from "../../src/data/sample.ts";

const stream = "set:test";
const labelsArbitrary = fc.array(fc.nat(5), { minLength: 1, maxLength: 200 });

test("each class has its share to within one image, in order, and none twice", () => {
  fc.assert(
    fc.property(labelsArbitrary, fc.nat(220), fc.nat(1000), (labels, limit, seed) => {
      const count = labels.length;
      const places = samplePlaces({ count, limit, labels, seed, stream });
      expect(places.length).toBe(Math.min(limit, count));
      expect([...places]).toEqual([...new Set(places)].sort((a, b) => a - b));
      for (const label of new Set(labels)) {
        const all = labels.filter((l) => l === label).length;
        const taken = places.filter((p) => labels[p] === label).length;
        const share = (all * Math.min(limit, count)) / count;
        // Systematic sampling of each class: its share is met to within one, and one more as the whole is of a fixed size.
        expect(Math.abs(taken - share)).toBeLessThan(2);
      }
    }),
    { seed: 3 },
  );
});

test("classes of one size have the same number of images", () => {
  const labels = Array.from({ length: 1000 }, (_, i) => Math.floor(i / 100));
  const places = samplePlaces({ count: 1000, limit: 50, labels, seed: 0, stream });
  const counts = Array.from({ length: 10 }, (_, label) => places.filter((p) => labels[p] === label).length);
  expect(counts).toEqual(new Array(10).fill(5));
});

test("a smaller sample is a part of a larger one; another seed or split gives another", () => {
  fc.assert(
    fc.property(labelsArbitrary, fc.nat(200), fc.nat(200), fc.boolean(), (labels, a, b, labelled) => {
      const take = (limit: number) =>
        samplePlaces({ count: labels.length, limit, ...(labelled && { labels }), seed: 5, stream });
      const [small, large] = [take(Math.min(a, b)), new Set(take(Math.max(a, b)))];
      expect(small.every((place) => large.has(place))).toBe(true);
    }),
    { seed: 4 },
  );
  const of = (seed: number, name: string) => samplePlaces({ count: 1000, limit: 20, seed, stream: name }).join();
  expect(of(0, "a")).toBe(of(0, "a"));
  expect(new Set([of(0, "a"), of(1, "a"), of(0, "b")]).size).toBe(3);
});

test("unlabelled images are drawn from everywhere", () => {
  const places = samplePlaces({ count: 10_000, limit: 1000, seed: 0, stream });
  const quarters = [0, 1, 2, 3].map((q) => places.filter((p) => p >= q * 2500 && p < (q + 1) * 2500).length);
  // Of a hypergeometric with mean 250 and deviation 13.
  for (const n of quarters) expect(Math.abs(n - 250)).toBeLessThan(53);
});
