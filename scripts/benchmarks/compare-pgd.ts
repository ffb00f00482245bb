/**
 * PGD evaluation of ResNet-18 (the whole attack in one run, weights as constants) against PyTorch's, channels last: one
 * worker process each, one evaluation of each in turn, medians of wall seconds and of the processor's seconds, which other
 * programs disturb less.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-pgd.js --python PYTHON --reference advcl_torch.py [--batch 128] [--width 64] [--steps 20]
 *       [--rounds 3] [--threads 2] [--target cpu]
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { linf } from "../../graphs/attacks/threat-model.ts";
import { advclBranches } from "../../graphs/methods/advcl.ts";
import { classifier } from "../../graphs/nn/classifier.ts";
import { FrozenStore } from "../../graphs/nn/frozen.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { input } from "../../graphs/onnx/graph.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { median } from "../../src/bench/measure.ts";
import { random } from "../../src/data/random.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { RunError } from "../../src/errors.ts";
import { openOracle } from "../../src/evaluate/attacks/oracle.ts";
import { initialTensor } from "../../src/train/initialize.ts";
import { existingPath, readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    worker: { type: "boolean", default: false },
    python: { type: "string", default: "python3" },
    reference: { type: "string" },
    batch: { type: "string", default: "128" },
    width: { type: "string", default: "64" },
    steps: { type: "string", default: "20" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
    target: { type: "string" },
  },
});
const shape = [values.width, values.batch, values.steps, values.threads];
const [width, batch, steps, threads] = shape.map(Number) as [number, number, number, number];

interface Run {
  readonly wall: number;
  readonly processor: number;
}

/** Answers each line on stdin with one evaluation. */
const serve = async (): Promise<void> => {
  const layer = classifier({ depth: 18, width, stem: "cifar", branches: advclBranches, classes: 10 });
  const trial = new Store();
  layer(new Scope(trial, { mode: "eval", branches: ["pgd"] }), input("x", { dtype: "float32", shape: [1, 3, 32, 32] }));
  const weights = new Map<string, Tensor>();
  for (const slots of [trial.parameters, trial.states])
    for (const slot of slots.values()) weights.set(slot.path, initialTensor(slot, 1));
  const scope = new Scope(new FrozenStore((path) => weights.get(path)), { mode: "eval", branches: ["pgd"] });
  const engine = await chooseEngine({ provider: "cpu", threads, target: values.target });
  const oracle = openOracle({
    classifier: (x) => layer(scope, x),
    image: [3, 32, 32],
    batch,
    fixed: true,
    load: engine.loadEvaluation,
  });
  const clean = new Float32Array(batch * 3072);
  random(1, 0, 0, "clean").fillUniform(clean, 0, 1);
  const start = new Float32Array(clean.length);
  random(1, 0, 0, "start").fillUniform(start, -8 / 255, 8 / 255);
  start.forEach((v, i) => {
    start[i] = v + (clean[i] as number);
  });
  const labels = Array.from({ length: batch }, (_, i) => i % 10);
  for await (const _ of createInterface({ input: process.stdin })) {
    const [began, used] = [performance.now(), process.cpuUsage()];
    await oracle.pgd({ threat: linf(8 / 255), steps, stepSize: 2 / 255 }, clean, start, labels);
    const { user, system } = process.cpuUsage(used);
    console.log(JSON.stringify({ wall: (performance.now() - began) / 1e3, processor: (user + system) / 1e6 }));
  }
  await oracle.release();
};

const worker = (name: string, command: string, args: readonly string[]) => {
  const child = spawn(command, [...args], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (): Promise<Run> => {
    child.stdin.write("go\n");
    const { value, done } = await lines.next();
    if (done) throw new RunError(`the worker ${name} ended (exit code ${child.exitCode})`);
    return JSON.parse(value) as Run;
  };
  return { name, child, ask, runs: [] as Run[] };
};

const compare = async (): Promise<void> => {
  const reference = existingPath("reference", values.reference);
  const rounds = Number(values.rounds);
  // The PyTorch side is not compiled: it lies with the sources.
  const script = fileURLToPath(new URL("../../../scripts/benchmarks/compare-pgd.py", import.meta.url));
  const workers = [
    worker("ours", process.execPath, [fileURLToPath(import.meta.url), ...process.argv.slice(2), "--worker"]),
    worker("torch", values.python, [script, reference, ...shape]),
  ];
  // The first round warms up (ours makes its session in it) and does not count.
  for (let round = 0; round <= rounds; round++)
    for (const { ask, runs, name } of workers) {
      const run = await ask();
      console.log(`round ${round}: ${name} ${run.wall.toFixed(2)} s, processor ${run.processor.toFixed(2)} s`);
      if (round > 0) runs.push(run);
    }
  for (const { child } of workers) child.stdin.end();
  const [ours, torch] = workers.map(({ runs }) => ({
    wall: median(runs.map((run) => run.wall)),
    processor: median(runs.map((run) => run.processor)),
  })) as [Run, Run];
  console.log(
    `PGD-${steps}, ResNet-18 width ${width}, batch ${batch}, ${threads} threads, medians of ${rounds}: ` +
      `ours ${(batch / ours.wall).toFixed(2)} images/s (processor ${ours.processor.toFixed(2)} s), ` +
      `PyTorch ${(batch / torch.wall).toFixed(2)} images/s (processor ${torch.processor.toFixed(2)} s); ` +
      `ours is ${(torch.wall / ours.wall).toFixed(2)} times as fast, by processor seconds ${(torch.processor / ours.processor).toFixed(2)}`,
  );
};

await (values.worker ? serve() : compare());
