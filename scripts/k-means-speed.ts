/**
 * Seconds of a k-means pass, ours and scikit-learn's in turn on the same features, cores and kind of start.
 *
 *     npm run build
 *     node dist/scripts/k-means.js cifar10 DATA 50000 features.safetensors 10
 *     node dist/scripts/k-means-speed.js features.safetensors K ROUNDS PYTHON
 *
 * A pass is one of the second to the eleventh, in which many points still change their cluster (which costs us, and not
 * scikit-learn). PYTHON is an interpreter with scikit-learn and safetensors.
 */
import { spawnSync } from "node:child_process";
import { argv } from "node:process";
import { createPoints, kMeans } from "../src/clustering/k-means.ts";
import { availableCores } from "../src/cores.ts";
import { readSafetensors } from "../src/safetensors.ts";

const [path = "features.safetensors", k = "500", rounds = "3", python = "python"] = argv.slice(2);
const { tensors } = await readSafetensors(path);
const features = tensors.get("features");
if (features === undefined) throw new Error(`${path} has no features; make it with scripts/k-means.ts`);
const threads = availableCores();
const points = createPoints(features.data as Float32Array, features.shape[1] as number);

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return ((sorted[(sorted.length - 1) >> 1] as number) + (sorted[sorted.length >> 1] as number)) / 2;
};

/** Seconds of our passes from the second on. */
const ours = async (seed: number): Promise<number[]> => {
  const seconds: number[] = [];
  let before = 0;
  const onPass = ({ pass }: { readonly pass: number }) => {
    const now = performance.now();
    if (pass > 1) seconds.push((now - before) / 1000);
    before = now;
  };
  await kMeans(points, { k: Number(k), seed, restarts: 1, maxPasses: 11, tolerance: 0, engine: { threads }, onPass });
  return seconds;
};

/** scikit-learn's seconds a pass: ten passes, as the difference of a run of eleven and one of one. */
const theirs = (seed: number): number => {
  const env = { ...process.env, OMP_NUM_THREADS: String(threads) };
  const args = ["scripts/k-means.py", path, "--passes", k, "--seed", String(seed)];
  const { stdout, stderr, status } = spawnSync(python, args, { encoding: "utf8", env });
  if (status !== 0) throw new Error(stderr);
  return Number(stdout.trim());
};

const [mine, other]: [number[], number[]] = [[], []];
for (let round = 0; round < Number(rounds); round++) {
  mine.push(median(await ours(round)));
  other.push(theirs(round));
  console.log(
    `round ${round + 1}: ours ${mine.at(-1)?.toFixed(3)} s, scikit-learn ${other.at(-1)?.toFixed(3)} s a pass`,
  );
}
console.log(
  `${points.count} × ${points.dim}, K = ${k}, ${threads} threads: ours ${median(mine).toFixed(3)} s, scikit-learn ` +
    `${median(other).toFixed(3)} s a pass (medians of ${rounds}), ratio ${(median(mine) / median(other)).toFixed(2)}`,
);
