/**
 * How long a word takes from one core to another. On a processor whose cores share their last cache only in groups (core complexes)
 * it is several times as long between two of them, and whoever moves threads among them, as hosts of virtual machines do, makes programs
 * that pass data between threads slower and faster again: comparisons print it beside their figures.
 *
 *     npm run build && node dist/scripts/benchmarks/core-latency.js
 */
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { availableCores } from "../../src/engine/cores.ts";
import { median } from "../../src/engine/median.ts";

/** Round trips that are timed together, and how often. */
const [TRIPS, TIMES] = [20_000, 5];

/** Says back what it is told, until that is the last number. */
const echo = (words: Int32Array): void => {
  for (let i = 1; i <= TRIPS * TIMES; i++) {
    while (Atomics.load(words, 0) !== i);
    // Another line of the caches.
    Atomics.store(words, 64, i);
  }
};

/** Nanoseconds one way between two threads that are both awake, median; undefined where there is one core. */
export const coreLatency = async (): Promise<number | undefined> => {
  if (availableCores() < 2) return undefined;
  const words = new Int32Array(new SharedArrayBuffer(4 * 128));
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: words });
  await once(worker, "online");
  const times: number[] = [];
  for (let i = 1; i <= TRIPS * TIMES; ) {
    const start = performance.now();
    for (const end = i + TRIPS; i < end; i++) {
      Atomics.store(words, 0, i);
      while (Atomics.load(words, 64) !== i);
    }
    times.push(((performance.now() - start) * 1e6) / TRIPS / 2);
  }
  await once(worker, "exit");
  return median(times);
};

if (!isMainThread && workerData instanceof Int32Array) echo(workerData);
else if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const ns = await coreLatency();
  console.log(ns === undefined ? "one core" : `${ns.toFixed(0)} ns from one core to another`);
}
