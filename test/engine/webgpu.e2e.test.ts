/** A training step on WebGPU, where a driver is: the machine's own, or the software one that Chromium carries. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { built } from "../built.ts";
import { available } from "../needs.ts";

const software = "/usr/lib/chromium/vk_swiftshader_icd.json";
const hasGpu = existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"));
const driver = process.env.VK_DRIVER_FILES ?? (!hasGpu && existsSync(software) ? software : undefined);
const here = available("webgpu", driver !== undefined || hasGpu);

const onWebGpu = (name: string, run: () => void) =>
  (here ? test : test.skip)(`${name}${here ? "" : " (skipped: no WebGPU driver here)"}`, run);

/** The JSON object that a script ends with. */
const resultOf = (script: string, args: readonly string[] = []) => {
  const { stdout, stderr } = spawnSync("node", [built(`scripts/parity/${script}.js`), ...args], {
    encoding: "utf8",
    env: { ...process.env, ...(driver !== undefined && { VK_DRIVER_FILES: driver }) },
  });
  const last = stdout.trim().split("\n").at(-1) as string;
  if (!last.startsWith("{")) throw new Error(stderr);
  return JSON.parse(last);
};

onWebGpu("a step equals the CPU's and stays on the GPU", () => {
  const { loss, firstGradient, gradientMedian, secondLoss, fallbacks } = resultOf("check-webgpu");
  expect(loss).toBeLessThan(1e-4);
  expect(firstGradient).toBeLessThan(1e-3);
  expect(gradientMedian).toBeLessThan(1e-2);
  expect(Math.abs(secondLoss.webgpu / secondLoss.cpu - 1)).toBeLessThan(1e-2);
  expect(fallbacks).toEqual({});
});

onWebGpu("every op and its gradient equal the CPU's", () => {
  const { compared, wrong } = resultOf("check-ops", ["--provider", "webgpu"]);
  expect(compared).toBeGreaterThan(0);
  expect(wrong).toEqual({});
});
