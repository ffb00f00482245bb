/**
 * Kills commands at random moments with SIGKILL and goes on with them, and looks whether they end with what an
 * undisturbed run ends with, byte for byte but for what the clock writes: pretraining, finetuning, evaluation, clustering,
 * hardening, comparisons, all tiny and on generated images.
 *
 *   node dist/scripts/reliability/kills.js [--count 50] [--commands pretrain,finetune,evaluate,cluster,harden,compare] [--seed N] [--keep FOLDER]
 *
 * --count kills in each command; a run that ends between two kills is compared and begun anew. The last line is one JSON
 * object { seed, commands: { NAME: { kills, ended } }, faults }; exit code 1 where a run was refused, failed, or ended
 * with other bytes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { random } from "../../src/data/random.ts";
import { RequestError } from "../../src/errors.ts";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { contentOf, differing } from "./content.ts";
import { prepareWorks, workNames } from "./works.ts";

const { values: flags } = readFlags(import.meta.url, {
  options: {
    count: { type: "string", default: "50" },
    commands: { type: "string", default: workNames.join(",") },
    seed: { type: "string" },
    keep: { type: "string" },
  },
});
const count = Number(flags.count);
const seed = flags.seed === undefined ? Date.now() : Number(flags.seed);
const main = join(packageRoot, "dist", "src", "cli", "main.js");

interface Ended {
  readonly code: number | null;
  readonly stderr: string;
  readonly seconds: number;
}

const start = (args: readonly string[]): { readonly child: ChildProcess; readonly ended: Promise<Ended> } => {
  const began = performance.now();
  const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr?.on("data", (text) => {
    stderr += String(text);
  });
  const ended = new Promise<Ended>((resolve) =>
    child.on("close", (code) => resolve({ code, stderr, seconds: (performance.now() - began) / 1000 })),
  );
  return { child, ended };
};

const must = async (args: readonly string[]): Promise<number> => {
  const { code, stderr, seconds } = await start(args).ended;
  if (code !== 0) throw new Error(`advcl ${args.join(" ")} ended with ${code}: ${stderr}`);
  return seconds;
};

const root = flags.keep ?? (await mkdtemp(join(tmpdir(), "advcl-kills-")));
const faults: string[] = [];
const commands: Record<string, { kills: number; ended: number }> = {};
try {
  const works = await prepareWorks(root, flags.commands.split(","), must);
  console.error(`seed ${seed}`);
  for (const { name, argsFor } of works) {
    const straight = join(root, `${name}-straight`);
    let seconds = await must(argsFor(straight, false));
    const expected = await contentOf(straight);
    if (expected.size === 0) throw new RequestError(`${name} left nothing to compare`);
    const r = random(seed, 0, 0, `kills:${name}`);
    let [kills, ended, round] = [0, 0, 0];
    let out = join(root, `${name}-0`);
    while (kills < count || ended === 0) {
      const { child, ended: end } = start(argsFor(out, existsSync(out) || existsSync(`${out}.run`)));
      // Once all kills are done, the run goes on to its end.
      const timer =
        kills < count
          ? setTimeout(() => child.kill("SIGKILL"), 1000 * seconds * (0.25 + 0.75 * r.uniform()))
          : undefined;
      const { code, stderr, seconds: taken } = await end;
      clearTimeout(timer);
      if (code === null) {
        kills++;
        continue;
      }
      if (code !== 0)
        faults.push(`${name} after ${kills} kills ended with ${code}: ${stderr.trim().split("\n").at(-1)}`);
      else {
        const others = differing(expected, await contentOf(out));
        if (others.length > 0) faults.push(`${name} after ${kills} kills differs in ${others.join(", ")}`);
      }
      // A machine with other work on it was slower before.
      seconds = Math.min(seconds, taken);
      ended++;
      out = join(root, `${name}-${++round}`);
    }
    commands[name] = { kills, ended };
    console.error(`${name}: ${kills} kills, ${ended} runs ended, ${faults.length} faults so far`);
  }
  for (const fault of faults) console.error(fault);
  console.log(JSON.stringify({ seed, commands, faults }));
} finally {
  if (flags.keep === undefined) await rm(root, { recursive: true, force: true });
}
process.exit(faults.length > 0 ? 1 : 0);
