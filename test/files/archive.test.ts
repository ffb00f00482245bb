import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { create } from "tar";
import { locate, readMembers, readWhole, type Version } from "../../src/files/archive.ts";
import type { ReadOptions } from "../../src/files/budget.ts";

let root = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "advcl-archive-"));
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

const version: Version = { layout: { title: "Set", folder: "set", archive: "set.tar.gz" }, files: ["a.bin", "b.bin"] };
const contents = new Map(["a.bin", "b.bin", "other.bin"].map((name, i) => [name, Buffer.alloc(3000 + i, name)]));

/** An archive of the files, `a.bin` and `b.bin` among them. */
const pack = async (name: string, gzip = true): Promise<string> => {
  const folder = join(root, "source", "set");
  await mkdir(folder, { recursive: true });
  for (const [file, bytes] of contents) await writeFile(join(folder, file), bytes);
  const path = join(root, name);
  await create({ gzip, file: path, cwd: join(root, "source"), portable: true }, ["set"]);
  return path;
};

const read = async (path: string, options?: ReadOptions): Promise<Record<string, string>> => {
  const found = await readMembers(
    await locate(path, [version]),
    async (_, member) => Buffer.from(await readWhole(member, 10_000)).toString(),
    options,
  );
  return Object.fromEntries([...found].sort());
};

const expected = { "a.bin": String(contents.get("a.bin")), "b.bin": String(contents.get("b.bin")) };

/** The outcome, which must come: a promise that never settles ends a program without a word. */
const settled = async (path: string): Promise<Record<string, string> | Error> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("it never settles")), 5_000);
  });
  try {
    return await Promise.race([read(path), late]);
  } catch (error) {
    expect([(error as Error).name, (error as Error).message]).toEqual(["RequestError", expect.stringContaining(path)]);
    return error as Error;
  } finally {
    clearTimeout(timer);
  }
};

test("an archive is read by what it is, not by its name, and its folder too", async () => {
  for (const gzip of [true, false])
    expect(await read(await pack(gzip ? "any.name" : "plain.tar", gzip))).toEqual(expected);
  expect(await read(join(root, "source"))).toEqual(expected);
  expect(await read(join(root, "source", "set"))).toEqual(expected);
  expect(await read(await pack("set.tar.gz"))).toEqual(expected);
  expect(await read(root)).toEqual(expected);
});

describe("a small archive with one wrong bit", () => {
  test("gives the same content or is refused, and comes to an end: gzip has a checksum", async () => {
    const bytes = await readFile(await pack("whole.tar.gz"));
    const path = join(root, "damaged.tar.gz");
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(8 * bytes.length - 1), async (bit) => {
        const damaged = Buffer.from(bytes);
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        await writeFile(path, damaged);
        const found = await settled(path);
        if (found instanceof Error) refused++;
        else expect(found).toEqual(expected);
      }),
      { numRuns: 300, seed: 1 },
    );
    expect(refused).toBeGreaterThan(250);
  });

  test("in the checksum alone is refused, though all files were read by then", async () => {
    const bytes = await readFile(await pack("whole.tar.gz"));
    for (const [at, what] of [
      [8, /incorrect data check/],
      [4, /incorrect length check/],
    ] as const) {
      const damaged = Buffer.from(bytes);
      damaged[damaged.length - at]! ^= 1;
      await writeFile(join(root, "crc.tar.gz"), damaged);
      await expect(read(join(root, "crc.tar.gz"))).rejects.toThrow(what);
    }
  });

  test("in the header of a member of a plain tar is refused by its checksum", async () => {
    const bytes = await readFile(await pack("plain.tar", false));
    const header = bytes.indexOf("set/b.bin");
    const path = join(root, "damaged.tar");
    for (const at of [0, 100, 124, 130, 136, 148, 156, 257]) {
      const damaged = Buffer.from(bytes);
      damaged[header + at]! ^= 1;
      await writeFile(path, damaged);
      expect(await settled(path)).toBeInstanceOf(Error);
    }
  });

  test("or cut anywhere is refused", async () => {
    const bytes = await readFile(await pack("whole.tar.gz"));
    const plain = gunzipSync(bytes);
    const path = join(root, "cut.tar.gz");
    for (let length = 0; length < bytes.length; length += 13) {
      await writeFile(path, bytes.subarray(0, length));
      expect(await settled(path)).toBeInstanceOf(Error);
    }
    // Cut inside a file before it was compressed: gzip's checksum is right.
    for (const length of [512, 1024, 1500, 3000, 4608, 6000]) {
      await writeFile(path, gzipSync(plain.subarray(0, length)));
      expect(await settled(path)).toBeInstanceOf(Error);
    }
  });
});

test("a bomb is refused at the budget", async () => {
  const folder = join(root, "bomb");
  await mkdir(folder);
  await writeFile(join(folder, "a.bin"), "");
  await writeFile(join(folder, "zeros"), Buffer.alloc(2 ** 24));
  const path = join(root, "bomb.tar.gz");
  await create({ gzip: true, file: path, cwd: folder }, ["zeros", "a.bin"]);
  await expect(read(path, { budget: 2 ** 22 })).rejects.toThrow(/bomb\.tar\.gz unpacked would take \d+ bytes where/);
});

test("a link in a file's place and a refusal of the reader are told", async () => {
  const folder = join(root, "links");
  await mkdir(folder);
  await symlink("/etc/hostname", join(folder, "a.bin"));
  await writeFile(join(folder, "b.bin"), Buffer.alloc(20_000));
  const path = join(root, "links.tar.gz");
  await create({ gzip: true, file: path, cwd: folder }, ["a.bin"]);
  await expect(read(path)).rejects.toThrow(/links\.tar\.gz:a\.bin is no file but a SymbolicLink/);
  await create({ gzip: true, file: path, cwd: folder }, ["b.bin"]);
  await expect(read(path)).rejects.toThrow(/b\.bin has 20000 bytes but the official file at most 10000/);
});

test("two files of a name that is wanted are told", async () => {
  const folder = join(root, "twice");
  for (const part of ["one", "two"]) {
    await mkdir(join(folder, part), { recursive: true });
    for (const name of version.files) await writeFile(join(folder, part, name), part);
  }
  const path = join(root, "twice.tar.gz");
  await create({ gzip: true, file: path, cwd: folder }, ["one", "two"]);
  await expect(read(path)).rejects.toThrow(/holds two files a\.bin \(one\/a\.bin and two\/a\.bin\)/);
});

test("what is no archive is called what it is", async () => {
  const path = join(root, "set.html");
  await writeFile(path, "<html>");
  await expect(read(path)).rejects.toThrow(`data: ${path} is an HTML page, not a folder or a .tar.gz file`);
  const folder = join(root, "pages");
  await mkdir(folder);
  for (const name of version.files) await writeFile(join(folder, name), "<!doctype html>");
  await expect(read(folder)).rejects.toThrow(
    /a\.bin is an HTML page, not a file of the dataset; the download went wrong/,
  );
});
