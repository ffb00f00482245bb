import { z } from "zod";
import { availableCores } from "../engine/cores.ts";
import { networkHelp, networkSettings, targetSetting } from "../settings/fragments.ts";
import { setting } from "../settings/schema.ts";
import type { Resolved } from "../settings/spec.ts";

export const benchSettings = {
  what: setting(
    z.enum(["step", "data", "gemm", "lowerings", "layouts"]).default("step"),
    "what is measured; lowerings: every way of the CPU target, or the one way of --target; layouts: which of two is faster where on this CPU, kept for later trainings",
  ),
  target: setting(targetSetting.target, "lowering of the graph; left out, that of the provider"),
  batch: setting(z.int().min(2).default(64), "images a step"),
  size: setting(z.int().min(8).max(512).default(32), "side of the images"),
  arch: setting(networkSettings.arch, networkHelp.arch),
  depth: setting(networkSettings.depth, networkHelp.depth),
  width: setting(networkSettings.width, networkHelp.width),
  stem: setting(networkSettings.stem, networkHelp.stem),
  attackSteps: setting(z.int().min(0).default(5), "PGD steps of the attack"),
  clusters: setting(z.array(z.int().min(2)).default([2, 10, 50, 100, 500]), "K of each clustering head"),
  stepsARun: setting(z.int().min(1).default(1), "steps in one run of the engine"),
  shares: setting(
    z.boolean().default(false),
    "of --what step: each op's share of the time and of the GEMM peak, and nodes on the CPU",
  ),
  reps: setting(z.int().min(1).default(3), "measured repetitions, after one that is not"),
  workers: setting(
    z
      .int()
      .min(0)
      .default(() => Math.max(1, availableCores() - 1)),
    "for --what data",
  ),
};

export type BenchSettings = Resolved<typeof benchSettings>;
