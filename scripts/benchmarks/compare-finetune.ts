/**
 * One AFF step (TRADES, 10 attack steps) of ResNet-18 against PyTorch's, channels last: one worker process each, one step of
 * each in turn, medians of wall seconds and of the processor's seconds, which other programs disturb less.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-finetune.js --python PYTHON --reference advcl_torch.py [--batch 64] [--width 64]
 *       [--attack-steps 10] [--rounds 5] [--threads 2] [--target cpu]
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { advclBranches } from "../../graphs/methods/advcl.ts";
import { finetuneStep } from "../../graphs/steps/finetune.ts";
import { benchFeeds, median } from "../../src/bench/measure.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { RunError } from "../../src/errors.ts";
import { existingPath, readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    worker: { type: "boolean", default: false },
    python: { type: "string", default: "python3" },
    reference: { type: "string" },
    batch: { type: "string", default: "64" },
    width: { type: "string", default: "64" },
    "attack-steps": { type: "string", default: "10" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    target: { type: "string" },
  },
});
const shape = [values.batch, values.width, values.threads, values["attack-steps"]];
const [batch, width, threads, attackSteps] = shape.map(Number) as [number, number, number, number];

interface Run {
  readonly wall: number;
  readonly cpu: number;
}

/** Answers each line on stdin with one step; the first answer says that it is ready. */
const serve = async (): Promise<void> => {
  const engine = await chooseEngine({ provider: "cpu", threads, target: values.target });
  const step = finetuneStep({
    objective: "trades",
    batch,
    size: 32,
    depth: 18,
    width,
    stem: "cifar",
    branches: advclBranches,
    branch: "pgd",
    classes: 10,
    beta: 6,
    attackSteps,
    eps: 8 / 255,
    stepSize: 2 / 255,
    momentum: 0.9,
    weightDecay: 2e-4,
  });
  const began = performance.now();
  const { session, model } = await engine.load(step);
  const feeds = benchFeeds(step, 1);
  const seconds = (performance.now() - began) / 1e3;
  console.log(JSON.stringify({ target: engine.target.name, nodes: model.nodes.size, createSeconds: seconds }));
  for await (const _ of createInterface({ input: process.stdin })) {
    const [start, used] = [performance.now(), process.cpuUsage()];
    const results = await session.run(feeds);
    const { user, system } = process.cpuUsage(used);
    for (const [name, value] of Object.entries(results))
      if (name.startsWith("next.")) feeds[name.slice("next.".length)] = value;
    const run: Run = { wall: (performance.now() - start) / 1e3, cpu: (user + system) / 1e6 };
    console.log(JSON.stringify(run));
  }
  await session.release();
};

const worker = (name: string, command: string, args: readonly string[]) => {
  const child = spawn(command, [...args], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done) throw new RunError(`the worker ${name} ended (exit code ${child.exitCode})`);
    return value;
  };
  return { name, child, next, runs: [] as Run[] };
};

const compare = async (): Promise<void> => {
  const reference = existingPath("reference", values.reference);
  const rounds = Number(values.rounds);
  // The PyTorch side is not compiled: it lies with the sources.
  const script = fileURLToPath(new URL("../../../scripts/benchmarks/compare-finetune.py", import.meta.url));
  const workers = [
    worker("ours", process.execPath, [fileURLToPath(import.meta.url), ...process.argv.slice(2), "--worker"]),
    worker("torch", values.python, [script, reference, ...shape]),
  ];
  for (const { name, next } of workers) console.log(`${name}: ready ${await next()}`);
  // The first round warms up and does not count.
  for (let round = 0; round <= rounds; round++)
    for (const { child, next, runs, name } of workers) {
      child.stdin.write("go\n");
      const run = JSON.parse(await next()) as Run;
      console.log(`round ${round}: ${name} ${run.wall.toFixed(2)} s, cpu ${run.cpu.toFixed(2)} s`);
      if (round > 0) runs.push(run);
    }
  for (const { child } of workers) child.stdin.end();
  const [ours, torch] = workers.map(({ runs }) => ({
    wall: median(runs.map((run) => run.wall)),
    cpu: median(runs.map((run) => run.cpu)),
  })) as [Run, Run];
  console.log(
    `AFF step, ResNet-18 width ${width}, batch ${batch}, ${attackSteps} attack steps, ${threads} threads, medians of ${rounds}: ` +
      `ours ${ours.wall.toFixed(2)} s (cpu ${ours.cpu.toFixed(2)}), PyTorch ${torch.wall.toFixed(2)} s (cpu ${torch.cpu.toFixed(2)}); ` +
      `ours is ${(torch.wall / ours.wall).toFixed(2)} times as fast, by cpu seconds ${(torch.cpu / ours.cpu).toFixed(2)}`,
  );
};

await (values.worker ? serve() : compare());
