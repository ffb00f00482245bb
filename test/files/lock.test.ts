import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, jest, test } from "@jest/globals";
import { heldInKernel } from "../../src/files/kernel-lock.ts";
import { isDead, lockFolder } from "../../src/files/lock.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "advcl-lock-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

const locks = async (): Promise<string[]> => (await readdir(folder)).filter((name) => name.startsWith(".lock"));

/** The parts of this process's own lock: pid, start, namespace, boot, host. */
const ownParts = async (): Promise<string[]> => {
  const release = await lockFolder(folder);
  const [name] = await locks();
  await release();
  return /^\.lock-(\d+)-(\d+)-(\d+)-([0-9a-f]+)-(.+)$/.exec(name!)!.slice(1);
};

/** Lays a lock with some of this process's parts changed, `age` seconds old. */
const lay = async (changed: Record<number, string>, age = 0): Promise<string> => {
  const parts = (await ownParts()).map((part, i) => changed[i] ?? part);
  const path = join(folder, `.lock-${parts.join("-")}`);
  await writeFile(path, "");
  const time = Date.now() / 1000 - age;
  await utimes(path, time, time);
  return path;
};

/** The number of a process that has ended. */
const endedPid = async (): Promise<string> => {
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "exit");
  return String(child.pid);
};

test("held once in a process, free when it is released", async () => {
  const release = await lockFolder(folder);
  await expect(lockFolder(folder)).rejects.toThrow(/is being written by this process \(\d+\) already/);
  await release();
  await release();
  expect(await locks()).toEqual([]);
  await (await lockFolder(folder))();
});

test("a process that has ended holds nothing, nor does one whose number was used again", async () => {
  await lay({ 0: await endedPid() });
  await lay({ 1: "1" });
  await (await lockFolder(folder))();
  expect(await locks()).toEqual([]);
});

test("what cannot be seen from here may live, however silent: another container, another machine, another boot", async () => {
  const pid = await endedPid();
  for (const changed of [{ 2: "4026539999" }, { 4: "elsewhere" }, { 3: "abc" }, { 2: "0", 3: "0" }]) {
    const path = await lay({ 0: pid, ...changed }, 3600);
    await expect(lockFolder(folder)).rejects.toThrow(
      new RegExp(
        `process ${pid} on .* \\(it gave no sign of life for 36\\d\\d s\\); if that no longer runs, delete ${path}$`,
      ),
    );
    expect((await stat(path)).isFile()).toBe(true);
    await rm(path);
  }
});

const onLinux = process.platform === "linux" ? test : test.skip;

onLinux("the kernel says of a lock of another container whether it is held", async () => {
  const parts = await ownParts();
  const release = await lockFolder(folder);
  const [name] = await locks();
  const other = join(folder, `.lock-7-1-4026539999-${parts[3]}-elsewhere`);
  await rename(join(folder, name!), other);
  await expect(lockFolder(folder)).rejects.toThrow(
    `${folder} is being written by process 7 of another container (elsewhere); wait until it ends or choose another folder`,
  );
  await release();
  expect(await locks()).toEqual([basename(other)]);
  // What is not as the holder wrote it says nothing: another mounted file system, another program.
  const mark = await readFile(other, "latin1");
  expect(mark).toMatch(/^.kernel \d+\n$/s);
  for (const text of ["", ".", mark.replace(/\d+/, "1"), `${mark}x`]) {
    await writeFile(other, text, "latin1");
    await expect(lockFolder(folder)).rejects.toThrow(/if that no longer runs, delete/);
  }
  await writeFile(other, mark, "latin1");
  await (await lockFolder(folder))();
  expect(await locks()).toEqual([]);
});

onLinux("a sign of life leaves the kernel's lock and what the file says of it", async () => {
  const parts = await ownParts();
  jest.useFakeTimers({ doNotFake: ["setImmediate", "nextTick"] });
  const release = await lockFolder(folder);
  const path = join(folder, `.lock-${parts.join("-")}`);
  const mark = await readFile(path, "latin1");
  jest.advanceTimersByTime(10_000);
  jest.useRealTimers();
  while ((await readFile(path, "latin1"))[0] !== ".") await sleep(5);
  expect((await readFile(path, "latin1")).slice(1)).toBe(mark.slice(1));
  expect(heldInKernel(path, 1)).toBe("held");
  await release();
});

test("a lock of before the machine was started is dead, unless it gave signs of life since", () => {
  const self = { pid: 1, began: "1", namespace: "5", boot: "a", host: "h" };
  const lock = { ...self, pid: 2, boot: "b" };
  const hour = 3_600_000;
  const sign = (last: number) => ({ last, now: 10 * hour });
  expect(isDead(lock, self, sign(4 * hour), 5 * hour)).toBe(true);
  expect(isDead(lock, self, sign(6 * hour), 5 * hour)).toBe(false);
  expect(isDead(lock, self, sign(10 * hour - 1000), 10 * hour - 500)).toBe(false);
  expect(isDead(lock, self, sign(4 * hour), undefined)).toBe(false);
  expect(isDead({ ...lock, host: "other" }, self, sign(4 * hour), 5 * hour)).toBe(false);
  expect(isDead({ ...lock, namespace: "6" }, self, sign(4 * hour), 5 * hour)).toBe(false);
});

test("a lock of another program's spelling, and a folder of a lock's name, are told", async () => {
  const strange = join(folder, ".lock-17-1-elsewhere");
  await writeFile(strange, "");
  await expect(lockFolder(folder)).rejects.toThrow(`on an unknown machine`);
  await rm(strange);
  const parts = await ownParts();
  await mkdir(join(folder, `.lock-${parts.join("-")}`));
  await expect(lockFolder(folder)).rejects.toThrow(/is a folder where a lock is to be made; remove or rename it/);
  await rm(join(folder, `.lock-${parts.join("-")}`), { recursive: true });
  await mkdir(join(folder, ".lock-1-1-1-1-here"));
  await expect(lockFolder(folder)).rejects.toThrow(/\.lock-1-1-1-1-here is a folder where a lock is looked for/);
  expect(await locks()).toEqual([".lock-1-1-1-1-here"]);
});
