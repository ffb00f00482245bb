/** One definition of how images become what networks take: in datasets, in exported files, on the page. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import sharp from "sharp";
import { photograph } from "../../graphs/deploy/photograph.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { squarePicture } from "../../page/square.ts";
import { loadDataset } from "../../src/data/dataset.ts";
import { squareBytes } from "../../src/data/resize.ts";
import { buildExport } from "../../src/deploy/model.ts";
import { deployedOptions, sourceOf } from "../../src/deploy/source.ts";
import { runInWeb } from "../../src/deploy/web.ts";
import { createSession } from "../../src/engine/session.ts";
import { imageBatch } from "../../src/models/images.ts";
import { randomNumbers, relativeError } from "../graphs/run.ts";
import { goldenNetwork } from "./networks.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-photographs-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A picture of shapes and noise, rows of RGB. */
const picture = (height: number, width: number, seed: number): Uint8Array => {
  const random = randomNumbers(seed);
  const slant = 3 + 9 * random();
  return Uint8Array.from({ length: 3 * height * width }, (_, i) => {
    const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
    const wave = Math.sin(x / slant + (i % 3)) + Math.cos((y + x / 2) / slant);
    return Math.max(0, Math.min(255, 128 + 50 * wave + 60 * (random() - 0.5)));
  });
};

const run = async (bytes: Uint8Array, image: Tensor): Promise<Record<string, Tensor>> => {
  const session = await createSession(bytes, { threads: 1 });
  try {
    return await session.run({ image });
  } finally {
    await session.release();
  }
};

const sizes = [
  [32, 32],
  [64, 64],
  [45, 60],
  [91, 37],
  [20, 25],
  [75, 100],
] as const;
const size = 32;

describe("photographs inside a file are what training takes", () => {
  const { image } = photograph(1, size);
  const { bytes } = buildModel(lower({ pixels: image }, portable), [], {
    opset: 17,
    metadata: {},
    dynamic: { image: ["batch", "height", "width"], pixels: ["batch"] },
  });
  const squared = (rows: Uint8Array, height: number, width: number): Uint8Array => {
    const out = new Uint8Array(3 * size * size);
    squareBytes(rows, { height, width, plane: 1, row: 3 * width, pixel: 3 }, size, out);
    return out;
  };

  test.each(sizes)("%d×%d", async (height, width) => {
    const rows = picture(height, width, height + width);
    const photo = tensor("uint8", [1, height, width, 3], rows);
    const expected = Float32Array.from(squared(rows, height, width), (v) => v / 255);
    for (const found of [(await run(bytes, photo)).pixels, (await runInWeb(bytes, { image: photo })).pixels]) {
      if (found === undefined) throw new Error("no pixels");
      expect(found.shape).toEqual([1, 3, size, size]);
      const apart = (found.data as Float32Array).map((v, i) => Math.abs(v - expected[i]!));
      // A value next to a half may be rounded otherwise in single precision: by one byte, and seldom.
      expect(Math.max(...apart)).toBeLessThan(1.001 / 255);
      expect(apart.filter((v) => v > 1e-6).length).toBeLessThanOrEqual(6);
    }
  });

  test.each(sizes)("on the page, %d×%d", (height, width) => {
    const rows = picture(height, width, height + width);
    const rgba = new Uint8ClampedArray(4 * height * width).fill(255);
    for (let i = 0; i < height * width; i++) for (let c = 0; c < 3; c++) rgba[4 * i + c] = rows[3 * i + c]!;
    const expected = Float32Array.from(squared(rows, height, width), (v) => v / 255);
    const apart = squarePicture(rgba, height, width, size).map((v, i) => Math.abs(v - expected[i]!));
    expect(Math.max(...apart)).toBeLessThan(1e-6);
  });
});

test("features of an export with preprocessing are those of the folder's images in training, whatever their size", async () => {
  const { network, weights } = await goldenNetwork();
  const options = deployedOptions(sourceOf(network, weights, "auto", "golden"), "encoder", "golden");
  const plain = { precision: "fp32", io: "float32", metadata: {} } as const;
  const bare = await buildExport({ ...options, ...plain, preprocess: false }, weights, 1, undefined);
  const whole = await buildExport({ ...options, ...plain, preprocess: true }, weights, 1, undefined);
  mkdirSync(join(folder, "a"), { recursive: true });
  const photos = sizes.map(([height, width], i) => ({ height, width, rows: picture(height, width, i) }));
  for (const [i, { height, width, rows }] of photos.entries())
    await sharp(rows, { raw: { width, height, channels: 3 } })
      .png()
      .toFile(join(folder, "a", `${i}.png`));
  const dataset = await loadDataset({ name: "folder", data: join(folder, "a"), split: "train", size });
  expect(dataset.count).toBe(sizes.length);
  const expected = (await run(bare.bytes, imageBatch(dataset, 0, dataset.count))).features?.data as Float32Array;
  const width = expected.length / dataset.count;
  for (const [i, { height, width: wide, rows }] of photos.entries()) {
    const { features } = await run(whole.bytes, tensor("uint8", [1, height, wide, 3], rows));
    const own = expected.subarray(i * width, (i + 1) * width);
    expect(relativeError(features?.data as Float32Array, own)).toBeLessThan(2e-3);
  }
});
