/**
 * AutoAttack `standard` by `advcl evaluate` against `torchattacks` on the same weights and the first test images of CIFAR-10, one
 * after the other in processes of their own, so many rounds; medians. Ours is the whole command, with loading and making sessions;
 * theirs the attack alone (scripts/benchmarks/compare-attacks.py). The last line is one JSON object.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-autoattack.js --python PYTHON --model RUN --data CIFAR10 [--limit 32] [--eps 8/255]
 *       [--norm l2] [--rounds 3] [--threads 2]
 *
 * RUN is a run of `advcl finetune`, a ResNet-18 for 32×32 images; PYTHON has torch, torchvision, torchattacks, safetensors.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { RequestError, RunError } from "../../src/errors.ts";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { type Contender, describe, machine, summarize, type Turn, takeTurns } from "./side-by-side.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    python: { type: "string", default: "python3" },
    model: { type: "string" },
    data: { type: "string" },
    limit: { type: "string", default: "32" },
    eps: { type: "string", default: "8/255" },
    norm: { type: "string", default: "linf" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
const { model, data, limit, threads, norm } = values;
const theirNorm = { linf: "Linf", l2: "L2" }[norm];
if (theirNorm === undefined) throw new RequestError(`--norm ${norm} is neither linf nor l2`);
if (model === undefined || data === undefined) throw new RequestError("give --model RUN and --data CIFAR10");
const [over, under = "1"] = values.eps.split("/");
const eps = Number(over) / Number(under);

/** Seconds and the last line of stdout. */
const run = (command: string, args: readonly string[]): { seconds: number; last: string } => {
  const start = performance.now();
  const { status, stdout } = spawnSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  if (status !== 0) throw new RunError(`${command} ${args[0]} ended with ${status}`);
  return { seconds: (performance.now() - start) / 1e3, last: stdout.trim().split("\n").at(-1) as string };
};
const main = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));
// The PyTorch side is not compiled: it lies with the sources.
const theirs = join(packageRoot, "scripts", "benchmarks", "compare-attacks.py");

/** Seconds, and accuracy without and under the attack. */
interface Accuracies extends Turn {
  readonly clean: number;
  readonly robust: number;
}
const figures = (wall: number, clean: number, robust: number): Accuracies => ({ wall, clean, robust });

const folder = mkdtempSync(join(tmpdir(), "advcl-autoattack-"));
try {
  const weights = join(folder, "weights.safetensors");
  const layout = ["--format", "safetensors", "--layout", "torchvision"];
  run(process.execPath, [main, "export", "--from", model, ...layout, "--out", weights]);
  // A file of the first images alone, for both sides: `--limit` of ours takes a sample.
  const recordBytes = 1 + 3 * 32 * 32;
  const all = readFileSync(join(data, "test_batch.bin"));
  writeFileSync(join(folder, "test_batch.bin"), all.subarray(0, Number(limit) * recordBytes));
  const advcl = (): Accuracies => {
    const attacks = ["--attacks", "clean,autoattack", "--norm", norm, "--eps", String(eps), "--batch", limit];
    const images = ["--dataset", "cifar10", "--data", folder, "--limit", limit];
    const settings = [...images, ...attacks, "--threads", threads, "--provider", "cpu", "--quiet", "--json"];
    const { seconds, last } = run(process.execPath, [main, "evaluate", "--model", model, ...settings]);
    const { clean, autoattack } = JSON.parse(last).attacks;
    return figures(seconds, clean.accuracy, autoattack.accuracy);
  };
  const torchattacks = (): Accuracies => {
    const images = ["--data", folder, "--limit", limit, "--eps", values.eps, "--norm", theirNorm];
    const { last } = run(values.python, [theirs, weights, ...images, "--attacks", "autoattack", "--threads", threads]);
    const { clean, autoattack, seconds } = JSON.parse(last);
    return figures(seconds.autoattack, clean, autoattack);
  };
  const contenders: Contender<Accuracies>[] = Object.entries({ advcl, torchattacks }).map(([name, turn]) => ({
    name,
    ready: async () => "",
    turn: async () => turn(),
    end: () => undefined,
  }));
  const on = machine(Number(threads));
  const turns = await takeTurns(contenders, { rounds: Number(values.rounds), warmUp: false });
  const rows = summarize(turns);
  console.log(`AutoAttack on ${limit} images at ${norm} ${values.eps}, ${on}, medians of ${values.rounds}`);
  console.log(describe(rows));
  for (const [name, rounds] of turns)
    console.log(
      `${name}: clean ${rounds.map(({ clean }) => clean).join(", ")}; robust ${rounds.map(({ robust }) => robust).join(", ")}`,
    );
  const settings = { model, images: Number(limit), norm, eps: values.eps, machine: on };
  console.log(JSON.stringify({ ...settings, contenders: rows, rounds: Object.fromEntries(turns) }));
} finally {
  rmSync(folder, { recursive: true });
}
