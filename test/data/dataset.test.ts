import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import sharp from "sharp";
import { create } from "tar";
import { type DatasetOptions, loadDataset } from "../../src/data/dataset.ts";
import { subset } from "../../src/data/subset.ts";
import { RequestError } from "../../src/errors.ts";
import { available } from "../needs.ts";

let root = "";
let serial = 0;

const fresh = async (): Promise<string> => {
  const path = join(root, String(serial++));
  await mkdir(path);
  return path;
};

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "advcl-dataset-"));
});

afterAll(async () => {
  await rm(root, { recursive: true });
});

/** A record of labels and 3·32·32 pixels that say which record they belong to. */
const record = (labels: readonly number[], tag: number): Buffer =>
  Buffer.concat([Buffer.from(labels), Buffer.from(Array.from({ length: 3072 }, (_, i) => (tag * 7 + i) % 256))]);

const cifar10 = async (perBatch = 2): Promise<string> => {
  const parent = await fresh();
  const path = join(parent, "cifar-10-batches-bin");
  await mkdir(path);
  for (let b = 1; b <= 5; b++)
    await writeFile(
      join(path, `data_batch_${b}.bin`),
      Buffer.concat(Array.from({ length: perBatch }, (_, j) => record([(b + j) % 10], 10 * b + j))),
    );
  await writeFile(join(path, "test_batch.bin"), record([9], 60));
  return parent;
};

const warnings: string[] = [];
const warn = (message: string): void => void warnings.push(message);

const refusal = async (options: DatasetOptions): Promise<string> => {
  const outcome = await loadDataset(options).then(
    () => "was accepted",
    (cause: unknown) => cause,
  );
  expect(outcome).toBeInstanceOf(RequestError);
  return (outcome as Error).message;
};

describe("CIFAR-10", () => {
  test("counts follow the files' sizes, indices the official files", async () => {
    const parent = await cifar10();
    const dataset = await loadDataset({ name: "cifar10", data: parent, split: "train" });
    expect(dataset).toMatchObject({ name: "cifar10", count: 10, height: 32, width: 32, officialCount: 50_000 });
    expect([...dataset.index]).toEqual([0, 1, 10000, 10001, 20000, 20001, 30000, 30001, 40000, 40001]);
    expect([...dataset.labels!]).toEqual([1, 2, 2, 3, 3, 4, 4, 5, 5, 6]);
    expect(dataset.classes[dataset.labels![9]!]).toBe("frog");
    expect(Buffer.from(dataset.images.subarray(3072 * 3, 3072 * 4))).toEqual(record([], 21));
    const held = await loadDataset({ name: "cifar10", data: join(parent, "cifar-10-batches-bin"), split: "test" });
    expect(held).toMatchObject({ count: 1, officialCount: 10_000 });
  });

  test("limit takes a sample of the classes in the order of the files; size resizes", async () => {
    const parent = await cifar10();
    const ask = (limit: number, seed = 0) =>
      loadDataset({ name: "cifar10", data: parent, split: "train", limit, size: 8, seed });
    const dataset = await ask(6);
    expect(dataset).toMatchObject({ count: 6, height: 8, width: 8 });
    expect(dataset.images.length).toBe(6 * 3 * 64);
    // Labels 1 to 6, of which 2 to 5 stand twice: no class has more than its share, rounded up.
    const counts = [1, 2, 3, 4, 5, 6].map((label) => dataset.labels!.filter((l) => l === label).length);
    expect(counts.every((n, i) => n <= (i === 0 || i === 5 ? 1 : 2))).toBe(true);
    expect([...dataset.index]).toEqual([...dataset.index].sort((a, b) => a - b));
    expect(await ask(6)).toEqual(dataset);
    const fewer = await ask(3);
    expect([...dataset.index]).toEqual(expect.arrayContaining([...fewer.index]));
    const seeds = await Promise.all([1, 2, 3, 4].map((seed) => ask(3, seed)));
    expect(new Set(seeds.map(({ index }) => index.join())).size).toBeGreaterThan(1);
  });

  test("the archive gives the same, and leaves nothing behind", async () => {
    const parent = await cifar10();
    const expected = await loadDataset({ name: "cifar10", data: parent, split: "train" });
    const folder = await fresh();
    const archive = join(folder, "cifar-10-binary.tar.gz");
    await create({ gzip: true, file: archive, cwd: parent }, ["cifar-10-batches-bin"]);
    for (const data of [archive, folder]) {
      expect(await loadDataset({ name: "cifar10", data, split: "train" })).toEqual(expected);
      expect(await loadDataset({ name: "cifar10", data, split: "train", limit: 3 })).toMatchObject({ count: 3 });
    }
    expect(await readdir(folder)).toEqual(["cifar-10-binary.tar.gz"]);
  });

  test("a cut-off archive and one without the files are refused", async () => {
    const parent = await cifar10(40);
    const whole = join(await fresh(), "whole.tar.gz");
    await create({ gzip: true, file: whole, cwd: parent }, ["cifar-10-batches-bin"]);
    const { readFile } = await import("node:fs/promises");
    const bytes = await readFile(whole);
    const cut = join(await fresh(), "cut.tar.gz");
    await writeFile(cut, bytes.subarray(0, bytes.length >> 1));
    expect(await refusal({ name: "cifar10", data: cut, split: "train" })).toContain("is not a whole tar.gz file");
    await writeFile(cut, "not an archive at all");
    expect(await refusal({ name: "cifar10", data: cut, split: "train" })).toContain("cut.tar.gz");
    expect(await refusal({ name: "cifar100", data: whole, split: "train" })).toContain("holds no train.bin");
  });

  test("what is wrong with the files is named", async () => {
    const data = await cifar10();
    const file = join(data, "cifar-10-batches-bin", "data_batch_3.bin");
    const ask = () => refusal({ name: "cifar10", data, split: "train" });
    await writeFile(file, record([3], 1).subarray(0, 3000));
    expect(await ask()).toMatch(/data_batch_3\.bin is cut off: its 3000 bytes/);
    await writeFile(file, "");
    expect(await ask()).toMatch(/data_batch_3\.bin is empty/);
    await writeFile(file, Buffer.concat([record([3], 1), record([10], 1)]));
    expect(await ask()).toMatch(/label 10 in record 1, but labels are 0 to 9/);
    await writeFile(file, Buffer.alloc(10_001 * 3073));
    expect(await ask()).toMatch(/holds 10001 records but the official file has 10000/);
    await rm(file);
    expect(await ask()).toMatch(/data_batch_3\.bin is missing/);
  });

  test("so is what is wrong with the request", async () => {
    const empty = await fresh();
    expect(await refusal({ name: "cifar10", split: "train" })).toContain("needs --data");
    expect(await refusal({ name: "cifar10", data: join(empty, "no"), split: "train" })).toContain("does not exist");
    expect(await refusal({ name: "cifar10", data: empty, split: "train" })).toContain("data_batch_1.bin");
    expect(await refusal({ name: "cifar10", data: empty, split: "unlabeled" })).toContain("no split unlabeled");
    expect(await refusal({ name: "cifar10", data: empty, split: "train", limit: 0 })).toContain("limit");
    expect(await refusal({ name: "cifar10", data: empty, split: "train", size: 1.5 })).toContain("size");
    const file = join(empty, "notes.txt");
    await writeFile(file, "x");
    expect(await refusal({ name: "cifar10", data: file, split: "train" })).toContain(
      "notes.txt is a text, not a folder or a .tar.gz file; give the folder cifar-10-batches-bin",
    );
  });
});

test("CIFAR-100: fine labels, coarse ones kept", async () => {
  const parent = await fresh();
  await mkdir(join(parent, "cifar-100-binary"));
  await writeFile(
    join(parent, "cifar-100-binary", "train.bin"),
    Buffer.concat([record([11, 19], 0), record([19, 99], 1)]),
  );
  const dataset = await loadDataset({ name: "cifar100", data: parent, split: "train" });
  expect([...dataset.labels!]).toEqual([19, 99]);
  expect([...dataset.coarseLabels!]).toEqual([11, 19]);
  expect(dataset.classes).toHaveLength(100);
  expect([dataset.classes[19], dataset.classes[99]]).toEqual(["cattle", "worm"]);
  expect(dataset.coarseClasses![11]).toBe("large_omnivores_and_herbivores");
  await writeFile(join(parent, "cifar-100-binary", "train.bin"), record([20, 0], 0));
  expect(await refusal({ name: "cifar100", data: parent, split: "train" })).toContain("label 20 in record 0");
});

describe("STL-10", () => {
  const side = 96;
  const write = async (split: string, images: number, labels?: readonly number[]): Promise<string> => {
    const path = await fresh();
    const bytes = Buffer.alloc(images * 3 * side * side);
    // Column-major: the pixel (x, y) of plane p holds p·64 + (x in the left half) ·32 + (y in the upper quarter) ·16.
    for (let n = 0; n < images; n++)
      for (let p = 0; p < 3; p++)
        for (let x = 0; x < side; x++)
          for (let y = 0; y < side; y++)
            bytes[((n * 3 + p) * side + x) * side + y] = p * 64 + (x < 48 ? 32 : 0) + (y < 24 ? 16 : 0);
    await writeFile(join(path, `${split}_X.bin`), bytes);
    if (labels) await writeFile(join(path, `${split}_y.bin`), Buffer.from(labels));
    return path;
  };

  test("images are turned to row-major and labels start at 0", async () => {
    const data = await write("train", 2, [1, 10]);
    const dataset = await loadDataset({ name: "stl10", data, split: "train" });
    expect(dataset).toMatchObject({ count: 2, height: 96, width: 96, officialCount: 5000 });
    expect([...dataset.labels!]).toEqual([0, 9]);
    const at = (n: number, p: number, y: number, x: number): number =>
      dataset.images[((n * 3 + p) * side + y) * side + x]!;
    expect([at(0, 0, 0, 0), at(0, 0, 95, 0), at(1, 2, 0, 95), at(1, 1, 95, 95)]).toEqual([48, 32, 144, 64]);
    const small = await loadDataset({ name: "stl10", data, split: "train", size: 32, limit: 1 });
    expect(small).toMatchObject({ count: 1, height: 32 });
    expect(small.images[0]).toBe(48);
    expect(small.labels).toHaveLength(1);
  });

  test("the unlabeled split has no labels", async () => {
    const dataset = await loadDataset({ name: "stl10", data: await write("unlabeled", 1), split: "unlabeled" });
    expect(dataset).toMatchObject({ count: 1, classes: [], officialCount: 100_000 });
    expect(dataset.labels).toBeUndefined();
  });

  test("labels out of range or too few are refused", async () => {
    expect(await refusal({ name: "stl10", data: await write("test", 1, [0]), split: "test" })).toContain("1 to 10");
    expect(await refusal({ name: "stl10", data: await write("test", 2, [1]), split: "test" })).toContain(
      "1 labels but test_X.bin has 2 images",
    );
    expect(await refusal({ name: "stl10", data: await write("test", 2), split: "test" })).toContain("test_y.bin");
  });
});

describe("folder", () => {
  const paint = async (path: string, red: number, options: { width?: number; grey?: boolean } = {}): Promise<void> => {
    const image = sharp({
      create: { width: options.width ?? 32, height: 32, channels: 3, background: { r: red, g: 10, b: 20 } },
    });
    await (options.grey ? image.greyscale() : image).toFile(path);
  };

  test("classes of splits, in the order of their names", async () => {
    const data = await fresh();
    for (const path of ["train/cat", "train/dog/deep", "train/.hidden", "test/dog"])
      await mkdir(join(data, path), { recursive: true });
    await paint(join(data, "train/dog/b.png"), 2);
    await paint(join(data, "train/dog/deep/c.webp"), 250, { width: 64 });
    await paint(join(data, "train/cat/a.png"), 1);
    await writeFile(join(data, "train/cat/notes.txt"), "not an image");
    await paint(join(data, "test/dog/z.png"), 3);
    const dataset = await loadDataset({ name: "folder", data, split: "train", size: 32, warn });
    expect(dataset).toMatchObject({ count: 3, classes: ["cat", "dog"], height: 32, officialCount: 3 });
    expect([...dataset.labels!]).toEqual([0, 1, 1]);
    expect([0, 1].map((i) => dataset.images[i * 3072])).toEqual([1, 2]);
    expect(Math.abs(dataset.images[2 * 3072]! - 250)).toBeLessThan(6);
    expect(dataset.images[3072 + 1024]).toBe(10);
    const held = await loadDataset({ name: "folder", data, split: "test", size: 16, warn });
    expect(held).toMatchObject({ count: 1, classes: ["cat", "dog"], height: 16 });
    expect([...held.labels!]).toEqual([1]);
    expect(await refusal({ name: "folder", data, split: "unlabeled" })).toContain("no folder unlabeled");
    await mkdir(join(data, "test/horse"));
    expect(await refusal({ name: "folder", data, split: "test" })).toContain("horse is a class that");
  });

  test("images alone have no labels; grey ones become RGB", async () => {
    const data = await fresh();
    await paint(join(data, "b.png"), 200);
    await paint(join(data, "a.png"), 100, { grey: true });
    const dataset = await loadDataset({ name: "folder", data, split: "train" });
    expect(dataset).toMatchObject({ count: 2, classes: [], officialCount: 2 });
    expect(dataset.labels).toBeUndefined();
    expect(dataset.images[0]).toBe(dataset.images[2048]);
    expect([0, 2048].map((i) => dataset.images[3072 + i])).toEqual([200, 20]);
    const one = await loadDataset({ name: "folder", data, split: "train", limit: 1 });
    expect(one).toMatchObject({ count: 1, officialCount: 2 });
  });

  test("what cannot be used is named", async () => {
    const data = await fresh();
    expect(await refusal({ name: "folder", data, split: "train" })).toContain("has no images");
    await paint(join(data, "good.png"), 1);
    await writeFile(join(data, "bad.jpg"), "no JPEG");
    expect(await refusal({ name: "folder", data, split: "train" })).toMatch(/bad\.jpg cannot be decoded/);
    await mkdir(join(data, "class"));
    expect(await refusal({ name: "folder", data, split: "train" })).toContain(
      "both images (bad.jpg) and class folders",
    );
    expect(await refusal({ name: "folder", data: join(data, "good.png"), split: "train" })).toContain("not a folder");
  });
});

describe("shapes", () => {
  test("are fixed by seed, split and index", async () => {
    const few = await loadDataset({ name: "shapes", split: "train", limit: 12, size: 8 });
    const more = await loadDataset({ name: "shapes", split: "train", limit: 20, size: 8 });
    expect(more.images.subarray(0, few.images.length)).toEqual(few.images);
    expect(few.classes).toHaveLength(10);
    expect([...few.labels!]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    expect(few.officialCount).toBe(2000);
    for (const other of [
      await loadDataset({ name: "shapes", split: "test", limit: 12, size: 8 }),
      await loadDataset({ name: "shapes", split: "train", limit: 12, size: 8, seed: 1 }),
    ])
      expect(other.images).not.toEqual(few.images);
  });

  test("come in any size, 500 for testing", async () => {
    const dataset = await loadDataset({ name: "shapes", split: "test", size: 8 });
    expect(dataset).toMatchObject({ count: 500, height: 8, width: 8 });
    expect(await refusal({ name: "shapes", split: "unlabeled" })).toContain("train and test");
  });
});

test("a subset keeps places and labels", async () => {
  const dataset = await loadDataset({ name: "shapes", split: "train", limit: 12 });
  const part = subset(dataset, [11, 3]);
  expect([...part.index]).toEqual([11, 3]);
  expect([...part.labels!]).toEqual([1, 3]);
  expect(part.images.subarray(3072)).toEqual(dataset.images.subarray(3 * 3072, 4 * 3072));
  expect(() => subset(dataset, [12])).toThrow(RangeError);
});

const shared = new URL("../../../shared/data", import.meta.url).pathname;
(available("data", existsSync(shared)) ? test : test.skip)(
  "real files (skipped where ../shared/data is absent)",
  async () => {
    const train = await loadDataset({ name: "cifar10", data: shared, split: "train" });
    expect([train.count, train.index[4999]]).toEqual([5000, 40_999]);
    expect(train.classes[train.labels![0]!]).toBe("frog");
    const fine = await loadDataset({ name: "cifar100", data: shared, split: "train" });
    expect([fine.count, fine.classes[fine.labels![0]!]]).toEqual([486, "cattle"]);
    const unlabeled = await loadDataset({ name: "stl10", data: shared, split: "unlabeled", limit: 5, size: 32 });
    expect(unlabeled.count).toBe(5);
  },
);
