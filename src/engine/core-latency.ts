/**
 * How long a word takes from one core to another. On a processor whose cores share their last cache only in groups (core complexes, sockets)
 * it is several times as long between two of them, and threads that share every op read what the other core wrote.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { cacheGroups } from "./cache-groups.ts";
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

/** How cores lie to each other: in groups that share a cache, as the system tells, and how many ns apart two of them are just now. */
export interface CoresApart {
  readonly groups: number | undefined;
  readonly nanoseconds: number | undefined;
}

/** Looks where cores lie. */
export const coresApart = async (): Promise<CoresApart> => ({
  groups: cacheGroups(),
  nanoseconds: await coreLatency(),
});

const inGroups = (groups: number): string => `cores share a cache in ${groups} groups`;

/** How many replicas of a training such cores want, and why. */
export const replicasFor = ({
  groups = 1,
  nanoseconds,
}: CoresApart): { readonly count: number; readonly why: string } => {
  if (nanoseconds === undefined) return { count: 1, why: "one core" };
  if (groups > 1) return { count: groups, why: inGroups(groups) };
  const apart = `${nanoseconds.toFixed(0)} ns from core to core, as they were just now`;
  return nanoseconds < FAR ? { count: 1, why: apart } : { count: 2, why: `${apart}: they share no cache` };
};

/** What `doctor` says of it. */
export const coresText = (apart: CoresApart): string => {
  const { count, why } = replicasFor(apart);
  return count === 1 ? why : `${why}, so pretrain and finetune may be faster with --replicas ${count} (or auto)`;
};

/** What a training says that shares no batch, where the system tells of such groups. */
export const groupsHint = (groups: number | undefined): string | undefined =>
  groups !== undefined && groups > 1
    ? `${inGroups(groups)}: a step may be faster with --replicas ${groups}, or auto (npx advcl doctor)`
    : undefined;
