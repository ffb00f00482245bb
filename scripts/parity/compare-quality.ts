/**
 * Whether training on two targets, which round otherwise, ends alike: the same steps for several seeds, and the spread of the seeds beside
 * the difference. `cpu,cpu-direct` is with Winograd's algorithm and without, `cpu,cpu-bfloat16-32` float32 and bfloat16.
 *
 *     npm run build
 *     node dist/scripts/parity/compare-quality.js --data CIFAR10_FOLDER --pseudo-labels FILE --out FOLDER [--targets cpu,cpu-direct]
 *       [--steps 300] [--width 32] [--batch 16] [--attack-steps 5] [--lr 0.03] [--seeds 0,1,2] [--threads 2]
 *
 * Takes hours; run again, it goes on where it was. The loss is the mean over the last tenth of the steps; the kNN accuracy
 * is of frozen features on the test images. Fails where the means part by more than the seeds do.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { RequestError, RunError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    data: { type: "string" },
    "pseudo-labels": { type: "string" },
    out: { type: "string" },
    targets: { type: "string", default: "cpu,cpu-direct" },
    steps: { type: "string", default: "300" },
    width: { type: "string", default: "32" },
    batch: { type: "string", default: "16" },
    "attack-steps": { type: "string", default: "5" },
    lr: { type: "string", default: "0.03" },
    seeds: { type: "string", default: "0,1,2" },
    threads: { type: "string", default: "2" },
  },
});
const { data, out, "pseudo-labels": labels } = values;
if (data === undefined || out === undefined || labels === undefined)
  throw new RequestError("give --data CIFAR10, --pseudo-labels FILE and --out OUT");
const [steps, batch] = [Number(values.steps), Number(values.batch)];
const seeds = values.seeds.split(",");

interface End {
  readonly loss: number;
  readonly accuracy: number;
}

/** Trains to the end, going on with what is there. */
const train = async (target: string, seed: string): Promise<End> => {
  const folder = join(out, `${target}-${seed}`);
  const settings = {
    dataset: "cifar10",
    data,
    "pseudo-labels": labels,
    target,
    seed,
    out: folder,
    width: values.width,
    batch: values.batch,
    limit: String(steps * batch),
    epochs: "1",
    "attack-steps": values["attack-steps"],
    lr: values.lr,
    "knn-every": "1",
    threads: values.threads,
    workers: "0",
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]);
  const main = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));
  const resume = existsSync(join(folder, "config.yaml")) ? ["--resume"] : [];
  const child = spawn(process.execPath, [main, "pretrain", ...flags, ...resume], { stdio: "inherit" });
  const code = await new Promise((done) => child.on("close", done));
  if (code !== 0) throw new RunError(`training on ${target} with seed ${seed} ended with exit code ${code}`);
  const rows = (await readFile(join(folder, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, number>);
  const losses = rows.flatMap((row) => (row.loss === undefined ? [] : [row.loss])).slice(-Math.ceil(steps / 10));
  const accuracy = rows.findLast((row) => row.knnAccuracy !== undefined)?.knnAccuracy as number;
  return { loss: mean(losses), accuracy };
};

const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const deviation = (numbers: readonly number[]): number =>
  Math.sqrt(numbers.reduce((sum, x) => sum + (x - mean(numbers)) ** 2, 0) / (numbers.length - 1));

const targets = values.targets.split(",");
if (targets.length !== 2) throw new RequestError("give two targets, such as --targets cpu,cpu-bfloat16-32");
const ends = targets.map((): End[] => []);
for (const seed of seeds) for (const [i, target] of targets.entries()) ends[i]!.push(await train(target, seed));

let apart = false;
const longest = Math.max(...targets.map((target) => target.length));
for (const figure of ["loss", "accuracy"] as const) {
  const both = ends.map((all) => all.map((end) => end[figure])) as [number[], number[]];
  const spread = Math.max(...both.map(deviation));
  const difference = mean(both[0]) - mean(both[1]);
  apart ||= Math.abs(difference) > spread;
  const all = (numbers: readonly number[]) =>
    `${numbers.map((x) => x.toFixed(4)).join("  ")}  mean ${mean(numbers).toFixed(4)} ± ${deviation(numbers).toFixed(4)}`;
  for (const [i, target] of targets.entries())
    console.log(`${figure.padEnd(9)} on ${target.padEnd(longest)}  ${all(both[i]!)}`);
  console.log(`${figure.padEnd(9)} difference ${difference.toFixed(4)}, spread of the seeds ${spread.toFixed(4)}`);
}
if (apart) {
  console.error("The means part by more than the seeds do.");
  process.exitCode = 1;
}
