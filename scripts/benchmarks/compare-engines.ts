/**
 * The AdvCL step on the CPU by the binding and by the native engine, in one process and in turn, so that what slows the
 * machine slows both: medians of wall and of processor time, and whether both end with the same bytes.
 *
 *   node dist/scripts/benchmarks/compare-engines.js [--width 16] [--batch 32] [--rounds 9] [--threads 2]
 *
 * Peak memory is that of a process which does it in one way alone: `--only binding` or `--only native` measures that.
 */
import { advcl } from "../../graphs/methods/advcl.ts";
import type { Depth } from "../../graphs/nn/encoder.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { benchFeeds, peakMemory } from "../../src/bench/measure.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { median } from "../../src/engine/median.ts";
import { createRunner, type Runner } from "../../src/engine/runner.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    width: { type: "string", default: "16" },
    batch: { type: "string", default: "32" },
    rounds: { type: "string", default: "9" },
    threads: { type: "string", default: "2" },
    only: { type: "string" },
  },
});
const step = advcl.build({
  ...advcl.paper,
  batch: Number(values.batch),
  size: 32,
  depth: 18 as Depth,
  width: Number(values.width),
  stem: "cifar",
  clusters: [2, 10, 50, 100, 500],
  attackSteps: 5,
});
const feeds = benchFeeds(step, 0);
const [inputs, held] = [true, false].map((fed) =>
  Object.entries(feeds).filter(([name]) => name.startsWith("input.") === fed),
) as [[string, Tensor][], [string, Tensor][]];

const names = (["binding", "native"] as const).filter((name) => values.only === undefined || values.only === name);
const runners = new Map<string, Runner>();
const times: Record<string, { wall: number[]; cpu: number[] }> = {};
for (const name of names) {
  const engine = await chooseEngine({ provider: "cpu", threads: Number(values.threads), engine: name });
  runners.set(name, await createRunner(engine, step, new Map(held)));
  times[name] = { wall: [], cpu: [] };
}
for (let round = 0; round <= Number(values.rounds); round++)
  for (const [name, runner] of runners) {
    const [started, before] = [performance.now(), process.cpuUsage()];
    await runner.run(Object.fromEntries(inputs));
    runner.accept();
    const { user, system } = process.cpuUsage(before);
    if (round === 0) continue;
    times[name]?.wall.push((performance.now() - started) / 1000);
    times[name]?.cpu.push((user + system) / 1e6);
  }
const ends = await Promise.all([...runners.values()].map((runner) => runner.tensors()));
const [one, other] = ends;
const same =
  one === undefined || other === undefined
    ? undefined
    : [...one].every(([name, { data }]) => {
        const theirs = other.get(name)?.data;
        return theirs !== undefined && Buffer.compare(Buffer.from(data.buffer), Buffer.from(theirs.buffer)) === 0;
      });
const figures = Object.fromEntries(
  Object.entries(times).map(([name, { wall, cpu }]) => [
    name,
    { wallMedian: median(wall), wallMin: Math.min(...wall), cpuMedian: median(cpu), cpuMin: Math.min(...cpu) },
  ]),
);
process.stdout.write(`${JSON.stringify({ ...figures, sameBytes: same, peakMemoryBytes: await peakMemory() })}\n`);
for (const runner of runners.values()) await runner.release();
