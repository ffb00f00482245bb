import { closeSync, fstatSync, openSync } from "node:fs";
import { open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RequestError } from "../errors.ts";
import { fileError } from "./file-error.ts";
import { type Holder, hasEnded, textAt, thisHolder, unknown, visible } from "./holder.ts";
import { heldInKernel, holdInKernel } from "./kernel-lock.ts";

/**
 * A folder's lock is a file whose name says which process holds it, and whose time of change that process moves on as
 * long as it lives. A process makes its own file first and looks for others' afterwards, so of two that come at once
 * at least one sees the other; files of dead processes are removed by whoever comes next.
 *
 * A process number means something only in its own PID namespace of its own boot of a machine: a container that has the
 * same host name and the same folder sees none of the processes of another. So a lock is taken for dead only where its
 * process can be looked for and is not there, where the kernel says that nobody holds it, or where the machine was started
 * again since: see `isDead` and `heldInKernel`.
 */
const prefix = ".lock-";

/** Milliseconds between two signs of life. */
const heartbeat = 10_000;

/** A lock without a sign of life for so long is stale: its process is stopped, suspended or gone. */
const staleAfter = 30 * heartbeat;

/** Whether a file name is that of a lock. */
export const isLock = (name: string): boolean => name.startsWith(prefix);

const nameOf = ({ pid, began, namespace, boot, host }: Holder): string =>
  `${prefix}${pid}-${began}-${namespace}-${boot}-${host}`;

const parse = (name: string): Holder | undefined => {
  const match = /^\.lock-(\d+)-(\d+)-(\d+)-([0-9a-f]+)-(.+)$/.exec(name);
  if (match !== null) {
    const [, pid, began, namespace, boot, host] = match as unknown as [string, string, string, string, string, string];
    return { pid: Number(pid), began, namespace, boot, host };
  }
  // What is named like a lock but says less holds the folder too, until someone looks after it.
  return isLock(name)
    ? { pid: 0, began: unknown, namespace: unknown, boot: unknown, host: "an unknown machine" }
    : undefined;
};

/** When this machine was started, in milliseconds since 1970; undefined where unknown. */
const startOfMachine = (): number | undefined => {
  const seconds = /^btime (\d+)$/m.exec(textAt("/proc/stat") ?? "")?.[1];
  return seconds === undefined ? undefined : Number(seconds) * 1000;
};

/** What is known of a lock besides its name. */
interface Sign {
  /** Milliseconds since 1970 of the last sign of life, by the clock of the file system. */
  readonly last: number;
  /** The same clock now. */
  readonly now: number;
}

/**
 * Whether nobody can hold a lock any more. A process of this namespace of this boot is looked for. A lock of an earlier
 * boot of this machine is dead: of the same host name, silent, and last changed before the machine was started. Every
 * other lock may be held by a living process that cannot be seen from here, even a silent one, which may be suspended.
 */
export const isDead = (lock: Holder, self: Holder, { last, now }: Sign, started: number | undefined): boolean => {
  if (lock.host !== self.host || (lock.boot === unknown) !== (self.boot === unknown)) return false;
  if (lock.boot !== self.boot)
    return started !== undefined && last < started && now - last > staleAfter && lock.namespace === self.namespace;
  return visible(self) && lock.namespace === self.namespace && hasEnded(lock);
};

/** Where a lock says that the kernel holds it: behind the byte that is the sign of life. */
const markAt = 1;

/** One byte into the lock, which sets its time of change by the file system's clock; it is not made anew where it is gone. */
const sign = async (path: string): Promise<void> => {
  const handle = await open(path, "r+");
  await handle.write(".", 0).finally(() => handle.close());
};

/** Gives signs of life until it is stopped; a timer that keeps no program running. */
const beat = (path: string): (() => void) => {
  const timer = setInterval(() => {
    sign(path).catch(() => {}); // a missed sign is made up for by the next
  }, heartbeat);
  timer.unref();
  return () => clearInterval(timer);
};

/** Of a lock that is held, or may be. */
interface Held {
  readonly path: string;
  readonly holder: Holder;
  readonly sign: Sign;
  /** The kernel says so. */
  readonly surely: boolean;
}

const refusal = (folder: string, { path, holder, sign: { last, now }, surely }: Held, self: Holder): RequestError => {
  const near = holder.host === self.host && holder.boot === self.boot && holder.namespace === self.namespace;
  if (surely || (near && visible(self)))
    return new RequestError(
      `${folder} is being written by process ${holder.pid}${near ? "" : ` of another container (${holder.host})`}; wait until it ends or choose another folder`,
    );
  const silent = Math.round((now - last) / 1000);
  const life = now - last > staleAfter ? `it gave no sign of life for ${silent} s` : "it gave a sign of life just now";
  const where = holder.host === self.host ? `${holder.host}, in another container or another start of it` : holder.host;
  return new RequestError(
    `${folder} is being written by process ${holder.pid} on ${where} (${life}); if that no longer runs, delete ${path}`,
  );
};

/** Locks of others that may be held; those of dead processes are removed. */
const otherHolders = async (folder: string, own: string, self: Holder, now: number): Promise<RequestError[]> => {
  const held: RequestError[] = [];
  for (const name of await readdir(folder)) {
    const holder = name === own ? undefined : parse(name);
    if (holder === undefined) continue;
    const path = join(folder, name);
    const entry = await stat(path).catch(() => undefined);
    if (entry === undefined) continue; // given up in the meantime
    if (entry.isDirectory())
      throw new RequestError(`${path} is a folder where a lock is looked for; remove or rename it`);
    const seen = { last: entry.mtimeMs, now };
    // Another kernel's locks are not this one's.
    const kernel = holder.boot === self.boot && self.boot !== unknown ? heldInKernel(path, markAt) : "unknown";
    if (kernel === "free" || isDead(holder, self, seen, startOfMachine())) await rm(path, { force: true });
    else held.push(refusal(folder, { path, holder, sign: seen, surely: kernel === "held" }, self));
  }
  return held;
};

/** Makes the lock; the kernel holds it, where it can, as long as the descriptor is open. */
const make = async (folder: string, own: string): Promise<number> => {
  const path = join(folder, own);
  try {
    const descriptor = openSync(path, "wx"); // a FileHandle would be closed where the collector finds it unused
    holdInKernel(descriptor, markAt);
    return descriptor;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw fileError(error, "write", folder);
    if ((await stat(path).catch(() => undefined))?.isDirectory())
      throw new RequestError(`${path} is a folder where a lock is to be made; remove or rename it`);
    throw new RequestError(`${folder} is being written by this process (${process.pid}) already; close that run first`);
  }
};

/**
 * Holds a folder for this process alone until the returned function is called or the process ends, however it ends.
 *
 * @returns the release, which may be called more than once
 * @throws RequestError naming the process that holds the folder, or may hold it, and the lock to delete where that
 *   cannot be seen from here
 */
export const lockFolder = async (folder: string): Promise<() => Promise<void>> => {
  const self = thisHolder();
  const own = nameOf(self);
  const attempts = 4;
  for (let attempt = 1; ; attempt++) {
    const descriptor = await make(folder, own);
    const { mtimeMs: now } = fstatSync(descriptor);
    let stop = (): void => {};
    let holds = true;
    const release = async (): Promise<void> => {
      stop();
      if (!holds) return;
      holds = false;
      await rm(join(folder, own), { force: true }).finally(() => closeSync(descriptor));
    };
    let refusals: RequestError[];
    try {
      refusals = await otherHolders(folder, own, self, now);
    } catch (error) {
      await release();
      throw fileError(error, "read", folder);
    }
    const [first] = refusals;
    if (first === undefined) {
      stop = beat(join(folder, own));
      return release;
    }
    await release();
    // Two that came at once may each have seen the other: try again at a moment of their own.
    if (attempt === attempts) throw first;
    await sleep(5 + Math.random() * 40);
  }
};
