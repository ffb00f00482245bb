/** Whose times say where values lie on the CPU, and what is made of a cache that is not as it should be. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeEach, expect, test } from "@jest/globals";
import { type Limits, usualLimits } from "../../../graphs/targets/cpu/placing.ts";
import { processor } from "../../../src/engine/devices.ts";
import {
  knownLayouts,
  type LayoutTools,
  layoutsFile,
  timedLayouts,
  trainingLayouts,
} from "../../../src/engine/layouts/choice.ts";
import { type LayoutRow, limitsOf } from "../../../src/engine/layouts/timing.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-layouts-"));
const { XDG_CACHE_HOME, CI } = process.env;
const put = (name: string, value: string | undefined) => {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
};
beforeEach(() => {
  rmSync(join(folder, "advcl"), { recursive: true, force: true });
  process.env.XDG_CACHE_HOME = folder;
});
afterEach(() => {
  put("XDG_CACHE_HOME", XDG_CACHE_HOME);
  put("CI", CI);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const row = (channels: number, side: number, ratio: number): LayoutRow => ({
  ...{ channels, side, images: 16 },
  ...{ blocks: 10 * ratio, pixels: 10, ratio },
});

test("limits are the largest images at which blocks won, all where they won at every size that is timed", () => {
  const rows = [
    ...[row(16, 32, 0.5), row(16, 64, 0.6)],
    ...[row(32, 16, 0.9), row(32, 32, 1.01), row(32, 64, 1.3)],
    ...[row(64, 8, 1.5)],
    ...[row(128, 4, 0.8), row(128, 8, 0.8)],
  ];
  expect(limitsOf(rows)).toEqual([Number.POSITIVE_INFINITY, 32, 0, 8, usualLimits[4]]);
});

test("what is nearly equal changes no usual limit", () => {
  const rows = [
    row(16, 32, 1.08),
    row(16, 64, 1.05),
    row(64, 8, 0.9),
    row(64, 16, 1.09),
    row(64, 32, 0.92),
    row(128, 4, 0.95),
  ];
  expect(limitsOf(rows)).toEqual(usualLimits);
});

/** This processor, with times that say such limits. */
const fixed = (limits: Limits): LayoutTools => ({ processor, time: async () => ({ rows: [], limits }) });

/** A time of this machine as the cache keeps it. Whatever it says, its key is the one that this machine asks for. */
const remember = async (limits: readonly unknown[]): Promise<void> => {
  await timedLayouts(16, 1, undefined, fixed(usualLimits));
  const kept = JSON.parse(readFileSync(layoutsFile(), "utf8")) as Record<string, { limits: readonly unknown[] }>;
  for (const entry of Object.values(kept)) entry.limits = limits;
  writeFileSync(layoutsFile(), JSON.stringify(kept));
};

test("what was timed here is taken again, for the blocks that it was timed with", async () => {
  await remember(["all", 32, 16, 0, 0]);
  const { limits, source } = await knownLayouts(16);
  expect([limits, source]).toEqual([[Number.POSITIVE_INFINITY, 32, 16, 0, 0], "timed"]);
  expect((await knownLayouts(8)).source).not.toBe("timed");
});

test("times of several processors lie side by side", async () => {
  for (const block of [8, 16]) await timedLayouts(block, 1, undefined, fixed(usualLimits));
  expect([(await knownLayouts(8)).source, (await knownLayouts(16)).source]).toEqual(["timed", "timed"]);
});

test.each(["not JSON", "[]", '{"a": {"limits": [1]}}'])("a cache of %s is none", async (text) => {
  mkdirSync(dirname(layoutsFile()), { recursive: true });
  writeFileSync(layoutsFile(), text);
  const { limits, source } = await knownLayouts(16);
  expect(source).not.toBe("timed");
  expect(limits).toEqual(usualLimits);
});

test("limits that are none are not taken", async () => {
  await remember(["all", 32, -1, 0, 0]);
  expect((await knownLayouts(16)).source).not.toBe("timed");
});

test("a processor that nobody knows is timed once, and not in CI", async () => {
  const said: string[] = [];
  const unknown = { name: "A Processor", vectors: "AVX2" };
  const limits = [0, 0, 0, 0, 0];
  const tools = { processor: () => unknown, time: async () => ({ rows: [], limits }) };
  process.env.CI = "true";
  expect((await trainingLayouts(8, 1, (text) => said.push(text), tools)).source).toBe("usual");
  delete process.env.CI;
  expect(said).toEqual([]);
  expect(await trainingLayouts(8, 1, (text) => said.push(text), tools)).toMatchObject({ limits, source: "timed" });
  expect(await trainingLayouts(8, 1, (text) => said.push(text), tools)).toMatchObject({ limits, source: "timed" });
  expect(said).toEqual([expect.stringMatching(/^timing this processor once \(at most 20 s\)/)]);
});

test.each(["Intel(R) Xeon(R) Platinum 8481C", "AMD EPYC 9B14 96-Core Processor"])(
  "%s is of a family that was timed and starts at once",
  async (name) => {
    const tools = { processor: () => ({ name, vectors: "AVX-512" }), time: () => Promise.reject(new Error("timed")) };
    delete process.env.CI;
    expect((await trainingLayouts(16, 2, () => {}, tools)).source).toBe("family");
  },
);
