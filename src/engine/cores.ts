import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

const read = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

/** Cores that Linux's /proc/cpuinfo tells apart; undefined elsewhere. Two threads of a core share its arithmetic. */
const physicalCores = (): number | undefined => {
  const cores = new Set<string>();
  for (const block of read("/proc/cpuinfo").split("\n\n")) {
    const socket = /^physical id\s*: (\d+)/m.exec(block)?.[1];
    const core = /^core id\s*: (\d+)/m.exec(block)?.[1];
    if (socket !== undefined && core !== undefined) cores.add(`${socket}:${core}`);
  }
  return cores.size === 0 ? undefined : cores.size;
};

/** Processors' worth of time that the control group allows; undefined where there is no limit. */
const quota = (): number | undefined => {
  const [limit, period] = read("/sys/fs/cgroup/cpu.max").split(" ").map(Number);
  return limit !== undefined && period !== undefined && limit / period > 0 ? Math.ceil(limit / period) : undefined;
};

/** Threads to compute with: physical cores that this process may use. */
export const availableCores = (): number =>
  Math.max(1, Math.min(availableParallelism(), physicalCores() ?? Infinity, quota() ?? Infinity));
