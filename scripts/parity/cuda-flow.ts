/**
 * How a training and an attack run as CUDA graphs, step by step, through onnxruntime's own CUDA provider on a machine without a GPU: libraries
 * of CUDA that compute nothing tell when a graph is captured and launched, when the host waits, and refuse in a capture what CUDA refuses there.
 *
 *   node dist/scripts/parity/cuda-flow.js --provider onnxruntime_gpu-1.30.0-*.whl --headers nvidia_cuda_runtime-13.0.96-*.whl [--batch 512] [--width 64]
 *     [--unwaited]
 *
 * The wheels are those of cuda-placement.ts. Needs Linux x64, gcc and nm. The last line is one JSON object: what is wrong, and the memory of the device that was asked for, in MB; exit code 1
 * where a capture failed, a later run waited for more than its end, or a program ran without a graph. `--unwaited` is a control that must
 * fail at batch 512: first runs return without waiting too, so onnxruntime keeps their pinned memory and has to ask for more in a capture.
 */
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { advcl } from "../../graphs/methods/advcl.ts";
import { type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { kindOf } from "../../graphs/steps/names.ts";
import { compile, type Step } from "../../graphs/steps/step.ts";
import type { Target } from "../../graphs/targets/lower.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { load } from "../../src/engine/load.ts";
import { ortApi } from "../../src/engine/native/api.ts";
import { createRunner } from "../../src/engine/runner.ts";
import { targetNamed } from "../../src/engine/targets.ts";
import { RequestError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";
import { cudaStandIns } from "./cuda-stand-ins.ts";
import { goldenOptions } from "./golden.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    provider: { type: "string" },
    headers: { type: "string" },
    batch: { type: "string", default: "512" },
    width: { type: "string", default: "64" },
    unwaited: { type: "boolean", default: false },
    inside: { type: "boolean", default: false },
  },
});
const RUNS = 6;
const MARK = "run ";

/** Has every run return when its graph is launched, the first of each too. */
const neverWait = (): void => {
  const api = ortApi() as { call: ReturnType<typeof ortApi>["call"] };
  const { call } = api;
  api.call = (name, ...args) => {
    const result = call(name, ...args);
    if (name === "AddRunConfigEntry" && args[1] === "gpu_graph_id")
      call(name, args[0]!, "disable_synchronize_execution_providers", "1");
    return result;
  };
};

/** Trains some steps with the libraries in place, and says on stderr where each begins. */
const trainInside = async (): Promise<void> => {
  if (flags.unwaited) neverWait();
  const target: Target = { ...targetNamed("cuda-fused-float32"), loops: "unroll" };
  const cuda = { device: 0, tf32: true };
  const options = { provider: "cuda", engine: "native", threads: 1, cuda } as const;
  const engine = {
    ...{ provider: "cuda", name: "native", graphs: true, options },
    load: (step: Step, more = {}) =>
      load({ compiled: (to) => compile(step, to), target, options: { ...options, ...more }, graph: () => true }),
  } as unknown as Engine;
  const step = advcl.build({ ...goldenOptions, trace: false, batch: Number(flags.batch), width: Number(flags.width) });
  const given = Object.entries(compile(step, target).inputs).map(([name, { dtype, shape }]) => [
    name,
    zeros(dtype, shape),
  ]) as [string, Tensor][];
  const inputs = () => Object.fromEntries(given.filter(([name]) => kindOf(name) === "input"));
  const runner = await createRunner(engine, step, new Map(given.filter(([name]) => kindOf(name) !== "input")));
  const batches = Array.from({ length: RUNS + 1 }, inputs);
  for (let run = 0; run < RUNS; run++) {
    console.error(`${MARK}${run + 1}`);
    runner.stage?.(batches[run + 1]!);
    await runner.run(batches[run]!);
    runner.accept();
  }
  console.error(`${MARK}end`);
  await runner.release();
};

/** What the libraries told in each run. */
const toldIn = (log: string): readonly (readonly string[])[] =>
  log
    .split(`\n${MARK}`)
    .slice(1, RUNS + 1)
    .map((part) => Array.from(part.matchAll(/^cuda: (.*)$/gm), ([, said]) => said as string));

/** The first two runs capture a graph each, after runs that wait; all others launch one, and the host waits at its end alone. */
const wrongIn = (runs: readonly (readonly string[])[], log: string): readonly string[] => {
  const wrong = [...log.matchAll(/refused in a capture:\ncuda: (.*)/g)].map(
    ([, what]) => `${what} is asked for in a capture`,
  );
  if (/runs without a CUDA graph/.test(log)) wrong.push("a program ran without a graph");
  runs.forEach((told, i) => {
    const [first, later] = [told.filter((said) => said === "captured").length, told.indexOf("graph launched")];
    if (first !== (i < 2 ? 1 : 0)) wrong.push(`run ${i + 1} captured ${first} graphs`);
    if (later < 0) wrong.push(`run ${i + 1} launched no graph`);
    // After the launch: the end of the graph, then that of the copies of metrics.
    if (i >= 2 && told.slice(later + 1).join() !== "device synchronized,stream synchronized")
      wrong.push(`run ${i + 1} told ${told.join(", ")}`);
  });
  if (runs.length !== RUNS) wrong.push(`${runs.length} of ${RUNS} runs were made`);
  return wrong;
};

if (flags.inside) await trainInside();
else {
  if (flags.provider === undefined || flags.headers === undefined)
    throw new RequestError("give --provider and --headers, the two wheels");
  const { folder } = cudaStandIns(flags.provider, flags.headers);
  const script = join(
    folder,
    "dist/scripts/parity",
    fileURLToPath(import.meta.url)
      .split("/")
      .at(-1) as string,
  );
  const env = {
    ...process.env,
    ...{ LD_LIBRARY_PATH: folder, XDG_CACHE_HOME: join(folder, "cache"), CUDA_STAND_INS: "1" },
    ADVCL_NVRTC: join(folder, "libnvrtc.so.13"),
  };
  const args = ["--inside", "--batch", flags.batch, "--width", flags.width, ...(flags.unwaited ? ["--unwaited"] : [])];
  const { status, stderr } = spawnSync(process.execPath, [script, ...args], {
    encoding: "utf8",
    env,
    maxBuffer: 2 ** 28,
  });
  rmSync(folder, { recursive: true });
  const runs = toldIn(stderr);
  const wrong = [...(status === 0 ? [] : [`it ended with ${status}: ${stderr.slice(-600)}`]), ...wrongIn(runs, stderr)];
  for (const [i, told] of runs.entries()) console.log(`run ${i + 1}: ${told.join(", ")}`);
  const [, megabytes] = [...stderr.matchAll(/^cuda memory: (\d+) MB$/gm)].at(-1) ?? [];
  console.log(JSON.stringify({ runs: runs.length, megabytes: Number(megabytes), wrong }));
  process.exitCode = wrong.length > 0 ? 1 : 0;
}
