/** The other thread of core-latency.ts: says back what it is told, until that is the last number. */
import { workerData } from "node:worker_threads";
import { ANSWERED, ASKED, TIMES, TRIPS } from "./core-latency.ts";

const words = workerData as Int32Array;
for (let i = 1; i <= TRIPS * TIMES; i++) {
  while (Atomics.load(words, ASKED) !== i);
  Atomics.store(words, ANSWERED, i);
}
