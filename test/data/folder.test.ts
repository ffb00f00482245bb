import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import sharp from "sharp";
import { checkDataset, type Dataset, type DatasetOptions, loadDataset } from "../../src/data/dataset.ts";
import { datasetFingerprint } from "../../src/data/digest.ts";

let root = "";
let warnings: string[] = [];
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "advcl-folder-"));
  warnings = [];
});
afterEach(async () => {
  await rm(root, { recursive: true });
});

const paint = async (path: string, red: number, width = 8, height = 8): Promise<void> => {
  const full = join(root, path);
  await mkdir(dirname(full), { recursive: true });
  await sharp({ create: { width, height, channels: 3, background: { r: red, g: 10, b: 20 } } }).toFile(full);
};

/** `count` images of each class in a folder; image j of class c is red 10·c + j. */
const classes = async (at: string, names: readonly string[], count: number): Promise<void> => {
  for (const [c, name] of names.entries())
    for (let j = 0; j < count; j++) await paint(join(at, name, `${j}.png`), 10 * c + j);
};

const load = (options: Partial<DatasetOptions> = {}): Promise<Dataset> =>
  loadDataset({
    name: "folder",
    data: root,
    split: "train",
    size: 8,
    warn: (message) => warnings.push(message),
    ...options,
  });
const reds = ({ images, count, height, width }: Dataset): number[] =>
  Array.from({ length: count }, (_, i) => images[3 * i * height * width]!);

describe("an image that cannot be decoded", () => {
  const spoil = (path: string) => writeFile(join(root, path), "this is no image");

  test("ends the run, or is left out and counted", async () => {
    await classes("train", ["cat", "dog"], 4);
    await spoil("train/cat/2.png");
    await expect(load()).rejects.toThrow(/train\/cat\/2\.png/);
    const whole = await load({ skipBroken: true });
    expect([whole.count, reds(whole)]).toEqual([7, [0, 1, 3, 10, 11, 12, 13]]);
    // Places stay those of the folder's files, which pseudo-labels and random numbers go by.
    expect([[...whole.index], [...whole.labels!], whole.officialCount]).toEqual([
      [0, 1, 3, 4, 5, 6, 7],
      [0, 0, 0, 1, 1, 1, 1],
      8,
    ]);
    expect(warnings).toEqual([expect.stringMatching(/^1 of 8 images of .* is left out as broken: .*cat\/2\.png/)]);
    warnings = [];
    await spoil("train/dog/0.png");
    expect(reds(await load({ skipBroken: true, size: undefined }))).toEqual([0, 1, 3, 11, 12, 13]);
    expect(warnings).toEqual([
      expect.stringMatching(/^2 of 8 images of .* are left out as broken: .*cat\/2\.png.*, …$/),
    ]);
  });

  test("is the end where there is no other", async () => {
    await classes("train", ["cat", "dog"], 1);
    await spoil("train/cat/0.png");
    await spoil("train/dog/0.png");
    for (const size of [8, undefined])
      await expect(load({ skipBroken: true, size })).rejects.toThrow(/train\/cat\/0\.png/);
  });
});

describe("a folder without splits", () => {
  test("has a share of each class held out for testing, always the same, and says so", async () => {
    await classes(".", ["cat", "dog"], 10);
    const [train, held] = [await load(), await load({ split: "test" })];
    expect([train.count, held.count, train.officialCount, held.officialCount]).toEqual([16, 4, 20, 20]);
    expect([...train.index, ...held.index].sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect([...held.labels!]).toEqual([0, 0, 1, 1]);
    expect(warnings[0]).toBe(
      `${root} has no folders train and test: of its 20 images 4 are held out for testing, 20 % of each class and always the same ones; make these folders to choose them yourself`,
    );
    // The run's seed must not move them: a model would be tested on what it was trained on.
    expect((await load({ split: "test", seed: 7 })).index).toEqual(held.index);
    // Nor does another class.
    await classes(".", ["ant"], 10);
    expect(reds(await load({ split: "test" })).slice(2)).toEqual(reds(held));
  });

  test("as large as was asked for, and never all of a class", async () => {
    await classes(".", ["cat", "dog"], 3);
    expect((await load({ testShare: 0.5 })).count).toBe(2);
    expect((await load({ testShare: 0.9 })).count).toBe(2);
    expect((await load({ testShare: 0 })).count).toBe(6);
    await expect(load({ testShare: 0, split: "test" })).rejects.toThrow(
      "nothing is held out for testing; make a folder test",
    );
    await expect(load({ testShare: 1 })).rejects.toThrow("test share must be a number from 0 to below 1, not 1");
    const unlabelled = await load({ split: "unlabeled" });
    expect([unlabelled.count, unlabelled.labels]).toEqual([6, undefined]);
  });
});

describe("splits", () => {
  test.each([
    ["Train", "Test"],
    ["training_set", "test_set"],
    ["TRAIN", "testing"],
  ])("%s and %s are known", async (train, test) => {
    await classes(train, ["cat", "dog"], 2);
    await classes(test, ["dog"], 1);
    expect(await load()).toMatchObject({ count: 4, classes: ["cat", "dog"] });
    const held = await load({ split: "test" });
    expect([held.classes, [...held.labels!]]).toEqual([["cat", "dog"], [1]]);
  });

  test.each(["val", "valid", "Validation"])("%s serves as test, and that is said", async (name) => {
    await classes("train", ["cat"], 2);
    await classes(name, ["cat"], 1);
    expect((await load({ split: "test" })).count).toBe(1);
    expect(warnings).toEqual([`${root} has no folder test: ${join(root, name)} serves as the test images`]);
    await classes("test", ["cat"], 2);
    expect((await load({ split: "test" })).count).toBe(2);
    expect(warnings[1]).toBe(`${join(root, "test")} has the test images; ${join(root, name)} is not used`);
  });

  test("train alone works; test images are refused before any is read, with a remedy", async () => {
    await mkdir(join(root, "train", "cat"), { recursive: true });
    await writeFile(join(root, "train", "cat", "broken.png"), "no image");
    const asked: DatasetOptions = { name: "folder", data: root, split: "test", size: 8 };
    const message = `data: ${root} has no folder test; its folders are train; make a folder test beside it, or give ${join(root, "train")} itself, of which a part is then held out.`;
    await expect(checkDataset(asked)).rejects.toThrow(message);
    await expect(loadDataset(asked)).rejects.toThrow(message);
    await checkDataset({ ...asked, split: "train" });
    await rm(join(root, "train", "cat", "broken.png"));
    await paint("train/cat/a.png", 1);
    expect((await load()).count).toBe(1);
  });

  test("what lies beside them, or under two names of one, is told", async () => {
    await classes("train", ["cat"], 1);
    await classes("annotations", ["x"], 1);
    await load();
    expect(warnings).toEqual([`${root} has folders train and test; beside them annotations is not used`]);
    await classes("Training", ["cat"], 1);
    await classes("Train", ["cat"], 1);
    expect((await load()).count).toBe(1); // spelled as it is asked for
    await rm(join(root, "train"), { recursive: true });
    await expect(load()).rejects.toThrow(/has both Train\w* and Train\w* for its train images; rename one/);
  });
});

test("a limit takes its share of each class", async () => {
  await classes("train", ["a", "b", "c"], 6);
  const few = await load({ limit: 6 });
  expect([...few.labels!]).toEqual([0, 0, 1, 1, 2, 2]);
  expect(few.officialCount).toBe(18);
  expect([...few.index]).toEqual([...few.index].sort((a, b) => a - b));
});

describe("files", () => {
  test("hidden ones and those of systems are skipped, others counted", async () => {
    await classes("train", ["cat"], 1);
    for (const name of [".DS_Store", "._0.png", "Thumbs.db", "notes.txt", "a.heic", "b.heic"])
      await writeFile(join(root, "train", "cat", name), "x");
    await classes("train", [".ipynb_checkpoints", "__MACOSX", "@eaDir"], 1);
    expect(await load()).toMatchObject({ count: 1, classes: ["cat"] });
    expect(warnings).toEqual([
      `${join(root, "train")}: 3 files were left out, as no image that is read (.heic 2, .txt 1)`,
    ]);
  });

  test("links to nowhere, to themselves and to where they lie are named", async () => {
    await classes("train", ["cat"], 1);
    const link = join(root, "train", "cat", "z.png");
    for (const [target, what] of [
      ["nowhere.png", "is a link to a file that is not there; restore that file or remove the link"],
      ["z.png", "is a link that leads to itself; remove it"],
      ["../cat", "is a link to a folder that it lies in itself; remove it"],
      ["../..", "is a link to a folder that it lies in itself; remove it"],
    ] as const) {
      await symlink(target, link);
      await expect(load()).rejects.toThrow(`data: ${link} ${what}.`);
      await rm(link);
    }
    await symlink("0.png", link);
    expect((await load()).count).toBe(2);
  });

  // Elsewhere there are no such pipes, or the file system refuses such names itself.
  (process.platform === "linux" ? test : test.skip)(
    "a pipe is no image, and a name that is not UTF-8 is told",
    async () => {
      await classes("train", ["cat"], 1);
      execFileSync("mkfifo", [join(root, "train", "cat", "pipe.png")]);
      expect((await load()).count).toBe(1);
      await writeFile(
        Buffer.concat([Buffer.from(join(root, "train", "cat", "caf")), Buffer.from([0xe9]), Buffer.from(".png")]),
        "x",
      );
      await expect(load()).rejects.toThrow(/holds a file whose name is not UTF-8 \(caf\ufffd\.png\); rename it/);
    },
  );

  test.each([
    ["", /x\.png cannot be decoded \(it is empty\); replace or remove it/],
    ["<html>404</html>", /x\.png cannot be decoded \(it is an HTML page\)/],
    ["version https://git-lfs.github.com/spec/v1\n", /x\.png cannot be decoded \(it is a Git LFS pointer/],
    [
      "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
      /x\.png cannot be decoded \(svg files are not read\)/,
    ],
  ])("of another kind under an image's name are called what they are (%j)", async (content, message) => {
    await mkdir(join(root, "train", "cat"), { recursive: true });
    await writeFile(join(root, "train", "cat", "x.png"), content);
    await expect(load()).rejects.toThrow(message);
  });

  test("bitmaps and portable maps are decoded", async () => {
    const folder = join(root, "train", "cat");
    await mkdir(folder, { recursive: true });
    // 2×2 from the lower left: blue, green / red, white; rows padded to four bytes.
    const bmp = Buffer.alloc(54 + 16);
    bmp.write("BM");
    bmp.writeUInt32LE(54, 10);
    bmp.writeUInt32LE(40, 14);
    bmp.writeInt32LE(2, 18);
    bmp.writeInt32LE(2, 22);
    bmp.writeUInt16LE(24, 28);
    bmp.set([255, 0, 0, 0, 255, 0], 54);
    bmp.set([0, 0, 255, 255, 255, 255], 62);
    await writeFile(join(folder, "a.bmp"), bmp);
    await writeFile(join(folder, "b.ppm"), Buffer.from("P6\n# a comment\n2 2\n255\nabcdefghijkl"));
    await writeFile(join(folder, "c.pgm"), Buffer.from("P5 2 2 15 \0\x01\x02\x0f".replace("15 ", "15\n"), "latin1"));
    const { images, count } = await load({ size: 2 });
    expect(count).toBe(3);
    expect([...images.subarray(0, 12)]).toEqual([255, 255, 0, 0, 0, 255, 0, 255, 0, 255, 255, 0]);
    expect(Buffer.from(images.subarray(12, 24)).toString()).toBe("adgjbehkcfil");
    expect([...images.subarray(24, 28)]).toEqual([0, 17, 34, 255]);
    await writeFile(join(folder, "a.bmp"), bmp.subarray(0, 60));
    await expect(load({ size: 2 })).rejects.toThrow(/a\.bmp cannot be decoded \(it is cut short\)/);
  });

  test("floating-point pixels keep their values", async () => {
    const pixels = Float32Array.from({ length: 64 }, (_, i) => i / 63);
    await mkdir(join(root, "train", "cat"), { recursive: true });
    await writeFile(join(root, "train", "cat", "a.tif"), floatTiff(pixels, 8));
    const { images } = await load();
    expect([...images.subarray(0, 64)]).toEqual(Array.from(pixels, (v) => Math.round(255 * v)));
    await writeFile(
      join(root, "train", "cat", "a.tif"),
      floatTiff(
        pixels.map((v) => 200 * v),
        8,
      ),
    );
    expect([...(await load()).images.subarray(0, 64)]).toEqual(Array.from(pixels, (v) => Math.round(200 * v)));
    await writeFile(
      join(root, "train", "cat", "a.tif"),
      floatTiff(
        pixels.map((v) => 1000 * v),
        8,
      ),
    );
    await expect(load()).rejects.toThrow(/its pixels are floating-point numbers of 0 to 1000/);
  });
});

/** A grey TIFF of one strip with 32-bit floating-point pixels (TIFF 6.0, sample format 3). */
const floatTiff = (pixels: Float32Array, width: number): Buffer => {
  const fields: [number, number, number][] = [
    [256, 3, width],
    [257, 3, pixels.length / width],
    [258, 3, 32],
    [259, 3, 1],
    [262, 3, 1],
    [273, 4, 8 + 2 + 12 * 10 + 4],
    [277, 3, 1],
    [278, 3, pixels.length / width],
    [279, 4, pixels.byteLength],
    [339, 3, 3],
  ];
  const head = Buffer.alloc(8 + 2 + 12 * fields.length + 4);
  head.write("II*\0\x08", "latin1");
  head.writeUInt16LE(fields.length, 8);
  for (const [i, [tag, type, value]] of fields.entries()) {
    head.writeUInt16LE(tag, 10 + 12 * i);
    head.writeUInt16LE(type, 12 + 12 * i);
    head.writeUInt32LE(1, 14 + 12 * i);
    head.writeUInt32LE(value, 18 + 12 * i);
  }
  return Buffer.concat([head, new Uint8Array(pixels.buffer)]);
};

describe("sizes", () => {
  test("left as they are where they are alike, refused where they are not", async () => {
    await paint("train/cat/a.png", 1, 12, 9);
    await paint("train/cat/b.png", 2, 12, 9);
    for (const size of [0, undefined]) expect(await load({ size })).toMatchObject({ count: 2, width: 12, height: 9 });
    await paint("train/cat/c.png", 3, 40, 30);
    await expect(load({ size: 0 })).rejects.toThrow(
      `the images of ${root} have 2 sizes, 12×9 to 40×30; give --size to make them alike.`,
    );
  });

  test("a bomb is refused by its header, and at the budget", async () => {
    await paint("train/cat/a.png", 1, 100, 100);
    await expect(load({ budget: 30_000 })).rejects.toThrow(
      /a\.png cannot be decoded \(it has more than the 7500 pixels that an image may\)/,
    );
    const path = join(root, "train", "cat", "a.png");
    const bytes = await readFile(path);
    bytes.writeUInt32BE(60_000, 16);
    bytes.writeUInt32BE(60_000, 20);
    bytes[28] = 1; // interlaced: unfolds in memory
    bytes.writeUInt32BE(crcOf(bytes.subarray(12, 29)), 29);
    await writeFile(path, bytes);
    await expect(load()).rejects.toThrow(
      /a\.png cannot be decoded \(it has more than the 134217728 pixels that an image may\)/,
    );
  });

  test("more images than memory are refused before they are read", async () => {
    await paint("train/cat/a.png", 1);
    await expect(load({ size: 2 ** 20 })).rejects.toThrow(
      /take 3072\.0 GiB, more than the .* GiB of memory; lower --limit or --size/,
    );
  });
});

const crcOf = (bytes: Uint8Array): number => {
  let value = ~0;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return ~value >>> 0;
};

test("a fingerprint changes with any name or pixel, not with the place or the size", async () => {
  await classes("train", ["cat", "dog"], 2);
  const fingerprint = async (options?: Partial<DatasetOptions>) => datasetFingerprint(await load(options));
  const before = await fingerprint();
  expect(before).toMatch(/^[0-9a-f]{32}$/);
  expect(await fingerprint({ size: 4 })).toBe(before);
  await paint("train/dog/1.png", 99);
  const repainted = await fingerprint();
  await paint("train/dog/1.png", 11);
  expect(await fingerprint()).toBe(before);
  await writeFile(join(root, "train", "dog", "2.png"), await readFile(join(root, "train", "dog", "1.png")));
  await rm(join(root, "train", "dog", "1.png"));
  expect(new Set([before, repainted, await fingerprint()]).size).toBe(3);
});
