/**
 * The golden AdvCL step (one attack step; test/fixtures/golden) on WebGPU: how far each group of results is from PyTorch's
 * in float64, the loss of a second step whose parameters never left the device beside the CPU's, and which nodes
 * onnxruntime left to the CPU. Needs a Vulkan driver; Chromium's software driver does:
 *
 *   VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json node dist/scripts/check-webgpu.js
 *
 * Prints one JSON object: { errors: { group: worst relative L2, or share of unequal pixels }, gradientMedian,
 * secondLoss: { cpu, webgpu }, fallbacks: { op: count } }.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { float32, type Tensor, zeros } from "../graphs/onnx/tensor.ts";
import { pretrainStep } from "../graphs/steps/pretrain.ts";
import { chooseEngine } from "../src/engine.ts";
import { createRunner } from "../src/runner.ts";
import { readSafetensors } from "../src/safetensors.ts";
import { packageRoot } from "../src/version.ts";

const golden = async (name: string) =>
  (await readSafetensors(join(packageRoot, "test", "fixtures", "golden", `${name}.safetensors`))).tensors;
const given = await golden("given");
const expected = await golden("pretrain_steps1");

const step = pretrainStep({
  batch: 16,
  size: 32,
  depth: 18,
  width: 16,
  stem: "cifar",
  radius: 8,
  clusters: [2, 10, 50, 100, 500],
  clusterWeight: 0.2,
  attack: true,
  attackSteps: 1,
  eps: 8 / 255,
  stepSize: 2 / 255,
  temperature: 0.5,
  baseTemperature: 0.07,
  momentum: 0.9,
  weightDecay: 1e-4,
  trace: true,
});
const { store } = step;
const inputs: Record<string, Tensor> = { "input.lr": float32([], [0.1]) };
for (const name of store.inputs.keys())
  if (name !== "lr") inputs[`input.${name}`] = given.get(`input.${name}`) as Tensor;
const initial = new Map<string, Tensor>();
for (const { path } of store.parameters.values()) initial.set(`param.${path}`, given.get(`before.${path}`) as Tensor);
for (const { path, type } of store.states.values())
  initial.set(`state.${path}`, given.get(`before.${path}`) ?? zeros("float32", type.shape));

/** What a step gives, parameters and statistics after it under the golden names, and the loss of the next step. */
const trained = async (provider: "cpu" | "webgpu"): Promise<{ results: Map<string, Tensor>; secondLoss: number }> => {
  const engine = await chooseEngine({ provider, threads: 2, ...(provider === "cpu" && { target: "portable" }) });
  const runner = await createRunner(engine, step, initial);
  const results = new Map(Object.entries(await runner.run(inputs)));
  for (const [name, value] of await runner.tensors()) results.set(name.replace(/^(param|state)\./, "after."), value);
  const again = await runner.run(inputs);
  await runner.release();
  return { results, secondLoss: Number(again["metric.loss"]?.data[0]) };
};

const cpu = await trained("cpu");
const gpu = await trained("webgpu");
const errors: Record<string, number> = {};
const gradients: number[] = [];
for (const [name, { data }] of expected) {
  // The bias before a batch norm has no true gradient: what it gets is rounding.
  if (name === "grad.head_proj.0.bias") continue;
  const [truth, ours] = [data as Float32Array, gpu.results.get(name)?.data as Float32Array];
  let [difference, norm, unequal] = [0, 0, 0];
  truth.forEach((v, i) => {
    const off = v - (ours[i] as number);
    difference += off ** 2;
    norm += v ** 2;
    if (Math.abs(off) > 1e-5) unequal++;
  });
  const isImage = /attack\.(first_)?x_/.test(name);
  const error = isImage ? unequal / truth.length : Math.sqrt(difference / Math.max(norm, 1e-24));
  const group = isImage ? "image" : name.includes("first_grad") ? "firstGradient" : (name.split(".")[0] as string);
  errors[group] = Math.max(errors[group] ?? 0, error);
  if (group === "grad") gradients.push(error);
}
gradients.sort((a, b) => a - b);

const folder = mkdtempSync(join(tmpdir(), "advcl-webgpu-"));
const engine = await chooseEngine({ provider: "webgpu", threads: 2 });
const { session } = await engine.load(step, { profile: join(folder, "profile") });
await session.run({ ...Object.fromEntries(initial), ...inputs });
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
console.log(JSON.stringify({ errors, gradientMedian: gradients[gradients.length >> 1], secondLoss, fallbacks }));
