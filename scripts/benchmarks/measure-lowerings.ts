/**
 * Measures the CPU target's ways to compute a convolution and writes its cost table, graphs/targets/cpu/costs.ts.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/measure-lowerings.js --out graphs/targets/cpu/costs.ts [--threads 2] [--reps 5]
 *     npx biome check --write graphs/targets/cpu/costs.ts
 *
 * On a quiet machine: best of some repetitions in turn, for the stride-1 3×3 convolutions of ResNets of four widths on
 * 32×32 images and of one on 96×96. The other convolutions have one way only. `advcl bench --what lowerings` prints all.
 */
import { writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import type { Cost, Way } from "../../graphs/targets/cpu/ways.ts";
import { encoderShapes, measureLowerings } from "../../src/bench/lowerings.ts";
import { RequestError } from "../../src/errors.ts";
import { versions } from "../../src/version.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    out: { type: "string" },
    threads: { type: "string", default: "2" },
    reps: { type: "string", default: "5" },
  },
});
if (values.out === undefined) throw new RequestError("--out is missing: the file to write");
const threads = Number(values.threads);

const shapes = [
  ...[8, 16, 32, 64].flatMap((width) => encoderShapes(64, width, 32)),
  ...encoderShapes(8, 32, 96),
].filter(({ geometry: { kernel, strides } }) => kernel[0] === 3 && strides[0] === 1);

const costs = new Map<string, Cost & { rates: Partial<Record<Way, number>> }>();
for await (const row of measureLowerings(shapes, { threads, reps: Number(values.reps) })) {
  if (row.way === "portable") continue;
  const { op, shape, way, gflops } = row;
  const { inputChannels, outputChannels, geometry } = shape;
  const side = geometry.input[0];
  const key = [op, inputChannels, outputChannels, side].join();
  const cost = costs.get(key) ?? { op, inputChannels, outputChannels, side, rates: {} };
  cost.rates[way] = Math.max(cost.rates[way] ?? 0, Number(gflops.toPrecision(3)));
  costs.set(key, cost);
  console.error(`${key} ${way} ${gflops.toFixed(1)} GFLOP/s`);
}
await writeFile(
  values.out,
  `/**
 * Speeds of the ways to compute a 3×3 convolution with stride 1, GFLOP/s.
 * Written by scripts/benchmarks/measure-lowerings.ts: ${cpus()[0]?.model.trim()}, ${threads} threads, onnxruntime-node ${versions()["onnxruntime-node"]}.
 */
import type { Cost } from "./ways.ts";

export const costs: readonly Cost[] = ${JSON.stringify([...costs.values()])};
`,
);
