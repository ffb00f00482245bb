/**
 * Seconds of a training step by several single-threaded ranks over those by one single-threaded process at the same global batch, in
 * turns, and the share of them that goes into communication (waiting for the slower rank included). The last line is one JSON object.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/mpi-speed.js [--ranks 2] [--width 64] [--batch 32] [--attack-steps 5] [--steps 3] [--rounds 3]
 *       [--together] [--threads 1] [--target T]
 *
 * Needs mpirun. --together has batch norm and negatives over all ranks. Each turn is a training of its own; its first step is left out.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { median } from "../../src/engine/median.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { readFlags } from "../flags.ts";
import { type Contender, machine, summarize, type Turn, takeTurns } from "./side-by-side.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    ranks: { type: "string", default: "2" },
    width: { type: "string", default: "64" },
    batch: { type: "string", default: "32" },
    "attack-steps": { type: "string", default: "5" },
    steps: { type: "string", default: "3" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "1" },
    target: { type: "string" },
    together: { type: "boolean", default: false },
  },
});
const { width, threads, target, together } = values;
const [ranks, batch, steps] = [Number(values.ranks), Number(values.batch), Number(values.steps)];
if (!(steps >= 1)) throw new RequestError("--steps is the number of steps that count; give 1 or more");
const main = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "advcl-mpi-speed-"));

interface Step extends Turn {
  /** Seconds of it in communication. */
  readonly communication: number;
}

let runs = 0;
/** Medians of a training's steps but the first, which warms up. */
const train = (count: number): Step => {
  const run = join(folder, `run${runs++}`);
  const settings = {
    ...{ dataset: "shapes", size: 32, width, batch, threads, limit: batch * (steps + 1), epochs: 1 },
    ...{ "attack-steps": values["attack-steps"], "knn-every": 0, workers: 0, out: run },
    ...(target !== undefined && { target }),
    ...(together && { "batch-norm": "global", negatives: "global" }),
  };
  const args = ["pretrain", "--no-clusters", ...Object.entries(settings).flatMap(([k, v]) => [`--${k}`, `${v}`])];
  // More ranks than cores wait for each other; so many as there are have one each.
  const launcher = ["mpirun", ...(count > availableParallelism() ? ["--oversubscribe"] : []), "-np", `${count}`];
  const [program = "", ...rest] = [...(count > 1 ? launcher : []), process.execPath, main, ...args];
  const env = { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" };
  const { status, stderr, error } = spawnSync(program, rest, { encoding: "utf8", env });
  if (status !== 0) throw new RunError(`${program} ended with ${status ?? error?.message}:\n${stderr}`);
  const lines = readFileSync(join(run, "timing.jsonl"), "utf8").trim().split("\n").slice(1);
  const timed = lines.map((line) => JSON.parse(line) as { seconds: number; communication?: number });
  rmSync(run, { recursive: true });
  return {
    wall: median(timed.map(({ seconds }) => seconds)),
    communication: median(timed.map(({ communication = 0 }) => communication)),
  };
};
const contender = (count: number): Contender<Step> => ({
  name: count === 1 ? "one process" : `${count} ranks`,
  ready: async () => "",
  turn: async () => train(count),
  end: () => {},
});

try {
  const before = machine(Number(threads));
  const turns = await takeTurns([contender(1), contender(ranks)], { rounds: Number(values.rounds), warmUp: false });
  const [one, several] = summarize(turns);
  const communication = median((turns.get(`${ranks} ranks`) ?? []).map((turn) => turn.communication));
  if (one === undefined || several === undefined) throw new RunError("internal: nothing was measured");
  const share = communication / several.wall;
  console.error(
    `${several.name} ${several.wall.toFixed(2)} s a step, one process ${one.wall.toFixed(2)} s: ${several.ratio.toFixed(3)} of it; ` +
      `${(100 * share).toFixed(1)} % of the step in communication; batch ${batch}, width ${width}, ${values["attack-steps"]} attack steps, ${before}`,
  );
  const figures = { one: one.wall, several: several.wall, ratio: several.ratio, communication, share };
  console.log(JSON.stringify({ ranks, batch, width: Number(width), together, ...figures, machine: before }));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
