/** A training step on WebGPU, where a driver is: the machine's own, or the software one that Chromium carries. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { built } from "./built.ts";

const software = "/usr/lib/chromium/vk_swiftshader_icd.json";
const hasGpu = existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"));
const driver = process.env.VK_DRIVER_FILES ?? (!hasGpu && existsSync(software) ? software : undefined);
const here = driver !== undefined || hasGpu;

(here ? test : test.skip)(
  `a step equals the CPU's and stays on the GPU${here ? "" : " (skipped: no WebGPU driver here)"}`,
  () => {
    const { stdout, stderr, status } = spawnSync("node", [built("scripts/check-webgpu.js")], {
      encoding: "utf8",
      env: { ...process.env, ...(driver !== undefined && { VK_DRIVER_FILES: driver }) },
    });
    if (status !== 0) throw new Error(stderr);
    const { loss, firstGradient, gradientMedian, secondLoss, fallbacks } = JSON.parse(
      stdout.trim().split("\n").at(-1) as string,
    );
    expect(loss).toBeLessThan(1e-4);
    expect(firstGradient).toBeLessThan(1e-3);
    expect(gradientMedian).toBeLessThan(1e-2);
    expect(Math.abs(secondLoss.webgpu / secondLoss.cpu - 1)).toBeLessThan(1e-2);
    expect(fallbacks).toEqual({});
  },
);
