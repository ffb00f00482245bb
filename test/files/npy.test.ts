import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { openNpy, readNpyLabels } from "../../src/files/npy.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "advcl-npy-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

let serial = 0;
const npy = async (header: string, data: Uint8Array, version = 1): Promise<string> => {
  const path = join(folder, `${serial++}.npy`);
  const start = Buffer.alloc(version === 1 ? 10 : 12);
  start.write("\x93NUMPY", "latin1");
  start[6] = version;
  if (version === 1) start.writeUInt16LE(header.length, 8);
  else start.writeUInt32LE(header.length, 8);
  await writeFile(path, Buffer.concat([start, Buffer.from(header), data]));
  return path;
};
const bytesOf = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const rows = async (path: string): Promise<number[]> => {
  const file = await openNpy(path);
  try {
    return [...(await file.rows(0, file.shape[0]!))];
  } finally {
    await file.close();
  }
};
const header = (descr: string, shape: string, order = "False"): string =>
  `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${shape}, }\n`;

describe("whole numbers from 0 to 255", () => {
  test.each<[string, Uint8Array]>([
    ["|u1", Uint8Array.of(0, 7, 255)],
    ["|i1", Uint8Array.of(0, 7, 127)],
    ["<i2", bytesOf(Int16Array.of(0, 7, 255))],
    ["<u2", bytesOf(Uint16Array.of(0, 7, 255))],
    [">i4", Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 255)],
    ["<i8", bytesOf(BigInt64Array.of(0n, 7n, 255n))],
    ["<u8", bytesOf(BigUint64Array.of(0n, 7n, 255n))],
  ])("of %s", async (descr, data) => {
    expect(await rows(await npy(header(descr, "(3,)"), data))).toEqual([0, 7, descr === "|i1" ? 127 : 255]);
  });

  test.each<[string, Uint8Array, string]>([
    ["<i4", bytesOf(Int32Array.of(1, 300)), "300 at place 1"],
    ["<i4", bytesOf(Int32Array.of(-1, 3)), "-1 at place 0"],
    ["|i1", bytesOf(Int8Array.of(1, -1)), "-1 at place 1"],
    ["<i8", bytesOf(BigInt64Array.of(1n, 2n ** 32n)), "4294967296 at place 1"],
    ["<u8", bytesOf(BigUint64Array.of(1n, 2n ** 64n - 1n)), "18446744073709551615 at place 1"],
  ])("others of %s are refused where they are read", async (descr, data, what) => {
    await expect(rows(await npy(header(descr, "(2,)"), data))).rejects.toThrow(`it holds ${what}`);
  });

  test("rows are counted from the first axis", async () => {
    const file = await openNpy(await npy(header("<i2", "(3, 2)"), bytesOf(Int16Array.of(1, 2, 3, 4, 5, 6))));
    expect([...(await file.rows(1, 3))]).toEqual([3, 4, 5, 6]);
    await expect(file.rows(1, 4)).rejects.toThrow(RangeError);
    await file.close();
  });
});

describe("a header", () => {
  test.each([
    ["another order of keys", `{"shape":(2,),"descr":"|u1","fortran_order":False}`],
    ["longs of Python 2", "{'descr': '|u1', 'fortran_order': False, 'shape': (2L,), }"],
    ["Fortran order of one axis, which is C order too", header("|u1", "(1, 2)", "True")],
  ])("of %s", async (_, text) => {
    expect(await rows(await npy(text, Uint8Array.of(1, 2)))).toEqual([1, 2]);
    expect(await rows(await npy(text, Uint8Array.of(1, 2), 2))).toEqual([1, 2]);
  });

  test.each<[string, string, RegExp]>([
    ["Fortran order", header("|u1", "(2, 2)", "True"), /in Fortran order; save it through numpy\.ascontiguousarray/],
    [
      "Fortran order, spelled otherwise",
      `{"shape" :(2,2) , "fortran_order" :True , "descr" : "|u1"}`,
      /in Fortran order/,
    ],
    ["floats", header("<f4", "(1,)"), /floating-point numbers \(<f4\); save it with \(255 \* x\)\.round/],
    ["objects", header("|O", "(1,)"), /Python objects/],
    ["fields", "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (4,)}", /records of several fields/],
    ["no shape", "{'descr': '|u1', 'fortran_order': False}", /lacks descr, fortran_order or shape/],
    ["a shape twice", "{'descr': '|u1', 'shape': (4,), 'shape': (4,), 'fortran_order': False}", /has shape twice/],
    ["an order that is none", "{'descr': '|u1', 'fortran_order': 1, 'shape': (4,)}", /header is damaged/],
    ["a negative shape", header("|u1", "(-4,)"), /header is damaged/],
    ["a fractional shape", header("|u1", "(0.5, 8)"), /header is damaged/],
    ["a scalar", header("|u1", "()"), /a single number/],
    ["fewer numbers than there are bytes", header("|u1", "(3,)"), /takes 3 bytes but 4 follow/],
    ["more numbers than there are bytes", header("|u1", "(5,)"), /takes 5 bytes but 4 follow/],
    ["more than any file", header("|u1", "(9007199254740993,)"), /beyond any file/],
    ["numbers that overflow", header("|u1", "(9007199254740991, 9007199254740991)"), /bytes but 4 follow/],
    ["no dictionary", "not a header", /no dictionary/],
  ])("of %s is refused", async (_, text, message) => {
    await expect(openNpy(await npy(text, new Uint8Array(4)))).rejects.toThrow(message);
  });

  test("a file of another kind, cut short or of an unknown version is refused", async () => {
    const path = join(folder, "other.npy");
    await writeFile(path, Buffer.from("\0\x05\x16\x07\0", "latin1"));
    await expect(openNpy(path)).rejects.toThrow(/is a macOS companion file \(\._…\)/);
    await writeFile(path, Buffer.from("\x93NUMPY\x01\0\xff\x7f", "latin1"));
    await expect(openNpy(path)).rejects.toThrow(/cut short/);
    await expect(openNpy(await npy(header("|u1", "(4,)"), new Uint8Array(4), 9))).rejects.toThrow(/version 9/);
  });
});

test("labels are one number an image, of the classes that there are", async () => {
  const column = await npy(header("<i8", "(3, 1)"), bytesOf(BigInt64Array.of(0n, 9n, 4n)));
  expect([...(await readNpyLabels(column, 10))]).toEqual([0, 9, 4]);
  await expect(readNpyLabels(column, 9)).rejects.toThrow("has label 9 for image 1, but labels are 0 to 8");
  await expect(readNpyLabels(await npy(header("|u1", "(2, 3)"), new Uint8Array(6)), 10)).rejects.toThrow(
    "is [2,3]; labels are one number an image, [2] (of one-hot labels, numpy.argmax(labels, 1))",
  );
});
