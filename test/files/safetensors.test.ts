import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { type DType, dtypes } from "../../graphs/onnx/dtype.ts";
import { float32, sizeOf, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../../src/errors.ts";
import {
  decodeSafetensors,
  encodeSafetensors,
  readSafetensors,
  writeSafetensors,
} from "../../src/files/safetensors.ts";

const fixture = new URL("../fixtures/python.safetensors", import.meta.url).pathname;

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "safetensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file of the given header and data. */
const file = (header: unknown, data = Buffer.alloc(0)): Buffer => {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, data]);
};

describe("a file made by the Python package", () => {
  test("reads with every dtype", async () => {
    const { tensors, metadata } = await readSafetensors(fixture);
    expect(metadata).toEqual({ format: "pt" });
    const values = Object.fromEntries(
      [...tensors].map(([name, { dtype, shape, data }]) => [name, [dtype, shape, ...data]]),
    );
    expect(values).toEqual({
      f32: ["float32", [2, 3], 1.5, -2, 3.25, 0, Number.POSITIVE_INFINITY, -0.125],
      f64: ["float64", [2], Math.PI, -1e300],
      f16: ["float16", [3], 0x3c00, 0xb800, 0x7bff],
      bf16: ["float32", [3], 1, -2.5, 3.00405527047391e38],
      i8: ["int8", [2], -128, 127],
      u8: ["uint8", [3], 0, 255, 7],
      i16: ["int16", [2], -32768, 32767],
      u16: ["uint16", [2], 0, 65535],
      i32: ["int32", [2], -2147483648, 2147483647],
      u32: ["uint32", [2], 0, 4294967295],
      i64: ["int64", [2], -(2n ** 63n), 2n ** 63n - 1n],
      u64: ["uint64", [2], 0n, 2n ** 64n - 1n],
      bool: ["bool", [3], 1, 0, 1],
      scalar: ["float32", [], 0.5],
      empty: ["float32", [0, 3]],
      "bn1.bn_list.2.größe": ["float32", [1], 1],
      "10": ["float32", [1], 10],
      "9": ["float32", [1], 9],
    });
  });

  test("is written again in the same order, but for BF16 which becomes F32", async () => {
    const bytes = await readFile(fixture);
    const { tensors, metadata } = decodeSafetensors(bytes, fixture);
    tensors.delete("bf16");
    const written = encodeSafetensors(tensors, metadata);
    const names = (from: Uint8Array) =>
      [
        ...Buffer.from(from)
          .toString("latin1")
          .matchAll(/"([^"]+)":\{"dtype"/g),
      ].map(([, name]) => name);
    expect(names(written)).toEqual(names(bytes).filter((name) => name !== "bf16"));
    expect(decodeSafetensors(written, "again")).toEqual({ tensors, metadata });
  });
});

describe("writing", () => {
  test("does not depend on the order of the tensors and aligns each of them", () => {
    const a = tensor("uint8", [3], new Uint8Array([1, 2, 3]));
    const b = tensor("float64", [], new Float64Array([2]));
    const bytes = encodeSafetensors({ a, b }, { x: "1", a: "2" });
    expect(
      encodeSafetensors(
        new Map<string, Tensor>([
          ["b", b],
          ["a", a],
        ]),
        { a: "2", x: "1" },
      ),
    ).toEqual(bytes);
    expect(
      Buffer.from(bytes)
        .toString("latin1", 8, 8 + bytes[0]!)
        .trimEnd(),
    ).toBe(
      '{"__metadata__":{"a":"2","x":"1"},"b":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}',
    );
    expect(bytes[0]! % 8).toBe(0);
  });

  test("leaves no temporary file and replaces the old one", async () => {
    const path = join(folder, "deep", "w.safetensors");
    await writeSafetensors(path, { a: float32([1], [1]) });
    await writeSafetensors(path, { a: float32([2], [1, 2]) });
    expect(await readdir(join(folder, "deep"))).toEqual(["w.safetensors"]);
    expect((await readSafetensors(path)).tensors.get("a")).toEqual(float32([2], [1, 2]));
    expect(await readFile(path)).toEqual(Buffer.from(encodeSafetensors({ a: float32([2], [1, 2]) })));
  });

  test("reads a view into a larger buffer, and no tensors at all", () => {
    const data = new Float32Array([0, 1, 2, 3]).subarray(1, 3);
    const { tensors } = decodeSafetensors(encodeSafetensors({ a: tensor("float32", [2], data) }), "memory");
    expect(tensors.get("a")).toEqual(float32([2], [1, 2]));
    expect(decodeSafetensors(encodeSafetensors({}), "memory").tensors.size).toBe(0);
  });

  test.each([
    [{ __metadata__: float32([], [0]) }, "a tensor cannot be named __metadata__; rename it"],
    [{ "\ud800": float32([], [0]) }, 'tensor name "\\ud800" is not valid Unicode; rename it'],
  ])("refuses a name that the format cannot hold", (tensors, message) => {
    expect(() => encodeSafetensors(tensors)).toThrow(new RequestError(message));
  });

  test("refuses data that are not what the tensor says", () => {
    const bad = { dtype: "float32", shape: [2], data: new Float32Array(3) } as const;
    expect(() => encodeSafetensors({ bad })).toThrow('"bad" (float32[2]) has 3 values');
    expect(() => encodeSafetensors({ bad: tensor("bool", [1], new Uint8Array([2])) })).toThrow(
      '"bad" (bool[1]) holds bytes other than 0 and 1',
    );
  });
});

describe("a faulty file", () => {
  const f32 = (shape: unknown, data_offsets: unknown) => ({ dtype: "F32", shape, data_offsets });
  const cases: [string, Buffer, string][] = [
    ["short", Buffer.alloc(4), "it has 4 bytes, fewer than the 8 of a header's length"],
    [
      "garbage",
      Buffer.from([1, 2, 3, 4, 5, 6, 7, 8, 9]),
      "its first 8 bytes give a header of 578437695752307201 bytes (at most 100000000 are allowed)",
    ],
    ["header cut", file({}).subarray(0, 9), "its header should have 2 bytes but the file ends after 1"],
    ["not JSON", file("{'a': 1}"), "its header is not JSON"],
    [
      "not UTF-8",
      Buffer.concat([file("").fill(4, 0, 1), Buffer.from([0x22, 0xff, 0x22, 0x20])]),
      "its header is not JSON",
    ],
    ["a list", file([]), "its header is not a JSON object"],
    ["not an entry", file({ a: 1 }), 'tensor "a" is not described by an object'],
    ["no dtype", file({ a: {} }), 'tensor "a" has no dtype'],
    ["negative size", file({ a: f32([-1], [0, 4]) }), 'tensor "a" has no valid shape'],
    ["fraction", file({ a: f32([0.5], [0, 2]) }), 'tensor "a" has no valid shape'],
    ["no offsets", file({ a: f32([1], [0]) }), 'tensor "a" has no valid data_offsets'],
    ["size", file({ a: f32([2], [0, 4]) }, Buffer.alloc(4)), 'tensor "a" is F32[2], 8 bytes, but its offsets span 4'],
    [
      "huge",
      file({ a: f32([2 ** 52, 2 ** 52], [0, 4]) }, Buffer.alloc(4)),
      'tensor "a" is F32[4503599627370496,4503599627370496], 8.112963841460668e+31 bytes, but its offsets span 4',
    ],
    ["gap", file({ a: f32([1], [4, 8]) }, Buffer.alloc(8)), 'bytes 0 to 4 before tensor "a" belong to no tensor'],
    [
      "overlap",
      file({ a: f32([2], [0, 8]), b: f32([1], [4, 8]) }, Buffer.alloc(8)),
      'tensor "b" starts at byte 4, inside the tensor before it',
    ],
    [
      "cut",
      file({ a: f32([2], [0, 8]) }, Buffer.alloc(7)),
      "its tensors take 8 bytes but only 7 follow the header: it is cut short",
    ],
    ["long", file({ a: f32([2], [0, 8]) }, Buffer.alloc(9)), "1 bytes follow the last tensor"],
    [
      "bool",
      file({ a: { dtype: "BOOL", shape: [1], data_offsets: [0, 1] } }, Buffer.from([3])),
      'tensor "a" is BOOL but holds bytes other than 0 and 1',
    ],
    ["metadata", file({ __metadata__: { a: 1 } }), "__metadata__ is not an object of texts"],
  ];
  test.each(cases)("%s", async (name, bytes, what) => {
    const path = join(folder, `${name}.safetensors`);
    await writeFile(path, bytes);
    const error = new RequestError(`${path} is not a usable safetensors file: ${what}; make or download it again`);
    await expect(readSafetensors(path)).rejects.toThrow(error);
    expect(() => decodeSafetensors(bytes, path)).toThrow(error);
  });

  test("a file of another kind is called what it is", async () => {
    const path = join(folder, "other.safetensors");
    for (const [bytes, what] of [
      ["", "is empty, not a safetensors file"],
      ["PK\u0003\u0004 not tensors at all", "is a zip archive, not a safetensors file"],
      ["version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, which only stands for the file"],
    ] as const) {
      await writeFile(path, bytes);
      await expect(readSafetensors(path)).rejects.toThrow(`${path} ${what}`);
      expect(() => decodeSafetensors(Buffer.from(bytes), path)).toThrow(RequestError);
    }
  });

  test("a dtype that is not read is named", () => {
    const bytes = file({ a: { dtype: "F8_E4M3", shape: [1], data_offsets: [0, 1] } }, Buffer.alloc(1));
    expect(() => decodeSafetensors(bytes, "w.safetensors")).toThrow(
      new RequestError(
        'w.safetensors: tensor "a" has dtype F8_E4M3, which is not read; convert it to one of F32, F64, F16, BF16, I8, U8, I16, U16, I32, U32, I64, U64, BOOL',
      ),
    );
  });

  test("a missing file and a folder are named", async () => {
    const missing = join(folder, "none.safetensors");
    await expect(readSafetensors(missing)).rejects.toThrow(`cannot read ${missing}: it does not exist; check the path`);
    await expect(readSafetensors(folder)).rejects.toThrow(RequestError);
  });
});

describe("properties", () => {
  const anyTensor: fc.Arbitrary<Tensor> = fc
    .record({
      dtype: fc.constantFrom(...(Object.keys(dtypes) as DType[])),
      shape: fc.array(fc.nat(4), { maxLength: 3 }),
      seed: fc.uint8Array({ minLength: 8, maxLength: 8 }),
    })
    .map(({ dtype, shape, seed }) => {
      const { array } = dtypes[dtype];
      const bytes = new Uint8Array(sizeOf(shape) * array.BYTES_PER_ELEMENT);
      for (let i = 0; i < bytes.length; i++) bytes[i] = dtype === "bool" ? seed[i % 8]! % 2 : seed[i % 8]! ^ i;
      return { dtype, shape, data: new array(bytes.buffer) };
    });
  const anyTensors = fc.dictionary(
    fc.string({ unit: "grapheme" }).filter((name) => name !== "__metadata__"),
    anyTensor,
    {
      maxKeys: 5,
    },
  );

  test("what is written reads back bit for bit", () => {
    fc.assert(
      fc.property(
        anyTensors,
        fc.dictionary(fc.string(), fc.string(), { maxKeys: 3, noNullPrototype: true }),
        (tensors, metadata) => {
          const read = decodeSafetensors(encodeSafetensors(tensors, metadata), "memory");
          expect([...read.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort());
          for (const [name, { dtype, shape, data }] of read.tensors) {
            const { dtype: dtypeBefore, shape: shapeBefore, data: before } = tensors[name]!;
            expect([dtype, shape]).toEqual([dtypeBefore, shapeBefore]);
            expect(Buffer.from(data.buffer).equals(Buffer.from(before.buffer))).toBe(true);
          }
          expect(read.metadata).toEqual(metadata);
        },
      ),
      { seed: 1, numRuns: 200 },
    );
  });

  test("a changed or cut file is read or refused with a RequestError, never a crash", () => {
    const change = fc.record({ at: fc.nat(), to: fc.nat(255) });
    fc.assert(
      fc.property(anyTensors, fc.array(change, { maxLength: 4 }), fc.option(fc.nat()), (tensors, changes, cut) => {
        const bytes = Buffer.from(encodeSafetensors(tensors));
        for (const { at, to } of changes) bytes[at % bytes.length] = to;
        const file = cut === null ? bytes : bytes.subarray(0, cut % bytes.length);
        try {
          decodeSafetensors(file, "mutated");
        } catch (error) {
          expect(error).toBeInstanceOf(RequestError);
        }
      }),
      { seed: 2, numRuns: 500 },
    );
  });
});
