import { describe, expect, test } from "@jest/globals";
import { random } from "../../src/data/random.ts";
import {
  aclView,
  advclView,
  checkRecipe,
  createView,
  dynaclView,
  normalStart,
  plainView,
  uniformStart,
  type ViewRecipe,
  weakView,
} from "../../src/data/view.ts";
import { RequestError } from "../../src/errors.ts";

const size = 16;
const image = Uint8Array.from({ length: 3 * size * size }, (_, i) => (i * 37) % 256);

const make = (recipe: ViewRecipe, index = 0): Float32Array => {
  const out = new Float32Array(image.length).fill(Number.NaN);
  createView(recipe, size, size)(image, random(1, 2, index, "view"), out);
  return out;
};

const recipes: [string, ViewRecipe][] = [
  ["AdvCL", advclView],
  ["ACL", aclView],
  ["DynACL at half strength", dynaclView(0.5)],
  ["weak", weakView],
  ["plain", plainView],
  ["uniform", uniformStart(8 / 255)],
  ["normal", normalStart()],
];

describe.each(recipes)("%s view", (_, recipe) => {
  test("is plain JSON that passes its own check", () => {
    expect(checkRecipe("view", JSON.parse(JSON.stringify(recipe)))).toEqual(recipe);
  });

  test("fills its output with the same bits for the same key", () => {
    const out = make(recipe);
    expect(out.every(Number.isFinite)).toBe(true);
    expect(make(recipe)).toEqual(out);
    if (recipe.kind !== "none") expect(make(recipe, 1)).not.toEqual(out);
    if (!recipe.kind.startsWith("noise")) expect(out.every((x) => x >= 0 && x <= 1)).toBe(true);
  });

  test("does not depend on what its buffers held", () => {
    const view = createView(recipe, size, size);
    const out = new Float32Array(image.length);
    view(image, random(0, 0, 0, "other"), out);
    view(image, random(1, 2, 0, "view"), out);
    expect(out).toEqual(make(recipe));
  });
});

test("plain pixels are bytes over 255", () => {
  expect(make(plainView)).toEqual(Float32Array.from(image, (byte) => byte / 255));
});

test("uniform noise fills its range", () => {
  const noise = make(uniformStart(0.25));
  expect(Math.max(...noise)).toBeGreaterThan(0.24);
  expect(Math.min(...noise)).toBeLessThan(-0.24);
  expect(noise.every((x) => Math.abs(x) <= 0.25)).toBe(true);
});

test("DynACL's strength 1 is ACL's view, strength 0 leaves at most a flip", () => {
  const full = dynaclView(1);
  expect(full.cropScale[0]).toBeCloseTo(aclView.cropScale[0], 12);
  expect({ ...full, cropScale: aclView.cropScale }).toEqual(aclView);
  expect(dynaclView(0)).toMatchObject({ cropScale: [1, 1], jitterProbability: 0, grey: 0 });
  expect(() => dynaclView(1.1)).toThrow(RangeError);
});

test("a wrong recipe is refused by field", () => {
  const wrong = (recipe: unknown) => () => checkRecipe("view1", recipe);
  expect(wrong({ ...advclView, cropScale: [0, 1] })).toThrow(RequestError);
  expect(wrong({ ...advclView, cropScale: [0.5, 0.2] })).toThrow(
    /view1\.cropScale: the range must go from low to high/,
  );
  expect(wrong({ ...advclView, gray: 1 })).toThrow(/gray/);
  expect(wrong({ kind: "crop", padding: 1.5, flip: true })).toThrow(/view1\.padding/);
  expect(wrong({ kind: "swirl" })).toThrow(/view1\.kind/);
  expect(wrong({ kind: "noise-uniform", low: 1, high: 0 })).toThrow("low must not exceed high");
});
