/**
 * A small AdvCL training on WebGPU beside the CPU: how far apart the losses, the first gradient of the attack and the
 * gradients of the parameters are, the loss of a second step whose parameters never left the device, and which nodes
 * onnxruntime left to the CPU. Needs a Vulkan driver; Chromium's software driver does:
 *
 *   VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json node dist/scripts/check-webgpu.js
 *
 * Prints one JSON object: { loss, firstGradient, gradientMedian: relative errors, secondLoss: { cpu, webgpu },
 * fallbacks: { op: count } }. The median, because an untrained network answers one flipped pixel with large changes in
 * some tensors.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Tensor } from "../graphs/onnx/tensor.ts";
import { paperSettings, pretrainStep } from "../graphs/steps/pretrain.ts";
import { benchFeeds, median } from "../src/bench.ts";
import { chooseEngine } from "../src/engine.ts";
import { createRunner } from "../src/runner.ts";

const step = pretrainStep({
  ...paperSettings,
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

const relative = (ours: Tensor, truth: Tensor): number => {
  let [difference, norm] = [0, 0];
  (truth.data as Float32Array).forEach((v, i) => {
    difference += (v - ((ours.data as Float32Array)[i] as number)) ** 2;
    norm += v ** 2;
  });
  return Math.sqrt(difference / Math.max(norm, 1e-24));
};

const cpu = await trained("cpu");
const gpu = await trained("webgpu");
const error = (name: string) => relative(gpu.results[name] as Tensor, cpu.results[name] as Tensor);
const gradients = Object.keys(cpu.results).filter((name) => name.startsWith("grad."));

const folder = mkdtempSync(join(tmpdir(), "advcl-webgpu-"));
const engine = await chooseEngine({ provider: "webgpu", threads: 1 });
const { session } = await engine.load(step, { profile: join(folder, "profile") });
await session.run(feeds);
session.endProfiling();
interface Event {
  readonly cat: string;
  readonly args?: { readonly provider?: string; readonly op_name?: string };
}
const file = readdirSync(folder).find((name) => name.startsWith("profile")) as string;
const fallbacks: Record<string, number> = {};
for (const { cat, args } of JSON.parse(readFileSync(join(folder, file), "utf8")) as Event[])
  if (cat === "Node" && args?.provider === "CPUExecutionProvider" && args.op_name !== undefined)
    fallbacks[args.op_name] = (fallbacks[args.op_name] ?? 0) + 1;
rmSync(folder, { recursive: true });
console.log(
  JSON.stringify({
    loss: error("metric.loss"),
    firstGradient: Math.max(error("attack.first_grad_cl"), error("attack.first_grad_ce")),
    gradientMedian: median(gradients.map(error)),
    secondLoss: { cpu: cpu.secondLoss, webgpu: gpu.secondLoss },
    fallbacks,
  }),
);
