import { describe, expect, test } from "@jest/globals";
import { missingApi } from "../../src/engine/native/api.ts";
import type { RunConfig } from "../../src/runs/config.ts";
import { chooseReplicas, equalShares } from "../../src/verbs/replicas.ts";
import { available } from "../needs.ts";

test("shares of a batch come out whole and have two images at least", () => {
  expect([equalShares(8, 64), equalShares(8, 12), equalShares(3, 64), equalShares(4, 6), equalShares(2, 3)]).toEqual([
    8, 6, 2, 3, 1,
  ]);
  expect([equalShares(4, 16, 4), equalShares(4, 16, 8)]).toEqual([2, 1]);
});

describe("--replicas auto", () => {
  const settings = { provider: "cpu", engine: "auto", threads: 2, batch: 32 };
  const begun = (replicas: number) => ({ settings: { replicas } }) as unknown as RunConfig;

  test("is what the run began with", async () => {
    expect(await chooseReplicas(settings, undefined, begun(3))).toEqual({ count: 3, why: "as the run began" });
  });

  test.each([
    [
      "a launcher's processes share already",
      settings,
      { rank: 0, size: 4, localRank: 0 },
      "a launcher started 4 processes",
    ],
    ["a GPU computes", { ...settings, provider: "cuda" }, undefined, "on cuda"],
    ["the engine can't", { ...settings, engine: "binding" }, undefined, "they need --engine native"],
  ] as const)("is 1 where %s", async (_, given, place, why) => {
    expect(await chooseReplicas(given, place, undefined)).toEqual({ count: 1, why });
  });

  const here = available("koffi", missingApi() === undefined) ? test : test.skip;
  here("is no more than threads, and says why", async () => {
    const { count, why } = await chooseReplicas({ ...settings, threads: 1 }, undefined, undefined);
    expect([count, why.length > 0]).toEqual([1, true]);
  });
});
