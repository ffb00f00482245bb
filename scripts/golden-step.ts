/**
 * The golden steps (test/fixtures/golden/README.md) on a provider: how far each group of results is from the golden values,
 * beside the tolerance of direct convolutions.
 *
 *   node dist/scripts/golden-step.js --provider webgpu|cuda|cpu [--target NAME] [--attack-steps 0,1,5] [--threads 1]
 *
 * WebGPU needs a Vulkan driver; Chromium's software driver does: VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json.
 * On CUDA, NVIDIA_TF32_OVERRIDE=0 keeps float32's digits. The last line is one JSON object; exit code 1 beyond a tolerance.
 */
import { parseArgs } from "node:util";
import { chooseEngine } from "../src/engine.ts";
import type { Provider } from "../src/runtime.ts";
import { beyond, type GoldenAttackSteps, goldenErrors, goldenStep, medianGradient, tolerances } from "./golden.ts";

const { values: flags } = parseArgs({
  options: {
    provider: { type: "string", default: "cpu" },
    target: { type: "string" },
    "attack-steps": { type: "string", default: "0,1,5" },
    threads: { type: "string", default: "1" },
  },
});
const engine = await chooseEngine({
  provider: flags.provider as Provider,
  threads: Number(flags.threads),
  ...(flags.target !== undefined && { target: flags.target }),
});
const tolerance = tolerances.direct;
const summary: Record<string, object> = {};
for (const attackSteps of flags["attack-steps"].split(",").map(Number) as GoldenAttackSteps[]) {
  const started = performance.now();
  const { step, feeds } = await goldenStep(attackSteps);
  const { session } = await engine.load(step);
  const results = await session.run(feeds);
  await session.release();
  const errors = await goldenErrors(attackSteps, results);
  const wrong = beyond(errors, tolerance);
  const worst = (group: string): number => Math.max(...errors.filter((e) => e.group === group).map((e) => e.error));
  const figures: Record<string, number> = { gradientMedian: medianGradient(errors) };
  for (const { group } of errors) figures[group] ??= worst(group);
  console.log(`${attackSteps} attack steps, ${((performance.now() - started) / 1000).toFixed(0)} s`);
  for (const [group, error] of Object.entries(figures))
    console.log(
      `  ${group.padEnd(16)} ${error.toExponential(1)}  allowed ${tolerance[group as keyof typeof tolerance].toExponential(0)}`,
    );
  for (const sentence of wrong) console.log(`  ${sentence}`);
  if (wrong.length > 0) process.exitCode = 1;
  summary[attackSteps] = { ...figures, wrong };
}
console.log(JSON.stringify({ provider: engine.provider, target: engine.target.name, steps: summary }));
