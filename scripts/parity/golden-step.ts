/**
 * The golden steps (test/fixtures/golden/README.md) on a provider: how far each group of results is from the golden values,
 * beside the tolerance of direct convolutions.
 *
 *   node dist/scripts/parity/golden-step.js --provider webgpu|cuda|cpu [--target NAME] [--engine native] [--precision float32] [--attack-steps 0,1,5] [--threads 1]
 *     [--ties FOLDER]
 *
 * A step with an attack is looked at twice: as a whole, and without its attack at the golden images that it ends with, so
 * that what the training step computes is compared at the very same point. With a folder of scripts/parity/golden-ties.py --out, so
 * is each step of the attack: its gradient, and where it leads, from the true images before it; and the whole step with 5
 * attack steps is also compared with the true one in which one ReLU falls on the other side.
 *
 * WebGPU needs a Vulkan driver; Chromium's software driver does: VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json.
 * On CUDA, NVIDIA_TF32_OVERRIDE=0 keeps float32's digits. The last line is one JSON object; exit code 1 beyond a tolerance.
 */
import { join } from "node:path";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { chooseEngine, type EngineRequest } from "../../src/engine/engine.ts";
import type { Provider } from "../../src/engine/session.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { readFlags } from "../flags.ts";
import {
  beyond,
  errorsFrom,
  type GoldenAttackSteps,
  type GoldenError,
  golden,
  goldenStep,
  medianGradient,
  relativeError,
  startingAt,
  tolerances,
  unequalPixels,
} from "./golden.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    provider: { type: "string", default: "cpu" },
    target: { type: "string" },
    engine: { type: "string", default: "auto" },
    precision: { type: "string", default: "auto" },
    "attack-steps": { type: "string", default: "0,1,5" },
    ties: { type: "string" },
    threads: { type: "string", default: "1" },
  },
});
const engine = await chooseEngine({
  provider: flags.provider as Provider,
  threads: Number(flags.threads),
  engine: flags.engine as EngineRequest["engine"],
  precision: flags.precision as EngineRequest["precision"],
  ...(flags.target !== undefined && { target: flags.target }),
});
const tolerance = tolerances.direct;
type Images = { readonly cl: Tensor; readonly ce: Tensor };

/** Results of a golden step, from its own start or from other images. */
const run = async (attackSteps: GoldenAttackSteps, starts: readonly (Images | undefined)[]) => {
  const { step, feeds } = await goldenStep(attackSteps);
  const { session } = await engine.load(step);
  const results = [];
  for (const images of starts)
    results.push(await session.run(images === undefined ? feeds : startingAt(feeds, images)));
  await session.release();
  return results;
};

/** Prints the worst of each group and what is beyond its tolerance, which fails the script where it `counts`. */
const judged = (title: string, errors: readonly GoldenError[], counts = true): object => {
  const worst = (group: string): number => Math.max(...errors.filter((e) => e.group === group).map((e) => e.error));
  const figures: Record<string, number> = { gradientMedian: medianGradient(errors) };
  for (const { group } of errors) figures[group] ??= worst(group);
  console.log(title);
  for (const [group, error] of Object.entries(figures))
    console.log(
      `  ${group.padEnd(16)} ${error.toExponential(1)}  allowed ${tolerance[group as keyof typeof tolerance].toExponential(0)}`,
    );
  const wrong = beyond(errors, tolerance);
  for (const sentence of wrong) console.log(`  ${sentence}`);
  if (counts && wrong.length > 0) process.exitCode = 1;
  return { ...figures, wrong };
};
const imagesOf = (tensors: ReadonlyMap<string, Tensor>, name: string): Images => ({
  cl: tensors.get(`attack.${name}_cl`) as Tensor,
  ce: tensors.get(`attack.${name}_ce`) as Tensor,
});

const wanted = flags["attack-steps"].split(",").map(Number) as GoldenAttackSteps[];
const steps: Record<string, object> = {};
let turned: object | undefined;
for (const attackSteps of wanted) {
  const started = performance.now();
  const [results] = (await run(attackSteps, [undefined])) as [Readonly<Record<string, Tensor>>];
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  const title = `${attackSteps} attack steps, ${seconds} s`;
  steps[attackSteps] = judged(title, errorsFrom(await golden(`pretrain_steps${attackSteps}`), attackSteps, results));
  if (attackSteps === 5 && flags.ties !== undefined) {
    const { tensors } = await readSafetensors(join(flags.ties, "turned.safetensors"));
    turned = judged(`${title}, beside the turned step`, errorsFrom(tensors, attackSteps, results), false);
  }
}

const atGolden: Record<string, object> = {};
const attacked = wanted.filter((attackSteps) => attackSteps > 0);
if (attacked.length > 0) {
  const ends = [];
  for (const attackSteps of attacked) ends.push(imagesOf(await golden(`pretrain_steps${attackSteps}`), "x"));
  for (const [i, results] of (await run(0, ends)).entries()) {
    const attackSteps = attacked[i] as GoldenAttackSteps;
    const title = `the training step at the golden images of ${attackSteps} attack steps`;
    // Running statistics remember every step of the attack.
    const there = [...(await golden(`pretrain_steps${attackSteps}`))].filter(([name]) => !/running_|first_/.test(name));
    atGolden[attackSteps] = judged(title, errorsFrom(new Map(there), attackSteps, results));
  }
}

const attack: Record<string, object> = {};
if (flags.ties !== undefined) {
  const { tensors } = await readSafetensors(join(flags.ties, "attack.safetensors"));
  const count = [...tensors.keys()].filter((name) => /^attack\.x\d+_cl$/.test(name)).length;
  const before = Array.from({ length: count }, (_, i) => (i === 0 ? undefined : imagesOf(tensors, `x${i}`)));
  for (const [i, results] of (await run(1, before)).entries())
    for (const view of ["cl", "ce"]) {
      const ours = (name: string) => results[`attack.first_${name}_${view}`]?.data as Float32Array;
      const truth = (name: string) => tensors.get(`attack.${name}${i + 1}_${view}`)?.data as Float32Array;
      const gradient = relativeError(ours("grad"), truth("grad"));
      const unequal = Math.round(unequalPixels(ours("x"), truth("x")) * truth("x").length);
      attack[`${i + 1}_${view}`] = { gradient, unequal };
      console.log(
        `attack step ${i + 1} alone, ${view}: gradient ${gradient.toExponential(1)}, ${unequal} unequal pixels`,
      );
    }
}
console.log(JSON.stringify({ provider: engine.provider, target: engine.target.name, steps, atGolden, turned, attack }));
