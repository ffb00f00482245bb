/** Which process holds something in the file system, told by names of files, and whether it has ended. */
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/**
 * A process number means something only in its own PID namespace of its own boot of a machine: a container that has the
 * same host name and the same folder sees none of the processes of another.
 */
export interface Holder {
  readonly pid: number;
  /** When the process began, in the system's ticks, so that a number used again is not taken for it; 0 where unknown. */
  readonly began: string;
  /** The kernel's PID namespace; 0 where unknown. */
  readonly namespace: string;
  /** Identifies the start of the machine; 0 where unknown. */
  readonly boot: string;
  readonly host: string;
}

/** What a part of a holder is where the system does not tell it. */
export const unknown = "0";

/** A small file of the system's; undefined where it is hidden or not there. */
export const textAt = (path: string): string | undefined => {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
};

/** State letter and start of a process, from Linux's /proc; undefined elsewhere, and where it is hidden or not there. */
const statOf = (pid: number): { state: string; began: string } | undefined => {
  const text = textAt(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" "); // the name before may hold blanks
  return { state: fields[0]!, began: fields[19]! };
};

const namespaceOfThis = (): string => {
  try {
    return /\d+/.exec(readlinkSync("/proc/self/ns/pid"))?.[0] ?? unknown;
  } catch {
    return unknown;
  }
};

/** This process. */
export const thisHolder = (): Holder => ({
  pid: process.pid,
  began: statOf(process.pid)?.began ?? unknown,
  namespace: namespaceOfThis(),
  boot: textAt("/proc/sys/kernel/random/boot_id")?.replaceAll(/[^0-9a-f]/g, "") || unknown,
  // Names of hosts are free text in containers.
  host: encodeURIComponent(hostname()).slice(0, 100) || "localhost",
});

/** Whether a process of this namespace has ended. */
export const hasEnded = ({ pid, began }: Pick<Holder, "pid" | "began">): boolean => {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return true;
  }
  const found = statOf(pid);
  // Where /proc hides it, a process of that number is there: it may be the holder.
  if (found === undefined || began === unknown) return false;
  return found.began !== began || found.state === "Z" || found.state === "X"; // a zombie writes nothing any more
};

/** Whether other processes can be told from those of other containers: not under a Linux that hides its /proc. */
export const visible = ({ boot, namespace }: Holder): boolean =>
  process.platform !== "linux" || (boot !== unknown && namespace !== unknown);
