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
import { vjp } from "../../graphs/autodiff/grad.ts";
import { Store } from "../../graphs/nn/scope.ts";
import { dtypes, isFloat } from "../../graphs/onnx/dtype.ts";
import { type Attributes, apply, constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { sizeOf, type Tensor } from "../../graphs/onnx/tensor.ts";
import { type CheckedInput, conv, definitions, type GradcheckCase } from "../../graphs/ops/index.ts";
import { compile, type Step } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { random } from "../../src/data/random.ts";
import { chooseEngine, type EngineRequest } from "../../src/engine/engine.ts";
import { createSession, type Provider, type Session } from "../../src/engine/session.ts";
import { readFlags } from "../flags.ts";
import { relativeError } from "./golden.ts";

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

const convolutions: GradcheckCase<Attributes>[] = [];
for (const kernel of [1, 3])
  for (const strides of [1, 2])
    for (const [images, channels, filters, group] of [
      ...[1, 2, 3, 5, 6, 9, 12, 15].flatMap((n) => [
        [2, n, 4, 1] as const,
        [n, 4, 8, 1] as const,
        [n, n, 3, 1] as const,
      ]),
      [3, 4, 4, 2] as const,
      [2, 2, 4, 2] as const,
      [3, 6, 6, 6] as const,
      [2, 3, 6, 3] as const,
    ]) {
      const pads = [0, 1, 2, 3].map(() => kernel >> 1);
      convolutions.push({
        inputs: [{ shape: [images, channels, 6, 6] }, { shape: [filters, channels / group, kernel, kernel] }],
        attributes: { pads, strides: [strides, strides], group },
      });
    }

/** Composite ops in a program of their own: what a target makes of them may be in an older opset than some standard op. */
const programs: readonly Record<string, Value>[] = [{}, {}];
const feeds: Record<string, Tensor> = {};
for (const definition of definitions.values()) {
  if (typeof definition.vjp !== "function") continue;
  const outputs = programs[definition.lower === undefined ? 0 : 1] as Record<string, Value>;
  const cases = definition === conv.definition ? [...definition.gradcheck, ...convolutions] : definition.gradcheck;
  cases.forEach(({ inputs, attributes = {} }, index) => {
    const numbers = random(0, 0, index, definition.name);
    const drawn = ({ shape, values, low = -1, high = 1, dtype = "float32" }: CheckedInput): Tensor => {
      const data = new dtypes[dtype].array(sizeOf(shape));
      for (let i = 0; i < data.length; i++) {
        const value = values?.[i] ?? low + (high - low) * numbers.uniform();
        data[i] = data instanceof BigInt64Array || data instanceof BigUint64Array ? BigInt(value) : value;
      }
      return { dtype, shape, data };
    };
    const name = `${definition.name} ${index}`;
    const operands = inputs.map((given, i) => {
      const value = drawn(given);
      if (given.fixed) return constant(value);
      feeds[`${name} input ${i}`] = value;
      return input(`${name} input ${i}`, value);
    });
    const results = apply(definition, operands, attributes).filter(({ dtype }) => isFloat(dtype));
    // Statistics carry no gradient.
    const counted = /^batchNormTraining$|^LayerNorm/.test(definition.name) ? results.slice(0, 1) : results;
    const free = operands.filter((_, i) => !inputs[i]?.fixed);
    const cotangents = counted.map(({ shape, dtype }) => constant(drawn({ shape, dtype })));
    const described = `${name} of ${inputs.map(({ shape }) => `[${shape}]`).join(" ")} ${JSON.stringify(attributes)}`;
    results.forEach((y, i) => {
      outputs[`${described}, output ${i}`] = y;
    });
    vjp(counted, cotangents, free).forEach((gradient, i) => {
      if (gradient !== undefined) outputs[`${described}, gradient ${i}`] = gradient;
    });
  });
}

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
