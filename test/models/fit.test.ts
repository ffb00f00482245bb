import { expect, test } from "@jest/globals";
import type { Dataset } from "../../src/data/dataset.ts";
import { chanceOf } from "../../src/models/chance.ts";
import { areNames, namesOf } from "../../src/models/class-names.ts";
import type { LoadedClassifier } from "../../src/models/classifier.ts";
import { fitLabels } from "../../src/models/fit.ts";

const model = (classNames: readonly string[], classes = classNames.length): LoadedClassifier => ({
  source: "m.onnx",
  digest: "",
  classes,
  classNames,
  image: [3, 8, 8],
  fixedBatch: undefined,
  build: (x) => x,
  unnormalised: (x) => x,
});
const images = (classes: readonly string[], labels = classes.map((_, i) => i)): Dataset => ({
  name: "folder",
  split: "test",
  count: labels.length,
  height: 8,
  width: 8,
  classes,
  images: new Uint8Array(labels.length * 192),
  labels: Int32Array.from(labels),
  index: Int32Array.from(labels.keys()),
  officialCount: labels.length,
});
const fitted = (loaded: LoadedClassifier, dataset: Dataset, matchClasses: "name" | "position" = "name") => {
  const warnings: string[] = [];
  const { labels, classes } = fitLabels(loaded, dataset, { matchClasses, warn: (message) => warnings.push(message) });
  return { labels: [...labels], classes, warnings };
};

test("classes in one order stay as they are, and nothing is said", () => {
  const found = fitted(model(["cat", "dog"]), images(["cat", "dog"], [1, 0, 1]));
  expect(found).toEqual({ labels: [1, 0, 1], classes: ["cat", "dog"], warnings: [] });
});

test("classes in another order, or some of them, are found by name", () => {
  const other = fitted(model(["dog", "wild cat", "bird"]), images(["Bird", "dog", "wild_cat"], [0, 1, 2, 0]));
  expect(other.labels).toEqual([2, 0, 1, 2]);
  expect(other.classes).toEqual(["dog", "wild cat", "bird"]);
  expect(other.warnings).toEqual([expect.stringMatching(/matched with those of m\.onnx by name/)]);
  const some = fitted(model(["dog", "cat", "bird"]), images(["bird", "cat"]));
  expect(some.labels).toEqual([2, 1]);
  expect(some.warnings).toEqual([
    expect.stringMatching(/folder has 2 of the 3 classes of m\.onnx, found by name: bird, cat/),
  ]);
});

test("names or numbers of classes that contradict each other are refused, unless told", () => {
  expect(() => fitted(model(["dog", "cat"]), images(["Test", "Train"]))).toThrow(
    /m\.onnx has no class named Test, Train \(it has dog, cat\); .*--match-classes position/,
  );
  expect(() => fitted(model([], 32), images(["a", "b"]))).toThrow(
    /has 32 classes but folder has 2 .*--match-classes position/,
  );
  expect(() => fitted(model([], 2), images(["a", "b", "c"]))).toThrow(/has 2 classes but folder has 3/);
  const told = fitted(model(["dog", "cat", "bird"]), images(["Test", "Train"]), "position");
  expect(told.labels).toEqual([0, 1]);
  expect(told.warnings).toEqual([expect.stringMatching(/taken for the first of the 3 of m\.onnx/)]);
  expect(() => fitted(model(["dog", "cat"]), images(["a", "b", "c"]), "position")).toThrow(
    /has 2 classes but folder has 3/,
  );
});

test("numbers are no names: they are matched by place", () => {
  expect(areNames(["0", "1"])).toBe(false);
  expect(areNames(["class 0", "class 1"])).toBe(false);
  expect(fitted(model(["dog", "cat"]), images(["0", "1"])).labels).toEqual([0, 1]);
});

test("names stand in a file as JSON, or as Python's dictionary", () => {
  expect(namesOf({ classes: '["a","b"]' })).toEqual(["a", "b"]);
  expect(namesOf({ names: "{0: 'cat', 1: \"dog's\"}" })).toEqual(["cat", "dog's"]);
  expect(namesOf({ classes: "no list" })).toEqual([]);
  expect(namesOf({ names: "{1: 'cat'}" })).toEqual([]);
  expect(namesOf({})).toEqual([]);
});

test("chance is the largest class and two deviations", () => {
  expect(chanceOf(Int32Array.from([0, 0, 0, 1]))).toBeCloseTo(0.75 + 2 * Math.sqrt((0.75 * 0.25) / 4), 6);
  expect(chanceOf(new Int32Array())).toBe(0);
});
