/**
 * A small AdvCL training on WebGPU beside the CPU: how far apart the losses, the first gradient of the attack and the
 * gradients of the parameters are, the loss of a second step whose parameters never left the device, and which nodes
 * onnxruntime left to the CPU, of the step and of the programs that attacks run. Needs a Vulkan driver; Chromium's
 * software driver does:
 *
 *   VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json node dist/scripts/parity/check-webgpu.js
 *
 * Prints one JSON object: { loss, firstGradient, gradientMedian: relative errors, secondLoss: { cpu, webgpu },
 * fallbacks: { op: count } }. The median, because an untrained network answers one flipped pixel with large changes in
 * some tensors.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { linf } from "../../graphs/attacks/threat-model.ts";
import { advcl } from "../../graphs/methods/advcl.ts";
import { constant, type Value } from "../../graphs/onnx/graph.ts";
import { float32, zeros } from "../../graphs/onnx/tensor.ts";
import { gemm, reshape } from "../../graphs/ops/index.ts";
import { type AttackLoss, attackLosses, gradientStep, pgdStep } from "../../graphs/steps/evaluate.ts";
import { compile } from "../../graphs/steps/step.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { median } from "../../src/engine/median.ts";
import { createRunner } from "../../src/engine/runner.ts";
import { createSession, type Feeds, type Session } from "../../src/engine/session.ts";
import { readFlags } from "../flags.ts";
import { relativeError } from "./golden.ts";

readFlags(import.meta.url, {});

const step = advcl.build({
  ...advcl.paper,
  batch: 4,
  size: 16,
  depth: 18,
  width: 4,
  stem: "cifar",
  radius: 3,
  clusters: [2, 3],
  attackSteps: 1,
  trace: true,
});
const feeds = benchFeeds(step, 1);
const inputs = Object.fromEntries(Object.entries(feeds).filter(([name]) => name.startsWith("input.")));
const initial = new Map(Object.entries(feeds).filter(([name]) => !name.startsWith("input.")));

/** What one step gives, and the loss of the next. */
const trained = async (provider: "cpu" | "webgpu") => {
  const engine = await chooseEngine({ provider, threads: 1, ...(provider === "cpu" && { target: "portable" }) });
  const runner = await createRunner(engine, step, initial);
  const results = await runner.run(inputs);
  runner.accept();
  const again = await runner.run(inputs);
  const tensors = await runner.tensors();
  await runner.release();
  if (![...tensors.values()].every(({ data }) => (data as Float32Array).every(Number.isFinite)))
    throw new Error(`a parameter read back from ${provider} is not finite`);
  return { results, secondLoss: Number(again["metric.loss"]?.data[0]) };
};

const cpu = await trained("cpu");
const gpu = await trained("webgpu");
const error = (name: string) =>
  relativeError(gpu.results[name]?.data as Float32Array, cpu.results[name]?.data as Float32Array);
const gradients = Object.keys(cpu.results).filter((name) => name.startsWith("grad."));

const fallbacks: Record<string, number> = {};
interface Event {
  readonly cat: string;
  readonly args?: { readonly provider?: string; readonly op_name?: string };
}
/** Counts the nodes of a model that run on the CPU. */
const countFallbacks = async (load: (profile: string) => Promise<Session>, given: Feeds): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "advcl-webgpu-"));
  const session = await load(join(folder, "profile"));
  await session.run(given);
  session.endProfiling();
  await session.release();
  const file = readdirSync(folder).find((name) => name.startsWith("profile")) as string;
  for (const { cat, args } of JSON.parse(readFileSync(join(folder, file), "utf8")) as Event[])
    if (cat === "Node" && args?.provider === "CPUExecutionProvider" && args.op_name !== undefined)
      fallbacks[args.op_name] = (fallbacks[args.op_name] ?? 0) + 1;
  rmSync(folder, { recursive: true });
};
const engine = await chooseEngine({ provider: "webgpu", threads: 1 });
await countFallbacks(async (profile) => (await engine.load(step, { profile })).session, feeds);

const size = { batch: 2, image: [3, 4, 4] } as const;
const weight = constant(
  float32(
    [10, 48],
    Float32Array.from({ length: 480 }, (_, i) => Math.sin(i)),
  ),
);
const classifier = (x: Value): Value => gemm(reshape(x, [2, 48]), weight, { transB: 1 });
for (const program of [
  ...(Object.keys(attackLosses) as AttackLoss[]).map((loss) => gradientStep(classifier, size, loss)),
  pgdStep(classifier, size, { threat: linf(8 / 255), stepSize: 2 / 255, steps: 2 }),
]) {
  const model = compile({ outputs: program }, engine.target);
  const given = Object.entries(model.inputs).map(([name, { dtype, shape }]) => [name, zeros(dtype, shape)]);
  await countFallbacks((profile) => createSession(model, { ...engine.options, profile }), Object.fromEntries(given));
}
console.log(
  JSON.stringify({
    loss: error("metric.loss"),
    firstGradient: Math.max(error("attack.first_grad_cl"), error("attack.first_grad_ce")),
    gradientMedian: median(gradients.map(error)),
    secondLoss: { cpu: cpu.secondLoss, webgpu: gpu.secondLoss },
    fallbacks,
  }),
);
