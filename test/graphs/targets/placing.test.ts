/** Which values lie in blocks, and the names of targets that say so. */
import { expect, test } from "@jest/globals";
import { isBlocked } from "../../../graphs/targets/cpu/blocked/layout.ts";
import { blockedName, placing, readBlockedName, usualLimits } from "../../../graphs/targets/cpu/placing.ts";
import { isTargetName, targetNamed } from "../../../src/engine/targets.ts";

const ALL = Number.POSITIVE_INFINITY;

test.each([
  ["cpu-blocked16", 16, usualLimits],
  ["cpu-blocked8", 8, usualLimits],
  ["cpu-blocked16-all-all-48-8-0", 16, [ALL, ALL, 48, 8, 0]],
  ["cpu-blocked8-0-0-0-0-all", 8, [0, 0, 0, 0, ALL]],
] as const)("%s says its blocks and limits, and is the name of a target", (name, block, limits) => {
  expect(blockedName(block, limits)).toBe(name);
  expect(readBlockedName(name)).toEqual({ block, limits });
  expect(isTargetName(name)).toBe(true);
  expect(targetNamed(name).name).toBe(name);
});

test.each([
  "cpu-blocked0",
  "cpu-blocked16-all",
  "cpu-blocked16-all-all-48-8-0-0",
  "cpu-blocked16-all-all--8-0-0",
  "blocked16",
])("%s is no such name", (name) => {
  expect(readBlockedName(name)).toBeUndefined();
  expect(isTargetName(name)).toBe(false);
  expect(() => targetNamed(name)).toThrow(/there is no target/);
});

test("values lie in blocks up to the limit of their channels, where those fill or share blocks", () => {
  const lies = (shape: readonly number[], limits?: readonly number[]) => isBlocked(placing(16, limits)({ shape }));
  expect(lies([8, 16, 96, 96])).toBe(true);
  expect(lies([8, 64, 16, 16])).toBe(true);
  expect(lies([8, 64, 32, 32])).toBe(false);
  expect(lies([8, 128, 4, 4])).toBe(false);
  const limits = [32, ALL, 0, 0, 4];
  expect(lies([8, 16, 48, 48], limits)).toBe(false);
  expect(lies([8, 16, 32, 32], limits)).toBe(true);
  expect(lies([8, 24, 32, 32], limits)).toBe(false); // 24 channels neither fill blocks of 16 nor share one
  expect(lies([8, 48, 8, 8], limits)).toBe(false);
  expect(lies([8, 256, 4, 4], limits)).toBe(true);
  expect(lies([8, 256, 8, 8], limits)).toBe(false);
  expect(lies([8, 512, 2, 2], limits)).toBe(false);
  expect(lies([8, 256, 1, 1], limits)).toBe(false);
  expect(lies([8, 3, 32, 32], limits)).toBe(false);
});
