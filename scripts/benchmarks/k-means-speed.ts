/**
 * Seconds of k-means, ours and scikit-learn's in turn on the same features, cores, kind of start and rule of ending.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/k-means.js cifar10 DATA 50000 features.safetensors 10
 *     node dist/scripts/benchmarks/k-means-speed.js features.safetensors K ROUNDS PYTHON
 *
 * The whole fit, and a pass of Lloyd's: the mean of those from the second to the last. Ours grow shorter from pass to pass,
 * so those from the second to the eleventh, when most points may still change, are told apart. PYTHON is an interpreter
 * with scikit-learn and safetensors.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { kMeans } from "../../src/cluster/k-means.ts";
import { createPoints } from "../../src/cluster/points.ts";
import { availableCores } from "../../src/engine/cores.ts";
import { median } from "../../src/engine/median.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { type Contender, machine, type Turn, takeTurns } from "./side-by-side.ts";

const { positionals } = readFlags(import.meta.url, { allowPositionals: true });
const [path = "features.safetensors", k = "500", rounds = "3", python = "python"] = positionals;
const { tensors } = await readSafetensors(path);
const features = tensors.get("features");
if (features === undefined)
  throw new RequestError(`${path} has no features; make it with scripts/benchmarks/k-means.ts`);
const threads = availableCores();
const points = createPoints(features.data as Float32Array, features.shape[1]!);

/** A whole fit. */
interface Fit extends Turn {
  readonly passSeconds: number;
  readonly earlyPassSeconds: number;
  readonly passes: number;
  readonly inertia: number;
}

const ours = async (seed: number): Promise<Fit> => {
  const start = performance.now();
  const ends: number[] = [];
  const { passes, inertia } = await kMeans(points, {
    k: Number(k),
    seed,
    restarts: 1,
    maxPasses: 300,
    tolerance: 1e-4,
    engine: { threads },
    onPass: () => ends.push(performance.now()),
  });
  const end = performance.now();
  const passSeconds = (end - ends[0]!) / 1000 / (passes - 1);
  const early = ends.slice(0, 11);
  const earlyPassSeconds = ((early.at(-1) as number) - early[0]!) / 1000 / (early.length - 1);
  return { wall: (end - start) / 1000, passSeconds, earlyPassSeconds, passes, inertia };
};

const theirs = (seed: number): Fit => {
  const env = { ...process.env, OMP_NUM_THREADS: String(threads) };
  const args = [join(packageRoot, "scripts", "benchmarks", "k-means.py"), path, "--time", k, "--seed", String(seed)];
  const { stdout, stderr, status } = spawnSync(python, args, { encoding: "utf8", env });
  if (status !== 0) throw new RunError(`${python} failed: ${stderr.trim().split("\n").at(-1)}`);
  const { seconds, passSeconds, passes, inertia } = JSON.parse(stdout) as Omit<Fit, "wall" | "earlyPassSeconds"> & {
    readonly seconds: number;
  };
  return { wall: seconds, passSeconds, earlyPassSeconds: passSeconds, passes, inertia };
};

/** A fit with the seed of its round. */
const contender = (name: string, measure: (seed: number) => Fit | Promise<Fit>): Contender<Fit> => {
  let round = 0;
  return { name, ready: async () => "", turn: async () => measure(round++), end: () => undefined };
};
const on = machine(threads);
const turns = await takeTurns([contender("ours", ours), contender("scikit-learn", theirs)], {
  rounds: Number(rounds),
  warmUp: false,
});
for (const [name, fits] of turns)
  for (const { wall, passes, passSeconds, inertia } of fits)
    console.log(
      `${name}: ${wall.toFixed(1)} s, ${passes} passes of ${passSeconds.toFixed(3)} s, inertia ${inertia.toFixed(0)}`,
    );
console.log(`${points.count} × ${points.dim}, K = ${k}, ${on}, medians of ${rounds}:`);
const [mine = [], other = []] = turns.values();
for (const key of ["wall", "passSeconds", "earlyPassSeconds", "inertia"] as const) {
  const [a, b] = [mine, other].map((fits) => median(fits.map((fit) => fit[key]))) as [number, number];
  console.log(`${key}: ours ${a.toPrecision(5)}, scikit-learn ${b.toPrecision(5)}, ratio ${(a / b).toPrecision(4)}`);
}
