import { beforeAll, describe, expect, test } from "@jest/globals";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  applyJitter,
  flipHorizontal,
  type Interpolation,
  paddedCrop,
  resizedCrop,
  rotate90,
  sampleJitter,
  samplePaddedCrop,
  sampleResizedCrop,
  toGrey,
} from "../../src/data/augment.ts";
import { random } from "../../src/data/random.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";

const height = 20;
const width = 24;
let golden: ReadonlyMap<string, Tensor>;

beforeAll(async () => {
  golden = (await readSafetensors(new URL("fixtures/augment.safetensors", import.meta.url).pathname)).tensors;
});

const values = (name: string): Float32Array => (golden.get(name) as Tensor<"float32">).data;

const expectGolden = (actual: Float32Array, name: string, tolerance = 1e-5): void => {
  const expected = values(name);
  expect(actual).toHaveLength(expected.length);
  const worst = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
  expect(worst).toBeLessThan(tolerance);
};

describe("as torchvision does with the same numbers", () => {
  const crops: [string, string, [number, number, number, number]][] = [
    ["enlarged", "image", [3, 5, 9, 7]],
    ["mixed", "image", [1, 2, 18, 11]],
    ["same", "image", [2, 4, 16, 16]],
    ["pixel", "image", [7, 9, 1, 2]],
    ["reduced", "large", [0, 0, 48, 48]],
    ["thirds", "large", [5, 1, 37, 46]],
  ];
  const modes: Interpolation[] = ["bilinear", "bicubic"];
  test.each(modes.flatMap((mode) => crops.map((crop) => [mode, ...crop] as const)))(
    "resized crop, %s, %s",
    (mode, name, source, [top, left, h, w]) => {
      const out = new Float32Array(3 * 16 * 16);
      const [srcHeight, srcWidth] = source === "image" ? [height, width] : [48, 48];
      resizedCrop(values(source), srcHeight, srcWidth, { top, left, height: h, width: w }, out, 16, 16, mode);
      expectGolden(out, `crop.${mode}.${name}`);
    },
  );

  test.each([
    ["brightness", adjustBrightness, [0.6, 1.4]],
    ["contrast", adjustContrast, [0.6, 1.4]],
    ["saturation", adjustSaturation, [0.6, 1.4]],
    ["hue", adjustHue, [0.1, -0.07, 0.5]],
  ] as const)("%s", (name, adjust, factors) => {
    for (const factor of factors) {
      const image = values("image").slice();
      adjust(image, factor);
      expectGolden(image, `${name}.${factor}`);
    }
  });

  test("a colour jitter of given order", () => {
    const image = values("image").slice();
    applyJitter(image, { order: [3, 1, 2, 0], brightness: 1.2, contrast: 1.3, saturation: 0.7, hue: 0.08 });
    expectGolden(image, "jitter");
  });

  test("greyscale and flip", () => {
    const grey = values("image").slice();
    toGrey(grey);
    expectGolden(grey, "grey");
    const mirrored = values("image").slice();
    flipHorizontal(mirrored, height, width);
    expectGolden(mirrored, "flip");
  });

  test("crop after padding", () => {
    for (const [top, left] of [
      [0, 8],
      [7, 3],
      [4, 4],
    ] as const) {
      const out = new Float32Array(3 * height * width);
      paddedCrop(values("image"), height, width, 4, top, left, out);
      expectGolden(out, `padded.${top}.${left}`);
    }
  });

  test("turns by 90°", () => {
    const square = values("rotate.0");
    for (const turns of [0, 1, 2, 3, -1, 5]) {
      const out = new Float32Array(square.length);
      rotate90(square, 16, turns, out);
      expectGolden(out, `rotate.${(turns + 4) % 4}`);
    }
  });
});

describe("sampling", () => {
  test("a resized crop stays inside, in the ranges of area and ratio up to rounding", () => {
    const r = random(0, 0, 0, "crop");
    const areas: number[] = [];
    for (let i = 0; i < 500; i++) {
      const box = sampleResizedCrop(r, 32, 32, [0.2, 1]);
      expect(box.top >= 0 && box.left >= 0 && box.top + box.height <= 32 && box.left + box.width <= 32).toBe(true);
      expect(box.width / box.height).toBeGreaterThan(0.68);
      expect(box.width / box.height).toBeLessThan(1.47);
      areas.push((box.width * box.height) / 1024);
    }
    expect(Math.min(...areas)).toBeGreaterThan(0.18);
    const mean = areas.reduce((a, b) => a + b, 0) / areas.length;
    expect(mean).toBeGreaterThan(0.5); // a little under 0.6: the largest areas do not fit at every ratio
    expect(mean).toBeLessThan(0.6);
  });

  test("where no try can fit, the largest centred box of an allowed ratio is taken", () => {
    const r = random(0, 0, 0, "crop");
    expect(sampleResizedCrop(r, 10, 100, [1, 1])).toEqual({ top: 0, left: 43, height: 10, width: 13 });
    expect(sampleResizedCrop(r, 100, 10, [1, 1])).toEqual({ top: 43, left: 0, height: 13, width: 10 });
    expect(sampleResizedCrop(r, 32, 32, [1, 1], [0.5, 0.6])).toEqual({ top: 0, left: 6, height: 32, width: 19 });
  });

  test("a padded crop starts anywhere from 0 to twice the padding", () => {
    const r = random(0, 0, 0, "crop");
    const tops = new Set(Array.from({ length: 300 }, () => samplePaddedCrop(r, 4).top));
    expect([...tops].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test("jitter's numbers lie in their ranges, its order varies", () => {
    const r = random(0, 0, 0, "jitter");
    const orders = new Set<string>();
    for (let i = 0; i < 300; i++) {
      const jitter = sampleJitter(r, [0.4, 2, 0, 0.1]);
      expect(Math.abs(jitter.brightness - 1)).toBeLessThanOrEqual(0.4);
      expect(jitter.contrast >= 0 && jitter.contrast <= 3).toBe(true);
      expect(jitter.saturation).toBe(1);
      expect(Math.abs(jitter.hue)).toBeLessThanOrEqual(0.1);
      orders.add(Array.from(jitter.order).join());
    }
    expect(orders.size).toBe(24);
  });
});
