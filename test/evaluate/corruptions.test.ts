/** Files of corruptions as people have them: rows C3 to C6 of the table of cases. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { findCorruptions, type LabelOptions, readCorruptions } from "../../src/evaluate/corruptions.ts";

let folder = "";
let serial = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "advcl-corruptions-"));
});
afterAll(() => rm(folder, { recursive: true }));

const npy = (descr: string, shape: readonly number[], bytes: Uint8Array): Buffer => {
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")},), }\n`;
  const start = Buffer.from(`\x93NUMPY\x01\x00${String.fromCharCode(text.length, 0)}`, "latin1");
  return Buffer.concat([start, Buffer.from(text), bytes]);
};

const labels = (values: readonly number[], descr = "|u1"): Buffer =>
  npy(
    descr,
    [values.length],
    descr === "|u1" ? Uint8Array.from(values) : new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
  );

const images = (count: number): Buffer => npy("|u1", [count, 2, 2, 3], new Uint8Array(count * 12));

const folderOf = async (files: Readonly<Record<string, Buffer | string>>): Promise<string> => {
  const path = join(folder, String(serial++));
  await mkdir(path);
  for (const [name, content] of Object.entries(files)) await writeFile(join(path, name), content);
  return path;
};

const read = async (files: Readonly<Record<string, Buffer | string>>, options: Partial<LabelOptions> = {}) => {
  const warnings: string[] = [];
  const warn = (message: string) => warnings.push(message);
  const found = await findCorruptions(await folderOf(files));
  const read_ = await readCorruptions(found, { classes: 10, places: undefined, seed: 0, warn, ...options });
  return { ...read_, warnings };
};

const four = [0, 1, 2, 3];
const fiveTimes = Array.from({ length: 5 }, () => four).flat();

test("labels that repeat five times are of five severities, and a limit takes the same images of each (C5)", async () => {
  const {
    labels: found,
    chosen,
    warnings,
  } = await read({ "fog.npy": images(20), "labels.npy": labels(fiveTimes) }, { limit: 2 });
  expect([...found]).toEqual(fiveTimes);
  expect(chosen).toHaveLength(10);
  expect(new Set(chosen.map((place) => place % 4)).size).toBe(2);
  expect(new Set(chosen.map((place) => Math.floor(place / 4)))).toEqual(new Set([0, 1, 2, 3, 4]));
  expect(warnings).toEqual([]);
});

test("labels of one severity serve for five; other labels are of one, and that is said", async () => {
  const short = await read({ "fog.npy": images(20), "labels.npy": labels(four) });
  expect([...short.labels]).toEqual(fiveTimes);
  expect(short.chosen).toHaveLength(20);
  const one = await read({ "fog.npy": images(4), "labels.npy": labels(four) });
  expect(one.chosen).toEqual(four);
  expect(one.warnings).toEqual([
    expect.stringMatching(/don't repeat 5 times: its 4 images are taken as of one severity/),
  ]);
});

test("labels beyond the classes are refused by number (C3)", async () => {
  const beyond = { "fog.npy": images(4), "labels.npy": labels([0, 77, 1, 2]) };
  await expect(read(beyond)).rejects.toThrow(/labels\.npy has label 77 for image 1, but labels are 0 to 9/);
  const negative = { "fog.npy": images(4), "labels.npy": labels([0, -1, 1, 2], "<i8") };
  await expect(read(negative)).rejects.toThrow(/it holds -1 at place 1/);
});

test("hidden files and others are no corruptions (C4); without any, or without labels, the remedy is said", async () => {
  const found = await findCorruptions(
    await folderOf({ "fog.npy": images(4), "._fog.npy": "\0", "README.txt": "x", "labels.npy": labels(four) }),
  );
  expect(found.names).toEqual(["fog.npy"]);
  await expect(findCorruptions(await folderOf({ "labels.npy": labels(four) }))).rejects.toThrow(/holds no \.npy files/);
  await expect(findCorruptions(await folderOf({ "fog.npy": images(4) }))).rejects.toThrow(
    /has no labels\.npy beside fog\.npy; .*save the labels there by that name/,
  );
});

test("types that are no pixels are named with the remedy (C6)", async () => {
  const float = npy("<f4", [4, 2, 2, 3], new Uint8Array(4 * 48));
  await expect(read({ "fog.npy": float, "labels.npy": labels(four) })).rejects.toThrow(
    /fog\.npy .*floating-point numbers \(<f4\); save it with \(255 \* x\)\.round\(\)/,
  );
  const first = npy("|u1", [4, 3, 2, 2], new Uint8Array(48));
  await expect(read({ "fog.npy": images(4), "jpeg.npy": first, "labels.npy": labels(four) })).rejects.toThrow(
    /jpeg\.npy is \[4,3,2,2\]; expected \[4,H,H,3\].*numpy\.transpose\(x, \(0, 2, 3, 1\)\)/,
  );
  await expect(read({ "fog.npy": images(7), "labels.npy": labels(four) })).rejects.toThrow(/fog\.npy is \[7,2,2,3\]/);
  const hot = npy("|u1", [4, 10], new Uint8Array(40));
  await expect(read({ "fog.npy": images(4), "labels.npy": hot })).rejects.toThrow(/numpy\.argmax\(labels, 1\)/);
});

test("labels are those of the model's classes where these are in another order", async () => {
  const places = Int32Array.from([3, 2, 1, 0]);
  const { labels: found } = await read({ "fog.npy": images(4), "labels.npy": labels(four) }, { classes: 4, places });
  expect([...found]).toEqual([3, 2, 1, 0]);
});
