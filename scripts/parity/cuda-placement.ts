/**
 * Where ONNX Runtime's CUDA provider would run each node of pretraining, finetuning, attacks and evaluation, asked of the
 * provider itself on a machine without a GPU: libraries of CUDA that do nothing let it start, place the nodes and load the
 * step; only running it would need a GPU.
 *
 *   python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
 *     --platform manylinux_2_27_x86_64 onnxruntime-gpu==1.30.0
 *   python -m pip download --no-deps --only-binary=:all: nvidia-cuda-runtime==13.0.96
 *   node dist/scripts/parity/cuda-placement.js --provider onnxruntime_gpu-1.30.0-*.whl --headers nvidia_cuda_runtime-13.0.96-*.whl
 *
 * Needs Linux x64, gcc and nm. Prints one JSON object: by target and program { nodes, onCpu, copies }: nodes that onnxruntime
 * kept after its own rewriting, those left to the CPU by op, and copies between host and device that it inserted. Exit code
 * 1 where anything is left to the CPU.
 */
import { spawnSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { advcl, advclBranches } from "../../graphs/methods/advcl.ts";
import { apDpeTasks } from "../../graphs/methods/ap-dpe.ts";
import { methodNames, methods } from "../../graphs/methods/index.ts";
import { head } from "../../graphs/nn/classifier.ts";
import { encoder } from "../../graphs/nn/encoder.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { apply, input, type Value } from "../../graphs/onnx/graph.ts";
import { buildModel, type Model } from "../../graphs/onnx/write.ts";
import { cast, mul, reduceMean } from "../../graphs/ops/index.ts";
import { type AttackLoss, attackLosses, gradientStep } from "../../graphs/steps/evaluate.ts";
import { classifierStep, finetuneStep } from "../../graphs/steps/finetune.ts";
import { manySteps } from "../../graphs/steps/many.ts";
import { compile, type Step } from "../../graphs/steps/step.ts";
import { nhwcConv } from "../../graphs/targets/cuda/kernels/nhwc-conv.ts";
import { type Lowering, lower, type Target } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { targetNamed } from "../../src/engine/targets.ts";
import { RequestError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";
import { cudaStandIns } from "./cuda-stand-ins.ts";
import { goldenOptions } from "./golden.ts";

/** Targets in which each way of cudaWays comes with each of the others. */
const covering =
  "cuda,cuda-convolution-turned-dots,cuda-turned-composed,cuda-convolution-composed,cuda-turned-float16," +
  "cuda-convolution-float16,cuda-dots-float16,cuda-convolution-turned-composed-float16,cuda-composed-float16," +
  "cuda-fused,cuda-fused-float32";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    provider: { type: "string" },
    headers: { type: "string" },
    targets: { type: "string", default: covering },
  },
});
if (flags.provider === undefined || flags.headers === undefined)
  throw new RequestError("give --provider and --headers, the two wheels");

const { folder } = cudaStandIns(flags.provider, flags.headers);

const load = `
const ort = require("onnxruntime-node");
ort.env.logLevel = "verbose";
ort.InferenceSession.create(process.argv[1], { executionProviders: ["cuda", "cpu"], graphOptimizationLevel: "extended", logSeverityLevel: 0 })
  .catch((error) => { console.error(error); process.exitCode = 1; });
`;
interface Placement {
  readonly nodes: number;
  readonly onCpu: Readonly<Record<string, number>>;
  readonly copies: number;
}

/** Loads a model and reads where its nodes went. */
const placementOf = ({ bytes }: Model): Placement => {
  const file = join(folder, "model.onnx");
  writeFileSync(file, bytes);
  const { stdout, stderr, status } = spawnSync(process.execPath, ["-e", load, file], {
    cwd: folder,
    encoding: "utf8",
    maxBuffer: 2 ** 28,
    env: { ...process.env, ORT_DISABLE_TELEMETRY: "1", LD_LIBRARY_PATH: folder },
  });
  const log = stdout + stderr;
  const [, placed] = log.split("Node placements");
  if (status !== 0 || placed === undefined) throw new Error(log.slice(-2000));
  const counts = Array.from(placed.matchAll(/placed on \[(\w+)\]\. Number of nodes: (\d+)/g));
  const onCpu: Record<string, number> = {};
  let provider: string | undefined;
  for (const line of placed.split("\n")) {
    provider = /placed on \[(\w+)\]/.exec(line)?.[1] ?? provider;
    const op = /VerifyEachNodeIsAssignedToAnEp\] {3}(\w+) \(/.exec(line)?.[1];
    if (op !== undefined && provider === "CPUExecutionProvider") onCpu[op] = (onCpu[op] ?? 0) + 1;
  }
  return {
    nodes: counts.reduce((sum, [, , count]) => sum + Number(count), 0),
    onCpu,
    copies: Array.from(log.matchAll(/Add Memcpy(From|To)Host/g)).length,
  };
};

// A mean of int64 has no CUDA kernel: what is not seen here would not be seen in a step.
const x = input("x", { dtype: "float32", shape: [4, 4] });
const mean = reduceMean(cast(x, { to: "int64" }), { axes: [0] });
const control = placementOf(buildModel({ y: mul(cast(mean, { to: "float32" }), x) }));
if (control.onCpu.ReduceMean !== 1 || control.copies !== 2)
  throw new Error(`the control is not seen to use the CPU: ${JSON.stringify(control)}`);

const pretraining = advcl.build({ ...goldenOptions, trace: false });
const classifier = { ...goldenOptions, classes: 10, branch: "pgd", branches: advclBranches };
const finetuning = { ...classifier, beta: 6, momentum: 0.9, weightDecay: 1e-4 };
const judged = classifierStep({ ...classifier, attackSteps: 2 });
const images = { batch: goldenOptions.batch, image: [3, goldenOptions.size, goldenOptions.size] } as const;
const network = (x: Value): Value => {
  const scope = new Scope(new Store(), { mode: "eval", branches: ["pgd"] });
  return head(10)(scope, encoder(classifier)(scope, x));
};
const rivals = methodNames.filter((name) => name !== "advcl");
const programs: Readonly<Record<string, Pick<Step, "outputs">>> = {
  pretraining,
  ...Object.fromEntries(
    rivals.map((name) => [
      `pretraining by ${name}`,
      methods[name].build({
        ...methods[name].paper,
        ...goldenOptions,
        trace: false,
        tasks: apDpeTasks,
        baseTemperature: 0.07,
        ...(name === "ap-dpe" && { optimizer: "adamw" }),
        ...(name === "dynacl" && { ema: 0.99 }),
      }),
    ]),
  ),
  "pretraining, 2 steps a run": manySteps(pretraining, 2),
  ...Object.fromEntries(
    (["clean", "pgd", "trades"] as const).map((objective) => [
      `finetuning by ${objective}`,
      finetuneStep({ ...finetuning, objective }),
    ]),
  ),
  "evaluation under pgd": judged,
  ...Object.fromEntries(
    (Object.keys(attackLosses) as AttackLoss[]).map((loss) => [
      `gradient of ${loss}`,
      { outputs: gradientStep(network, images, loss) },
    ]),
  ),
};
/**
 * As it would be loaded, but for this project's own kernels: those are custom ops, whose place nobody asks about; their portable
 * meaning stands for them, so that what is between them is seen.
 */
const compiled = (program: Pick<Step, "outputs">, target: Target): Model => {
  if (target.kernels === undefined) return compile(program, target);
  const stays: Lowering = ({ inputs, attributes }) =>
    apply(
      nhwcConv.definition,
      inputs.map((value) => value.plain),
      attributes,
    );
  const around: Target = { ...portable, lowerings: new Map([[nhwcConv.definition, stays]]) };
  return compile({ outputs: lower(program.outputs, target) }, around);
};

const summary: Record<string, Placement> = {};
for (const target of flags.targets.split(","))
  for (const [name, program] of Object.entries(programs)) {
    const placement = placementOf(compiled(program, targetNamed(target)));
    console.log(`${target}, ${name}: ${JSON.stringify(placement)}`);
    if (placement.copies > 0 || Object.keys(placement.onCpu).length > 0) process.exitCode = 1;
    summary[`${target}, ${name}`] = placement;
  }
rmSync(folder, { recursive: true });
console.log(JSON.stringify(summary));
