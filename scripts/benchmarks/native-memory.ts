/**
 * Whether the native engine keeps memory flat: runs a small step through a bound runner, through `run`, through `run` with
 * errors, and through sessions that are made and released, and prints resident memory after each tenth.
 *
 *   node --expose-gc dist/scripts/benchmarks/native-memory.js [--runs 2000]
 *
 * Exit code 1 where the second half of any part adds more than --allowed megabytes (default 8).
 */
import { advcl } from "../../graphs/methods/advcl.ts";
import type { Depth } from "../../graphs/nn/encoder.ts";
import { Store } from "../../graphs/nn/scope.ts";
import { float32, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { add, gather, matMul } from "../../graphs/ops/index.ts";
import { compile } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { createRunner } from "../../src/engine/runner.ts";
import { createSession } from "../../src/engine/session.ts";
import { readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    runs: { type: "string", default: "2000" },
    allowed: { type: "string", default: "8" },
    engine: { type: "string", default: "native" },
  },
});
const runs = Number(values.runs);
const engineName = values.engine as "native" | "binding";

/** Megabytes resident once what is not used is collected. */
const resident = async (): Promise<number> => {
  for (let i = 0; i < 3; i++) {
    (globalThis as { gc?: () => void }).gc?.();
    await new Promise((done) => setTimeout(done, 5));
  }
  return process.memoryUsage().rss / 2 ** 20;
};

const growth: Record<string, number> = {};
const watch = async (name: string, count: number, once: (i: number) => Promise<void>): Promise<void> => {
  const marks: number[] = [];
  for (let i = 0; i < count; i++) {
    await once(i);
    if ((i + 1) % Math.ceil(count / 10) === 0) marks.push(await resident());
  }
  const [middle = 0, end = 0] = [marks[Math.floor(marks.length / 2)], marks.at(-1)];
  growth[name] = end - middle;
  process.stdout.write(`${name.padEnd(28)} ${count} times: ${marks.map((m) => m.toFixed(1)).join(" ")} MB\n`);
};

const step = advcl.build({
  ...advcl.paper,
  batch: 2,
  size: 8,
  radius: 2,
  depth: 18 as Depth,
  width: 1,
  stem: "cifar",
  clusters: [2],
  attackSteps: 1,
});
const engine = await chooseEngine({ provider: "cpu", threads: 1, target: "portable", engine: engineName });
const feeds = benchFeeds(step, 0);
const [inputs, held] = [true, false].map((fed) =>
  Object.entries(feeds).filter(([name]) => name.startsWith("input.") === fed),
) as [[string, Tensor][], [string, Tensor][]];
const runner = await createRunner(engine, step, new Map(held));
await watch("bound steps", runs, async () => {
  await runner.run(Object.fromEntries(inputs));
  runner.accept();
});
await runner.release();

const store = new Store();
const table = store.input("table", { dtype: "float32", shape: [64, 64] });
const index = store.input("i", { dtype: "int64", shape: [1] });
const model = compile({ outputs: { y: add(matMul(table, table), gather(table, index)) } }, portable);
const small = (i: number) => ({
  "input.table": float32([64, 64], new Float32Array(4096).fill(i)),
  "input.i": tensor("int64", [1], BigInt64Array.of(BigInt(i))),
});
const session = await createSession(model, { engine: engineName, threads: 1 });
await watch("runs", runs, async (i) => void (await session.run(small(i % 64))));
await watch("runs that fail", runs, async () => {
  await session.run(small(99)).then(
    () => {
      throw new Error("an index out of range was taken");
    },
    () => undefined,
  );
});
await session.release();
await watch("sessions", Math.ceil(runs / 4), async (i) => {
  const made = await createSession(model.bytes, { engine: engineName, threads: 1 });
  await made.run(small(i % 64));
  await made.release();
});
const grown = Object.entries(growth).filter(([, megabytes]) => megabytes > Number(values.allowed));
process.stdout.write(`${JSON.stringify({ engine: engineName, runs, growth })}\n`);
if (grown.length > 0) process.exitCode = 1;
