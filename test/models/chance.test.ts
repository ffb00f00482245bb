/** The hint of accuracies at chance: rows M10, H2 and S2 of the table of cases. */
import { expect, test } from "@jest/globals";
import { max, mul, reduceMean, sub } from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { chanceOf, chanceWarning, shareRight } from "../../src/models/chance.ts";
import { portably } from "../evaluate/models.ts";

/** Forty gray images of 2×2 pixels; the channel that is brighter is the class. */
const labels = Int32Array.from({ length: 40 }, (_, i) => i % 3);
const pixels = new Uint8Array(40 * 12).fill(118);
labels.forEach((label, i) => {
  pixels.fill(134, i * 12 + label * 4, i * 12 + label * 4 + 4);
});
const images: Dataset & { readonly labels: Int32Array } = {
  ...{ name: "folder", split: "test", count: 40, height: 2, width: 2, classes: ["r", "g", "b"], labels },
  ...{ images: pixels, index: Int32Array.from(labels.keys()), officialCount: 40 },
};

const channels: Classifier = (x) => reduceMean(x, { axes: [2, 3], keepdims: 0 });
/** Sees only what is above 126: of pixels in [0, 1] nothing, which is class 0. */
const wantsBytes: Classifier = (x) => max(sub(channels(x), 126), 0);
/** Sees nothing at all. */
const nothing: Classifier = (x) => mul(channels(x), 0);

const hint = async (unnormalised: Classifier, model?: object): Promise<string | undefined> => {
  const judged = { source: "it", unnormalised, fixedBatch: undefined, image: [3, 2, 2] as const, model };
  const engine = { loadEvaluation: portably };
  return chanceWarning(await shareRight(unnormalised, judged, images, engine), judged, images, engine);
};

test("a model that is better than chance gets none", async () => {
  expect(await hint(channels, {})).toBe(undefined);
});

test("of a file that wants pixels of 0 to 255 the flags are told, of a run where to give them for good", async () => {
  const file = await hint(wantsBytes, {});
  expect(file).toMatch(/^it is no better than chance on clean images \(35\.00 %; chance gives up to \d+\.\d\d %\): /);
  expect(file).toMatch(/with --mean 0 --std 0\.00392157 \(pixels of 0 to 255\) it is right for 100\.0 % of 40 images$/);
  expect(await hint(wantsBytes)).toMatch(/100\.0 % of 40 images; give advcl import the same, if the weights/);
});

test("where no usual way helps, what to check is told", async () => {
  expect(await hint(nothing, {})).toMatch(/check --mean and --std, --layout and --output, and that the classes/);
  expect(await hint(nothing)).toMatch(/train it longer or at another rate, check --branch/);
  expect(chanceOf(labels)).toBeGreaterThan(14 / 40);
});
