/** How cores lie to each other, and what follows from it for a training. */
import { describe, expect, test } from "@jest/globals";
import { cacheGroups } from "../../src/engine/cache-groups.ts";
import { coresApart, coresText, groupsHint, replicasFor } from "../../src/engine/core-latency.ts";
import { availableCores } from "../../src/engine/cores.ts";

/** Files of a Linux whose processors share caches so. */
const linux = (allowed: string, shared: Readonly<Record<number, string>>) => (path: string) => {
  if (path === "/proc/self/status")
    return `Name:\tnode\nCpus_allowed:\tff\nCpus_allowed_list:\t${allowed}\nMems_allowed_list:\t0`;
  const cpu = /^\/sys\/devices\/system\/cpu\/cpu(\d+)\/cache\/index3\/shared_cpu_list$/.exec(path)?.[1];
  return cpu === undefined ? undefined : shared[Number(cpu)];
};
const complexes = { 0: "0-1,4", 1: "0-1,4", 2: "2-3", 3: "2-3", 4: "0-1,4" };

describe("groups of cores that share a cache", () => {
  test.each([
    ["all processors", "0-4", complexes, 2],
    ["those that the process may use alone", "0-1,4", complexes, 1],
    ["one of them in each", "1,3", complexes, 2],
    ["unknown where a processor has no such cache", "0-5", complexes, undefined],
  ] as const)("%s", (_, allowed, shared, groups) => {
    expect(cacheGroups(linux(allowed, shared))).toBe(groups);
  });

  test("unknown where there is no Linux", () => {
    expect(cacheGroups(() => undefined)).toBeUndefined();
  });
});

test("a training wants as many replicas as there are groups, or two where cores that are told to be one group are far apart", () => {
  const counts = (groups: number | undefined, nanoseconds: number | undefined) =>
    replicasFor({ groups, nanoseconds }).count;
  expect([counts(4, 50), counts(1, 50), counts(1, 250), counts(undefined, 250), counts(undefined, 50)]).toEqual([
    4, 1, 2, 2, 1,
  ]);
  expect(counts(undefined, undefined)).toBe(1);
  expect(coresText({ groups: 1, nanoseconds: 49.7 })).toBe("50 ns from core to core, as they were just now");
  expect(coresText({ groups: 1, nanoseconds: 251 })).toBe(
    "251 ns from core to core, as they were just now: they share no cache, so pretrain and finetune may be faster with --replicas 2 (or auto)",
  );
  expect(coresText({ groups: 8, nanoseconds: 90 })).toBe(
    "cores share a cache in 8 groups, so pretrain and finetune may be faster with --replicas 8 (or auto)",
  );
});

test("a training on threads that share every op says where there are such groups, and only there", () => {
  expect([undefined, 1].map(groupsHint)).toEqual([undefined, undefined]);
  expect(groupsHint(2)).toBe(
    "cores share a cache in 2 groups: a step may be faster with --replicas 2, or auto (npx advcl doctor)",
  );
});

test("a word's way is measured where there are two cores", async () => {
  const { nanoseconds } = await coresApart();
  if (availableCores() < 2) expect(nanoseconds).toBeUndefined();
  else expect(nanoseconds).toBeGreaterThan(1);
});
