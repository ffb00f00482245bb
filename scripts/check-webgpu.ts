/**
 * A small AdvCL training on WebGPU against the CPU: how far parameters and metrics are apart after a step, the loss after
 * two (whose parameters never left the device), and which nodes onnxruntime left to the CPU. Needs a Vulkan driver; Chromium's software driver does:
 *
 *   VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json node dist/scripts/check-webgpu.js
 *
 * Prints one JSON object: { worst, worstName, secondLoss: { cpu, webgpu }, fallbacks: { op: count } }.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Tensor } from "../graphs/onnx/tensor.ts";
import { type PretrainOptions, pretrainStep } from "../graphs/steps/pretrain.ts";
import { benchFeeds } from "../src/bench.ts";
import { chooseEngine } from "../src/engine.ts";
import { createRunner } from "../src/runner.ts";

const options: PretrainOptions = {
  batch: 4,
  size: 16,
  depth: 18,
  width: 4,
  stem: "cifar",
  radius: 3,
  clusters: [2, 3],
  clusterWeight: 0.2,
  attack: true,
  attackSteps: 1,
  eps: 8 / 255,
  stepSize: 2 / 255,
  temperature: 0.5,
  baseTemperature: 0.07,
  momentum: 0.9,
  weightDecay: 1e-4,
};
const step = pretrainStep(options);
const feeds = benchFeeds(step, 1);
const inputs = Object.fromEntries(Object.entries(feeds).filter(([name]) => name.startsWith("input.")));
const initial = new Map(Object.entries(feeds).filter(([name]) => !name.startsWith("input.")));

/** Parameters, state and metrics after one step, and the loss of the next. */
const trained = async (provider: "cpu" | "webgpu"): Promise<{ tensors: Map<string, Tensor>; secondLoss: number }> => {
  const engine = await chooseEngine({ provider, threads: 1, ...(provider === "cpu" && { target: "portable" }) });
  const runner = await createRunner(engine, step, initial);
  const metrics = await runner.run(inputs);
  const tensors = await runner.tensors();
  for (const [name, value] of Object.entries(metrics)) tensors.set(name, value);
  const again = await runner.run(inputs);
  await runner.release();
  return { tensors, secondLoss: Number(again["metric.loss"]?.data[0]) };
};

const cpu = await trained("cpu");
const gpu = await trained("webgpu");
let [worst, worstName] = [0, ""];
for (const [name, value] of cpu.tensors) {
  // The bias before a batch norm has no true gradient: what it gets is rounding.
  if (name.includes("head_proj.0.bias")) continue;
  const other = gpu.tensors.get(name)?.data as Float32Array;
  let [difference, norm] = [0, 0];
  (value.data as Float32Array).forEach((v, i) => {
    difference += (v - (other[i] as number)) ** 2;
    norm += v ** 2;
  });
  const error = Math.sqrt(difference / Math.max(norm, 1e-12));
  if (error > worst) [worst, worstName] = [error, name];
}

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
const secondLoss = { cpu: cpu.secondLoss, webgpu: gpu.secondLoss };
console.log(JSON.stringify({ worst, worstName, secondLoss, fallbacks }));
