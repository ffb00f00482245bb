import { readFileSync } from "node:fs";
import { open, readdir, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RequestError } from "../errors.ts";
import { fileError } from "./file-error.ts";

/**
 * A folder's lock is an empty file named after the process that holds it. A process makes its own file first and looks
 * for others' afterwards, so of two that come at once at least one sees the other; files of dead processes are removed
 * by whoever comes next. Nothing needs to run for that when a process is killed.
 */
interface Holder {
  readonly pid: number;
  /** When the process began, in the system's ticks, so that a number used again is not taken for it; 0 where unknown. */
  readonly began: string;
  readonly host: string;
}

const prefix = ".lock-";

/** Whether a file name is that of a lock. */
export const isLock = (name: string): boolean => name.startsWith(prefix);

const nameOf = ({ pid, began, host }: Holder): string => `${prefix}${pid}-${began}-${host}`;

const parse = (name: string): Holder | undefined => {
  const match = /^\.lock-(\d+)-(\d+)-(.+)$/.exec(name);
  return match ? { pid: Number(match[1]), began: match[2]!, host: match[3]! } : undefined;
};

/** State letter and start of a process, from Linux's /proc; undefined elsewhere and where there is no such process. */
const statOf = (pid: number): { state: string; began: string } | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" "); // the name before may hold blanks
    return { state: fields[0]!, began: fields[19]! };
  } catch {
    return undefined;
  }
};

const isAlive = ({ pid, began }: Holder): boolean => {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  const stat = statOf(pid);
  if (stat === undefined) return began === "0";
  return stat.began === began && stat.state !== "Z" && stat.state !== "X"; // a zombie writes nothing any more
};

/**
 * Holds a folder for this process alone until the returned function is called or the process ends, however it ends.
 *
 * @returns the release, which may be called more than once
 * @throws RequestError naming the living process that holds the folder
 */
export const lockFolder = async (folder: string): Promise<() => Promise<void>> => {
  const self: Holder = { pid: process.pid, began: statOf(process.pid)?.began ?? "0", host: hostname() };
  const own = nameOf(self);
  const attempts = 4;
  for (let attempt = 1; ; attempt++) {
    try {
      await (await open(join(folder, own), "wx")).close();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw fileError(error, "write", folder);
      throw new RequestError(
        `${folder} is being written by this process (${process.pid}) already; close that run first`,
      );
    }
    const others: Holder[] = [];
    for (const name of await readdir(folder)) {
      const holder = parse(name);
      if (holder === undefined || name === own) continue;
      if (holder.host !== self.host || isAlive(holder)) others.push(holder);
      else await rm(join(folder, name), { force: true });
    }
    const release = () => rm(join(folder, own), { force: true });
    if (others.length === 0) return release;
    await release();
    const [holder] = others;
    // Two that came at once may each have seen the other: try again at a moment of their own.
    if (attempt < attempts) await sleep(5 + Math.random() * 40);
    else if (holder!.host === self.host)
      throw new RequestError(
        `${folder} is being written by process ${holder!.pid}; wait until it ends or choose another folder`,
      );
    else
      throw new RequestError(
        `${folder} is being written by process ${holder!.pid} on ${holder!.host}; if that no longer runs, delete ${join(folder, nameOf(holder!))}`,
      );
  }
};
