import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { RequestError, RunError } from "../../src/errors.ts";
import { AppendFile } from "../../src/files/append-file.ts";
import {
  checkWritable,
  isPartial,
  makeFolder,
  removePartials,
  writeFileAtomic,
  writeFolderAtomic,
} from "../../src/files/atomic.ts";
import { fileError } from "../../src/files/file-error.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "atomic-"));
});
afterEach(() => rm(folder, { recursive: true }));

test("a file is written from text, bytes or pieces, over the old one", async () => {
  const path = join(folder, "new", "a.txt");
  for (const content of ["abc", Buffer.from("abc"), [Buffer.from("a"), new Uint8Array(), Buffer.from("bc")]]) {
    await writeFileAtomic(path, content);
    expect(await readFile(path, "utf8")).toBe("abc");
  }
  expect(await readdir(join(folder, "new"))).toEqual(["a.txt"]);
});

test("a file that could not be written is refused beforehand, and nothing is made", async () => {
  await writeFile(join(folder, "a.txt"), "");
  await expect(checkWritable(folder)).rejects.toThrow(`cannot write ${folder}: it is a folder; name a file`);
  await expect(checkWritable(join(folder, "a.txt", "b"))).rejects.toThrow("a part of the path is a file");
  await checkWritable(join(folder, "a.txt"));
  await checkWritable(join(folder, "new", "deep", "b"));
  expect(await readdir(folder)).toEqual(["a.txt"]);
});

test("a path that is not UTF-8 is refused instead of written elsewhere", async () => {
  // What Node makes of the argument caf\\xe9.
  const path = join(folder, "caf\ufffd", "a");
  for (const write of [
    () => writeFileAtomic(path, ""),
    () => writeFolderAtomic(path, async () => {}),
    () => makeFolder(path),
    () => checkWritable(path),
    async () => new AppendFile(path, 0),
  ])
    await expect(write()).rejects.toThrow(/is not UTF-8 \(or holds the character U\+FFFD\); rename it/);
  expect(await readdir(folder)).toEqual([]);
  expect(fileError(Object.assign(new Error(), { code: "ENOENT" }), "read", path)).toMatchObject({
    name: "RequestError",
    message: `cannot read ${path}: its name is not UTF-8; rename it`,
  });
});

test("a folder is made with its parents, and what is in the way is named", async () => {
  await Promise.all([makeFolder(join(folder, "a", "b", "c")), makeFolder(join(folder, "a", "b", "d"))]);
  expect((await readdir(join(folder, "a", "b"))).sort()).toEqual(["c", "d"]);
  await writeFile(join(folder, "file"), "");
  await expect(makeFolder(join(folder, "file"))).rejects.toThrow("it exists already");
  await expect(makeFolder(join(folder, "file", "x"))).rejects.toThrow("a part of the path is a file");
  const full = Object.assign(new Error("full"), { code: "ENOSPC" });
  const filling = writeFolderAtomic(join(folder, "e"), async (temporary) => {
    throw fileError(full, "write", join(temporary, "f"));
  });
  await expect(filling).rejects.toThrow(`cannot write ${join(folder, "e")}: the disk is full; free some space`);
});

test("where writing fails, the old file stays and nothing else is left", async () => {
  const path = join(folder, "a.txt");
  await writeFile(path, "old");
  const pieces = (function* () {
    yield Buffer.from("new");
    throw new Error("halfway");
  })();
  await expect(writeFileAtomic(path, pieces)).rejects.toThrow("halfway");
  await expect(
    writeFolderAtomic(join(folder, "b"), async (temporary) => {
      await writeFileAtomic(join(temporary, "c"), "c");
      throw new Error("halfway");
    }),
  ).rejects.toThrow("halfway");
  expect(await readdir(folder)).toEqual(["a.txt"]);
  expect(await readFile(path, "utf8")).toBe("old");
});

test("a folder replaces the old one", async () => {
  const path = join(folder, "b");
  await writeFolderAtomic(path, (temporary) => writeFileAtomic(join(temporary, "old"), ""));
  await writeFolderAtomic(path, (temporary) => writeFileAtomic(join(temporary, "new"), ""));
  expect(await readdir(path)).toEqual(["new"]);
  expect(await readdir(folder)).toEqual(["b"]);
});

test("a path that cannot be written is named", async () => {
  await writeFile(join(folder, "a"), "");
  const path = join(folder, "a", "b");
  await expect(writeFileAtomic(path, "")).rejects.toThrow(RequestError);
  await mkdir(join(folder, "c"));
  await expect(writeFileAtomic(join(folder, "c"), "")).rejects.toThrow(
    `cannot write ${join(folder, "c")}: it is a folder; name a file`,
  );
});

test("unfinished work is told apart and removed", async () => {
  await writeFile(join(folder, ".a.txt.partial-12-00ff00ff"), "");
  await writeFile(join(folder, "a.partial-b"), "");
  expect([".a.txt.partial-12-00ff00ff", "a.partial-b", ".a"].map(isPartial)).toEqual([true, false, false]);
  await removePartials(folder);
  expect(await readdir(folder)).toEqual(["a.partial-b"]);
});

/** The name of unfinished work of this process at `path`, as it is while it is written. */
const partialOf = async (path: string): Promise<string> => {
  let name = "";
  const pieces = (function* () {
    name = readdirSync(dirname(path)).find(isPartial)!;
    yield Buffer.from("");
  })();
  await writeFileAtomic(path, pieces);
  return name;
};

test("what writers of the same path that were killed left beside it is removed by the next, what others write is not", async () => {
  const path = join(folder, "a.onnx");
  const own = await partialOf(path);
  const [, pid, began, place] = /-(\d+)-(\d+)-([0-9a-f]+)-[0-9a-f]+$/.exec(own)!;
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "exit");
  const named = (...parts: (string | number | undefined)[]) => `.a.onnx.partial-${parts.join("-")}`;
  const ended = named(child.pid, began, place, "00ff00ff");
  const usedAgain = named(pid, Number(began) + 1, place, "00ff00ff");
  const old = named(child.pid, began, "00ff00ff00ff", "00ff00aa");
  // Of a living process, of another container or machine, of another file, and of another program.
  const kept = [
    named(pid, began, place, "00ff00ff"),
    named(child.pid, began, "00ff00ff00ff", "00ff00ff"),
    `.b.onnx.partial-${child.pid}-${began}-${place}-00ff00ff`,
    ".a.onnx.partial-download",
  ];
  for (const write of [writeFileAtomic, (to: string) => writeFolderAtomic(to, async () => {})]) {
    for (const name of [ended, usedAgain, old, ...kept]) await writeFile(join(folder, name), "");
    const aDayAgo = Date.now() / 1000 - 86_500;
    for (const name of [old, ".a.onnx.partial-download"]) await utimes(join(folder, name), aDayAgo, aDayAgo);
    await mkdir(join(folder, named(child.pid, began, place, "0000000f")));
    await write(path, "new");
    const isLinux = process.platform === "linux"; // elsewhere a number that was used again is not told from the process
    expect((await readdir(folder)).sort()).toEqual(["a.onnx", ...kept, ...(isLinux ? [] : [usedAgain])].sort());
  }
});

test.each([
  ["ENOENT", RequestError, "cannot read x: it does not exist; check the path"],
  ["EACCES", RequestError, "cannot read x: permission denied; choose a path that you may use"],
  ["ENOSPC", RunError, "cannot read x: the disk is full; free some space"],
])("%s", (code, type, message) => {
  const error = fileError(Object.assign(new Error("system"), { code }), "read", "x");
  expect(error).toBeInstanceOf(type);
  expect((error as Error).message).toBe(message);
});
