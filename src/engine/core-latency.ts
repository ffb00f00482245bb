/**
 * How long a word takes from one core to another. On a processor whose cores share their last cache only in groups (core complexes, sockets)
 * it is several times as long between two of them, and threads that share every op read what the other core wrote.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { compiledFile } from "./compiled.ts";
import { availableCores } from "./cores.ts";
import { median } from "./median.ts";

/** Round trips that are timed together, and how often. */
export const [TRIPS, TIMES] = [20_000, 5];
/** Where each side's word lies, in lines of the caches of their own. */
export const [ASKED, ANSWERED] = [0, 64];

/** Nanoseconds one way between two threads that are both awake, where the system put them, median; undefined where there is one core. */
export const coreLatency = async (): Promise<number | undefined> => {
  if (availableCores() < 2) return undefined;
  const words = new Int32Array(new SharedArrayBuffer(4 * 128));
  const worker = new Worker(compiledFile("engine/core-echo.js"), { workerData: words });
  await once(worker, "online");
  const times: number[] = [];
  for (let i = 1; i <= TRIPS * TIMES; ) {
    const start = performance.now();
    for (const end = i + TRIPS; i < end; i++) {
      Atomics.store(words, ASKED, i);
      while (Atomics.load(words, ANSWERED) !== i);
    }
    times.push(((performance.now() - start) * 1e6) / TRIPS / 2);
  }
  await once(worker, "exit");
  return median(times);
};

/**
 * From how many ns on two replicas of a training were faster than threads that share every op (docs/benchmarks.md): 50 within a core complex of
 * a Zen 4, 200 and more between two.
 */
const FAR = 120;

/** What `doctor` says of it. */
export const coresText = (nanoseconds: number | undefined): string => {
  if (nanoseconds === undefined) return "one core";
  const apart = `${nanoseconds.toFixed(0)} ns from one to another, as they were just now`;
  return nanoseconds < FAR
    ? apart
    : `${apart}: they share no cache, so pretrain and finetune may be faster with --replicas 2`;
};
