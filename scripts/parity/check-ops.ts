/**
 * Every op that has a gradient, and its gradient, on a provider beside the portable graph on the CPU: the cases of the
 * gradient checks, and convolutions of many channel counts, filters, batches and groups, among which providers choose
 * kernels of their own.
 *
 *   node dist/scripts/parity/check-ops.js --provider webgpu|cuda|cpu [--target NAME] [--engine native] [--precision float32] [--threads 1]
 *
 * WebGPU needs a Vulkan driver; Chromium's software driver does: VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json.
 * On CUDA, NVIDIA_TF32_OVERRIDE=0 keeps float32's digits. Prints what is further off than it may be; the last line is one
 * JSON object { compared, wrong: { name: relative L2 error } }; exit code 1 where anything is wrong.
 */
import { Store } from "../../graphs/nn/scope.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { compile, type Step } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { chooseEngine, type EngineRequest } from "../../src/engine/engine.ts";
import { createSession, type Provider, type Session } from "../../src/engine/session.ts";
import { readFlags } from "../flags.ts";
import { relativeError } from "./golden.ts";
import { opPrograms } from "./op-programs.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    provider: { type: "string", default: "cpu" },
    target: { type: "string" },
    engine: { type: "string", default: "auto" },
    precision: { type: "string", default: "auto" },
    threads: { type: "string", default: "1" },
  },
});

/** Relative L2 errors that are allowed; WGSL promises sines to 2⁻¹¹ only. */
const allowed = (name: string): number => (/^(Sin|Cos) /.test(name) ? 1e-3 : 1e-5);

const { programs, feeds } = opPrograms();

type Load = (step: Step) => Promise<Session>;

const evaluated = async (load: Load): Promise<Readonly<Record<string, Tensor>>> => {
  const results = {};
  for (const outputs of programs) {
    const session = await load({ outputs, store: new Store() });
    const used = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]!]));
    Object.assign(results, await session.run(used));
    await session.release();
  }
  return results;
};
const engine = await chooseEngine({
  provider: flags.provider as Provider,
  threads: Number(flags.threads),
  engine: flags.engine as EngineRequest["engine"],
  precision: flags.precision as EngineRequest["precision"],
  ...(flags.target !== undefined && { target: flags.target }),
});
const expected = await evaluated((step) => createSession(compile(step, portable), { threads: Number(flags.threads) }));
// As steps are loaded: with the kernels of the target, on CUDA as a graph.
const actual = await evaluated(async (step) => (await engine.load(step)).session);
const wrong: Record<string, number> = {};
for (const [name, { data }] of Object.entries(expected)) {
  const error = relativeError(actual[name]?.data as Float32Array, data as Float32Array);
  if (error <= allowed(name)) continue;
  wrong[name] = error;
  console.log(`${name} is off by ${error.toExponential(1)}`);
  process.exitCode = 1;
}
console.log(JSON.stringify({ compared: Object.keys(expected).length, wrong }));
