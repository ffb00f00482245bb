/**
 * AutoAttack `standard` by `advcl evaluate` against `torchattacks` on the same weights and the first test images of CIFAR-10, one
 * after the other in processes of their own, so many rounds; medians. Ours is the whole command, with loading and making sessions;
 * theirs the attack alone (scripts/benchmarks/compare-attacks.py). Ends with one JSON object.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-autoattack.js --python PYTHON --model RUN --data CIFAR10 [--limit 32] [--eps 8/255]
 *       [--rounds 3] [--threads 2]
 *
 * RUN is a run of `advcl finetune`, a ResNet-18 for 32×32 images; PYTHON has torch, torchvision, torchattacks, safetensors.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { median } from "../../src/bench/measure.ts";
import { processor } from "../../src/engine/devices.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    python: { type: "string", default: "python3" },
    model: { type: "string" },
    data: { type: "string" },
    limit: { type: "string", default: "32" },
    eps: { type: "string", default: "8/255" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
const { model, data, limit, threads } = values;
if (model === undefined || data === undefined) throw new RequestError("give --model RUN and --data CIFAR10");
const [over, under = "1"] = values.eps.split("/");
const eps = Number(over) / Number(under);

/** Seconds and the last line of stdout. */
const run = (command: string, args: readonly string[]): { seconds: number; last: string } => {
  const began = performance.now();
  const { status, stdout } = spawnSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  if (status !== 0) throw new RunError(`${command} ${args[0]} ended with ${status}`);
  return { seconds: (performance.now() - began) / 1e3, last: stdout.trim().split("\n").at(-1) as string };
};
const main = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));
// The PyTorch side is not compiled: it lies with the sources.
const theirs = fileURLToPath(new URL("../../../scripts/benchmarks/compare-attacks.py", import.meta.url));

interface Round {
  readonly seconds: number;
  readonly clean: number;
  readonly robust: number;
}

const folder = mkdtempSync(join(tmpdir(), "advcl-autoattack-"));
try {
  const weights = join(folder, "weights.safetensors");
  const layout = ["--format", "safetensors", "--layout", "torchvision"];
  run(process.execPath, [main, "export", "--from", model, ...layout, "--out", weights]);
  const advcl = (): Round => {
    const attacks = ["--attacks", "clean,autoattack", "--eps", String(eps), "--batch", limit];
    const images = ["--dataset", "cifar10", "--data", data, "--limit", limit];
    const settings = [...images, ...attacks, "--threads", threads, "--provider", "cpu", "--quiet", "--json"];
    const { seconds, last } = run(process.execPath, [main, "evaluate", "--model", model, ...settings]);
    const { clean, autoattack } = JSON.parse(last).attacks;
    return { seconds, clean: clean.accuracy, robust: autoattack.accuracy };
  };
  const torchattacks = (): Round => {
    const images = ["--data", data, "--limit", limit, "--eps", values.eps];
    const { last } = run(values.python, [theirs, weights, ...images, "--attacks", "autoattack", "--threads", threads]);
    const { clean, autoattack, seconds } = JSON.parse(last);
    return { seconds: seconds.autoattack, clean, robust: autoattack };
  };
  const sides = { advcl: [] as Round[], torchattacks: [] as Round[] };
  for (let round = 1; round <= Number(values.rounds); round++)
    for (const [name, side] of Object.entries({ advcl, torchattacks })) {
      const one = side();
      sides[name as keyof typeof sides].push(one);
      console.error(`round ${round}: ${name} ${one.seconds.toFixed(1)} s, ${(100 * one.robust).toFixed(2)} % robust`);
    }
  const [ours, other] = Object.values(sides).map((rounds) => median(rounds.map(({ seconds }) => seconds))) as [
    number,
    number,
  ];
  const { name, vectors } = processor();
  const machine = `${name} (${vectors}), ${threads} threads`;
  const settings = { model, images: Number(limit), eps: values.eps, machine };
  console.log(
    JSON.stringify({ ...settings, ...sides, advclMedian: ours, torchattacksMedian: other, ratio: other / ours }),
  );
} finally {
  rmSync(folder, { recursive: true });
}
