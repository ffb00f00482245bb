/**
 * Kills commands with SIGKILL and goes on with them, and looks whether they end with what an undisturbed run ends with,
 * byte for byte but for what the clock writes, and with nothing beside it: pretraining, finetuning, evaluation, clustering,
 * hardening, comparisons, all tiny and on generated images. Every other kill strikes at a random moment, those between
 * them when a file is being written, the first, the last or any other.
 *
 *   node dist/scripts/reliability/kills.js [--count 50] [--commands pretrain,finetune,evaluate,cluster,harden,compare] [--seed N] [--keep FOLDER]
 *
 * --count kills in each command; a run that ends between two kills is compared and begun anew. The last line is one JSON
 * object { seed, commands: { NAME: { kills, atWrites, ended } }, faults }; exit code 1 where a run was refused, failed, or
 * ended with other bytes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, watch } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, sep } from "node:path";
import { random } from "../../src/data/random.ts";
import { RequestError } from "../../src/errors.ts";
import { isPartial } from "../../src/files/atomic.ts";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { contentOf, differing, isPartialOf } from "./content.ts";
import { prepareWorks, type Work, workNames } from "./works.ts";

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

/** Calls `begun` for each file or folder that is begun to be written in `out`, `out`.run or in their place, until it is closed. */
const watchWrites = (out: string, begun: () => void): { close(): void } => {
  const seen = new Set<string>();
  const watcher = watch(root, { recursive: true }, (_, name) => {
    const [top = "", ...inner] = (name ?? "").split(sep);
    const isOf = [basename(out), `${basename(out)}.run`].some((own) => own === top || isPartialOf(top, own));
    const partial = [top, ...inner].findIndex(isPartial);
    if (!isOf || partial < 0) return;
    const path = [top, ...inner].slice(0, partial + 1).join(sep);
    if (seen.has(path)) return;
    seen.add(path);
    begun();
  });
  watcher.on("error", () => {}); // of a file that was gone before it could be watched
  return watcher;
};

const faults: string[] = [];

/** Kills a work again and again. */
const trial = async ({ name, argsFor }: Work): Promise<{ kills: number; atWrites: number; ended: number }> => {
  const straight = join(root, `${name}-straight`);
  let writes = 0;
  const watcher = watchWrites(straight, () => writes++);
  let seconds = await must(argsFor(straight, false));
  watcher.close();
  const expected = await contentOf(straight);
  if (expected.size === 0) throw new RequestError(`${name} left nothing to compare`);
  const r = random(seed, 0, 0, `kills:${name}`);
  let [kills, atWrites, ended, round] = [0, 0, 0, 0];
  let out = join(root, `${name}-0`);
  while (kills < count || ended === 0) {
    const { child, ended: end } = start(argsFor(out, existsSync(out) || existsSync(`${out}.run`)));
    const kill = () => child.kill("SIGKILL");
    // Once all kills are done, the run goes on to its end.
    const more = kills < count;
    let left = more && kills % 2 === 1 ? 1 + r.int(Math.max(1, writes)) : Number.POSITIVE_INFINITY;
    const watching = watchWrites(out, () => --left === 0 && kill());
    const moment = 1000 * seconds * (0.25 + 0.75 * r.uniform());
    const timer = more && kills % 2 === 0 ? setTimeout(kill, moment) : undefined;
    const { code, stderr, seconds: taken } = await end;
    clearTimeout(timer);
    watching.close();
    if (code === null) {
      atWrites += kills % 2;
      kills++;
      continue;
    }
    if (code !== 0) faults.push(`${name} after ${kills} kills ended with ${code}: ${stderr.trim().split("\n").at(-1)}`);
    else {
      const others = differing(expected, await contentOf(out));
      if (others.length > 0) faults.push(`${name} after ${kills} kills differs in ${others.join(", ")}`);
    }
    // A machine with other work on it was slower before.
    seconds = Math.min(seconds, taken);
    ended++;
    out = join(root, `${name}-${++round}`);
  }
  return { kills, atWrites, ended };
};

const commands: Record<string, Awaited<ReturnType<typeof trial>>> = {};
try {
  const works = await prepareWorks(root, flags.commands.split(","), must);
  console.error(`seed ${seed}`);
  for (const work of works) {
    const counts = await trial(work);
    commands[work.name] = counts;
    const { kills, atWrites, ended } = counts;
    console.error(
      `${work.name}: ${kills} kills (${atWrites} at writes), ${ended} runs ended, ${faults.length} faults so far`,
    );
  }
  for (const fault of faults) console.error(fault);
  console.log(JSON.stringify({ seed, commands, faults }));
} finally {
  if (flags.keep === undefined) await rm(root, { recursive: true, force: true });
}
process.exit(faults.length > 0 ? 1 : 0);
