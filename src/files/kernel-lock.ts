/**
 * The kernel's own lock of a file (flock(2)), called through koffi where that is installed. Linux alone needs it: only there
 * processes of one machine may not see each other. The kernel gives it up when its process ends, however it ends; one kernel's
 * processes agree about it wherever they look at the file through the same mounted file system, which its device number tells.
 * flock rather than fcntl: the latter is lost when the process closes any other handle of the file, as each sign of life does.
 */
import { closeSync, fstatSync, openSync, readFileSync, writeSync } from "node:fs";
import { loadKoffi } from "../engine/native/library.ts";

type Flock = (descriptor: number, operation: number) => number;

/** LOCK_EX | LOCK_NB of sys/file.h. */
const exclusive = 2 | 4;

let found: Flock | null | undefined;

const flock = (): Flock | null => {
  if (found !== undefined) return found;
  try {
    // The C library that Node itself was linked with, of whatever kind and name.
    const own = process.platform === "linux" ? loadKoffi().load(null) : undefined;
    found = (own?.func("flock", "int", ["int", "int"]) as Flock | undefined) ?? null;
  } catch {
    found = null; // without koffi locks are told by their names alone
  }
  return found;
};

/** What a file that the kernel holds says of itself: where its lock can be asked for. */
const markOf = (descriptor: number): string => `kernel ${fstatSync(descriptor, { bigint: true }).dev}\n`;

/**
 * Locks an open file in the kernel for as long as its descriptor is open, and writes into it, from `position`, that it is.
 * Does nothing where the kernel can't be asked.
 */
export const holdInKernel = (descriptor: number, position: number): void => {
  if (flock()?.(descriptor, exclusive) !== 0) return;
  try {
    writeSync(descriptor, markOf(descriptor), position);
  } catch {
    // A disk that is full: the lock is told by its name alone.
  }
};

/**
 * Whether a process of this kernel holds a file that was locked by `holdInKernel`; unknown where it was not, where this
 * process sees it through another mounted file system, where it can't be opened, and where the kernel can't be asked.
 */
export const heldInKernel = (path: string, position: number): "held" | "free" | "unknown" => {
  const lock = flock();
  if (lock === null) return "unknown";
  let descriptor: number;
  try {
    descriptor = openSync(path, "r+");
  } catch {
    return "unknown";
  }
  try {
    if (readFileSync(descriptor, "latin1").slice(position) !== markOf(descriptor)) return "unknown";
    return lock(descriptor, exclusive) === 0 ? "free" : "held";
  } finally {
    closeSync(descriptor); // with it the lock that it may have taken
  }
};
