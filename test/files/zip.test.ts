import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { zipSync } from "fflate";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { Budget } from "../../src/files/budget.ts";
import { crc32, tableCrc32 } from "../../src/files/crc32.ts";
import { readTorchCheckpoint } from "../../src/files/torch-file.ts";
import { openZip } from "../../src/files/zip.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "advcl-zip-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** All members of an archive. */
const members = async (bytes: Uint8Array, budget = 2 ** 20): Promise<Record<string, string>> => {
  const path = join(folder, "a.zip");
  await writeFile(path, bytes);
  const handle = await open(path);
  try {
    const zip = await openZip(handle, bytes.length, new Budget(budget));
    const found: Record<string, string> = {};
    for (const name of zip.names) found[name] = Buffer.from(await zip.read(name)).toString("latin1");
    return found;
  } finally {
    await handle.close();
  }
};

const archive = zipSync({ "a.txt": Buffer.from("hello"), "deep/b": [Buffer.from("abc".repeat(100)), { level: 9 }] });

test("CRC-32 of the standard's example, by the table and by Node", () => {
  for (const crc of [crc32, tableCrc32]) {
    expect(crc(Buffer.from("123456789"))).toBe(0xcbf43926);
    expect(crc(Buffer.from("56789"), crc(Buffer.from("1234")))).toBe(0xcbf43926);
  }
});

test("members are read, stored or deflated", async () => {
  const expected = { "a.txt": "hello", "deep/b": "abc".repeat(100) };
  expect(await members(archive)).toEqual(expected);
  expect(await members(zipSync({ "a.txt": [Buffer.from("hello"), { level: 0 }] }))).toEqual({ "a.txt": "hello" });
  expect(await members(zipSync({}))).toEqual({});
});

describe("a damaged archive", () => {
  test("with any one bit turned gives the same members or is refused", async () => {
    const expected = await members(archive);
    let refused = 0;
    for (let bit = 0; bit < 8 * archive.length; bit++) {
      const damaged = archive.slice();
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      const found = await members(damaged).catch(() => undefined);
      if (found === undefined) refused++;
      else expect([bit, found]).toEqual([bit, expected]);
    }
    expect(refused).toBeGreaterThan(4 * archive.length);
  });

  test("cut anywhere is refused", async () => {
    for (let length = 0; length < archive.length; length++)
      await expect(members(archive.subarray(0, length))).rejects.toThrow();
  });

  test("with other bytes before or behind is refused", async () => {
    await expect(members(Buffer.concat([Buffer.from("x"), archive]))).rejects.toThrow("its directory is not where");
    await expect(members(Buffer.concat([archive, Buffer.from("x")]))).rejects.toThrow("cut short");
  });
});

test("a bomb is refused before it unfolds", async () => {
  const bomb = zipSync({ a: [Buffer.alloc(2 ** 24), { level: 9 }] });
  expect(bomb.length).toBeLessThan(2 ** 16);
  await expect(members(bomb)).rejects.toThrow(/its member a would take 16777216 bytes where/);
  // Its size falsely given as small.
  const lying = Buffer.from(bomb);
  const entry = lying.lastIndexOf(Buffer.from("PK\x01\x02", "latin1"));
  lying.writeUInt32LE(10, entry + 24);
  await expect(members(lying)).rejects.toThrow("does not unpack: it is damaged");
});

describe("a PyTorch checkpoint", () => {
  const file = fileURLToPath(new URL("../fixtures/torch/checkpoint.pt", import.meta.url));
  const text = ({ tensors }: { readonly tensors: ReadonlyMap<string, Tensor> }): string =>
    JSON.stringify(
      [...tensors].map(([name, { dtype, shape, data }]) => [name, dtype, shape, Array.from(data, String)]),
    );

  test("with a bit turned gives the same weights or is refused: the archive has checksums", async () => {
    const bytes = await readFile(file);
    const expected = text(await readTorchCheckpoint(file));
    const path = join(folder, "damaged.pt");
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(8 * bytes.length - 1), async (bit) => {
        const damaged = Buffer.from(bytes);
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        await writeFile(path, damaged);
        const found = await readTorchCheckpoint(path).catch((error: Error) => {
          expect(error.name).toBe("RequestError");
          refused++;
        });
        if (found !== undefined) expect(text(found)).toBe(expected);
      }),
      { numRuns: 200, seed: 20 },
    );
    expect(refused).toBeGreaterThan(50);
  });
});
