/** Groups of cores that share their last cache: core complexes of an AMD processor, sockets. */
import { readFileSync } from "node:fs";

const readFile = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
};

/** `0-3,8` as numbers. */
const numbersOf = (list: string): number[] =>
  list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });

/**
 * In how many such groups the processors lie that this process may use, as Linux tells; undefined where it doesn't. A virtual machine may
 * be told of one where its host has several.
 */
export const cacheGroups = (read: (path: string) => string | undefined = readFile): number | undefined => {
  const allowed = /^Cpus_allowed_list:\s*(\S+)$/m.exec(read("/proc/self/status") ?? "")?.[1];
  if (allowed === undefined) return undefined;
  const groups = numbersOf(allowed).map((cpu) =>
    read(`/sys/devices/system/cpu/cpu${cpu}/cache/index3/shared_cpu_list`),
  );
  return groups.includes(undefined) ? undefined : new Set(groups).size;
};
