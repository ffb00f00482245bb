import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { zipSync } from "fflate";
import { readTorchCheckpoint, type TorchOptions } from "../../src/files/torch-file.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "advcl-torch-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Pickled values: numbers as BININT or BINFLOAT, texts, tuples. */
const text = (s: string): string => `X${String.fromCharCode(s.length, 0, 0, 0)}${s}`;
const int = (n: number): string => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(n));
  return `\x8a\x08${bytes.toString("latin1")}`;
};
const float = (x: number): string => {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(x);
  return `G${bytes.toString("latin1")}`;
};
const tuple = (...items: readonly string[]): string => `(${items.join("")}t`;
const ints = (values: readonly number[]): string => tuple(...values.map(int));

const storage = (key: string, count: string, type = "FloatStorage"): string =>
  `${tuple(text("storage"), `ctorch\n${type}\n`, text(key), text("cpu"), count)}Q`;
const rebuild = (args: readonly string[]): string => `ctorch._utils\n_rebuild_tensor_v2\n${tuple(...args)}R`;
const dictionary = (...entries: readonly (readonly [string, string])[]): string =>
  `}(${entries.map(([name, value]) => text(name) + value).join("")}u`;

/** A tensor over four floats of storage 0. */
const tensor = (offset: string, shape: string, strides: string, count = int(4)): string =>
  rebuild([storage("0", count), offset, shape, strides, "\x89", "N"]);

const four = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);

const read = async (pickle: string, options: TorchOptions = {}, data: Record<string, Uint8Array> = { 0: four }) => {
  const path = join(folder, "net.pt");
  const members = Object.fromEntries(Object.entries(data).map(([key, bytes]) => [`net/data/${key}`, bytes]));
  await writeFile(
    path,
    zipSync({ "net/data.pkl": Buffer.from(`\x80\x02${pickle}.`, "latin1"), ...members }, { level: 0 }),
  );
  return readTorchCheckpoint(path, options);
};
const one = async (value: string, options?: TorchOptions): Promise<number[]> =>
  Array.from((await read(dictionary(["w", value]), options)).tensors.get("w")!.data, Number);

test("a sound one is read: views, strides of 0, scalars", async () => {
  expect(await one(tensor(int(0), ints([2, 2]), ints([2, 1])))).toEqual([1, 2, 3, 4]);
  expect(await one(tensor(int(0), ints([2, 2]), ints([1, 2])))).toEqual([1, 3, 2, 4]);
  expect(await one(tensor(int(1), ints([3, 2]), ints([0, 1])))).toEqual([2, 3, 2, 3, 2, 3]);
  expect(await one(tensor(int(3), ints([]), ints([])))).toEqual([4]);
  expect(await one(tensor(int(0), ints([0, 9]), ints([9, 1])))).toEqual([]);
});

describe("numbers that are none of a tensor are refused", () => {
  test.each<[string, string, RegExp]>([
    ["a negative offset", tensor(int(-1), ints([2]), ints([1])), /the tensor "w": its offset, shape or strides/],
    ["half an offset", tensor(float(0.5), ints([2]), ints([1])), /its offset, shape or strides/],
    ["a whole offset as a float", tensor(float(NaN), ints([2]), ints([1])), /its offset, shape or strides/],
    ["a negative stride", tensor(int(3), ints([4]), ints([-1])), /its offset, shape or strides/],
    ["half a stride", tensor(int(0), ints([2]), tuple(float(0.5))), /its offset, shape or strides/],
    ["a negative size", tensor(int(0), ints([-2]), ints([1])), /its offset, shape or strides/],
    ["a size of True", tensor(int(0), tuple("\x88"), ints([1])), /its offset, shape or strides/],
    ["a text for a size", tensor(int(0), tuple(text("2")), ints([1])), /its offset, shape or strides/],
    ["fewer strides", tensor(int(0), ints([2, 2]), ints([1])), /its offset, shape or strides/],
    ["too many axes", tensor(int(0), ints(new Array(65).fill(1)), ints(new Array(65).fill(1))), /its offset, shape/],
    ["beyond the storage", tensor(int(1), ints([4]), ints([1])), /it reaches beyond its storage/],
    ["far beyond it", tensor(int(0), ints([2]), ints([2 ** 52])), /it reaches beyond its storage/],
    [
      "a storage of another size",
      tensor(int(0), ints([3]), ints([1]), int(3)),
      /has 16 bytes, which are not 3 elements/,
    ],
    ["a storage of a negative size", tensor(int(0), ints([3]), ints([1]), int(-4)), /its storage 0 has -4 elements/],
    [
      "a storage that is missing",
      rebuild([storage("7", int(4)), int(0), ints([1]), ints([1])]),
      /storage 7 is missing/,
    ],
    [
      "a storage's type that is no key of an object",
      rebuild([storage("0", int(4), "constructor"), int(0), ints([1]), ints([1])]),
      /it is of constructor, which is not read/,
    ],
    [
      "a storage of complex numbers",
      rebuild([storage("0", int(2), "ComplexFloatStorage"), int(0), ints([1]), ints([1])]),
      /it is of ComplexFloatStorage, which is not read; convert it to float32/,
    ],
    ["no storage at all", rebuild([int(0), int(0), ints([1]), ints([1])]), /it has no storage/],
    [
      "booleans that are neither",
      rebuild([storage("0", int(16), "BoolStorage"), int(0), ints([16]), ints([1])]),
      /bool but holds bytes other/,
    ],
  ])("%s", async (_, value, message) => {
    await expect(one(value)).rejects.toThrow(message);
  });
});

describe("a bomb is refused before memory is taken", () => {
  test("of one tensor expanded", async () => {
    const bomb = tensor(int(0), ints([10 ** 9]), ints([0]));
    await expect(one(bomb)).rejects.toThrow(/the tensor "w": it would take 4000000000 bytes where/);
    await expect(one(tensor(int(0), ints([2 ** 40, 2 ** 40]), ints([0, 0])))).rejects.toThrow(/which is no size/);
    // The budget is the caller's.
    const small = tensor(int(0), ints([1000]), ints([0]));
    await expect(one(small, { budget: 3000 })).rejects.toThrow(/it would take 4000 bytes where/);
    expect(await one(small, { budget: 8000 })).toHaveLength(1000);
  });

  test("of many tensors of one storage", async () => {
    const half = tensor(int(0), ints([2 ** 26]), ints([0]));
    const names = Array.from({ length: 40 }, (_, i): [string, string] => [`w${i}`, i === 0 ? `${half}q\x01` : "h\x01"]);
    await expect(read(dictionary(...names))).rejects.toThrow(/would take 268435456 bytes where/);
  });

  test("of dictionaries in dictionaries, which are looked at once", async () => {
    // Forty levels, each with the next under two names: 2^40 ways to the tensor.
    const levels = Array.from({ length: 40 }, (_, i) => `}q${String.fromCharCode(i)}`).join("");
    const links = Array.from({ length: 39 }, (_, i) => {
      const [at, next] = [String.fromCharCode(i), String.fromCharCode(i + 1)];
      return `h${at}(${text("a")}h${next}${text("b")}h${next}u0`;
    }).join("");
    const last = `h${String.fromCharCode(39)}${text("w")}${tensor(int(0), ints([1]), ints([1]))}s0`;
    const found = await read(`${levels}${links}${last}h\0`);
    expect([...found.tensors.keys()]).toEqual(["w"]);
    expect(found.key).toMatch(/^(a\.){38}a$/);
  });
});

describe("a dictionary is chosen and told", () => {
  const w = (x: number): string => tensor(int(x), ints([1]), ints([1]));
  const two = (x: number): string => dictionary(["a", w(x)], ["b", w(x)]);

  test("what was trained before averages of it, whatever their order", async () => {
    for (const names of [
      ["state_dict", "state_dict_ema"],
      ["state_dict_ema", "state_dict"],
    ]) {
      const file = dictionary(...names.map((name): [string, string] => [name, two(name === "state_dict" ? 0 : 1)]));
      const found = await read(file);
      expect([found.key, found.others, found.tensors.get("a")!.data[0]]).toEqual(["state_dict", ["state_dict_ema"], 1]);
      const asked = await read(file, { key: "state_dict_ema" });
      expect([asked.key, asked.others, asked.tensors.get("a")!.data[0]]).toEqual(["state_dict_ema", ["state_dict"], 2]);
      await expect(read(file, { key: "net" })).rejects.toThrow(
        'net.pt has no dictionary of tensors under "net"; it has "state_dict", "state_dict_ema": choose one of these by --key',
      );
    }
  });

  test("that fits what is looked for, however small; of several that do none is guessed", async () => {
    const three = dictionary(["c", w(0)], ["d", w(0)], ["e", w(0)]);
    const fits: TorchOptions["fits"] = (shapes) => shapes.get("a")?.join() === "1";
    const found = await read(dictionary(["head", three], ["net", two(0)]), { fits });
    expect([found.key, found.others]).toEqual(["net", ["head"]]);
    const ema = await read(dictionary(["model_ema", two(1)], ["model", two(0)]), { fits });
    expect([ema.key, ema.others]).toEqual(["model", ["model_ema"]]);
    const several = dictionary(["best", two(1)], ["last", two(0)]);
    await expect(read(several, { fits })).rejects.toThrow(
      /holds 2 networks, under "best", "last"; choose one, such as --key best$/,
    );
    expect((await read(several, { fits, key: "last" })).others).toEqual(["best"]);
    expect((await read(dictionary(["head", three]), { fits })).key).toBe("head");
  });

  test("names of an object's own are names like others", async () => {
    const found = await read(dictionary(["__proto__", w(0)], ["constructor", w(1)], ["toString", w(2)]));
    expect([...found.tensors].map(([name, { data }]) => [name, data[0]])).toEqual([
      ["__proto__", 1],
      ["constructor", 2],
      ["toString", 3],
    ]);
    expect(({} as { dtype?: unknown }).dtype).toBeUndefined();
  });

  test("a whole model and a list are refused with the remedy", async () => {
    await expect(read("c__main__\nNet\n)R")).rejects.toThrow(
      /whole model \(__main__\.Net\), not its weights; save model\.state_dict\(\)/,
    );
    await expect(read(`](${w(0)}e`)).rejects.toThrow(/no dictionary of tensors; save the model's state_dict\(\)/);
  });
});
