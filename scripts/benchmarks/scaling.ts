/**
 * How training would scale over more ranks, on paper, from what was measured: the step's seconds at two batches of a rank, and the
 * seconds of an all-reduce. Under a launcher it measures all-reduces instead, and fits latency and bandwidth.
 *
 *     npm run build
 *     mpirun -np 2 node dist/scripts/benchmarks/scaling.js
 *     node dist/scripts/benchmarks/scaling.js --steps 64:0.05,512:0.35 [--latency-us 20] [--gbytes 2] [--host-ms 0] [--mbytes 45]
 *       [--messages 1] [--batch 512] [--ranks 8,64,512]
 *
 * A step of a rank with b images takes t0 + b·t1, by --steps b:seconds,b:seconds (one pair: t0 = 0). Each of --messages
 * collectives costs 2·⌈log2 N⌉ latencies, and the gradients' 2·(N-1)/N of their bytes (--mbytes) over the bandwidth of the slowest
 * link a rank has (--gbytes). --host-ms is what a step spends on bringing gradients between device and host. Three columns: as it
 * is; with the gradients' part hidden behind the backward pass as far as that lasts (a third of the step); and with gradients in half the
 * bytes as well. "local 8" averages weights every 8 steps only.
 */

import { launched } from "../../src/distributed/launcher.ts";
import { joinMpi } from "../../src/distributed/mpi.ts";
import { RequestError } from "../../src/errors.ts";
import { numbersIn, readFlags } from "../flags.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    steps: { type: "string" },
    "latency-us": { type: "string", default: "20" },
    gbytes: { type: "string", default: "2" },
    "host-ms": { type: "string", default: "0" },
    mbytes: { type: "string", default: "45" },
    messages: { type: "string", default: "1" },
    batch: { type: "string", default: "512" },
    ranks: { type: "string", default: "1,8,64,512" },
  },
});

/** Median seconds of an all-reduce by its bytes, on every rank; the first prints them and the line through them. */
const measure = async (place: NonNullable<ReturnType<typeof launched>>): Promise<void> => {
  const mpi = joinMpi(place, 60);
  const measured: { bytes: number; seconds: number }[] = [];
  for (const bytes of [4, 4 << 10, 256 << 10, 4 << 20, 45 << 20]) {
    const data = new Float32Array(bytes / 4).fill(1);
    const times: number[] = [];
    for (let i = 0; i < (bytes > 1 << 20 ? 9 : 101); i++) {
      const start = performance.now();
      await mpi.sum(data);
      times.push((performance.now() - start) / 1e3);
      data.fill(1);
    }
    measured.push({ bytes, seconds: times.sort((a, b) => a - b)[times.length >> 1]! });
  }
  const [smallest, largest] = [measured[0]!, measured.at(-1)!];
  const hops = 2 * Math.ceil(Math.log2(mpi.size));
  const moved = ((2 * (mpi.size - 1)) / mpi.size) * largest.bytes;
  const latencyUs = (1e6 * smallest.seconds) / hops;
  const gbytes = moved / (largest.seconds - smallest.seconds) / 1e9;
  if (mpi.rank === 0) console.log(JSON.stringify({ ranks: mpi.size, measured, latencyUs, gbytes }));
  mpi.finalize();
};

/** t0 and t1 of t0 + b·t1, through one or two measured steps. */
const lineThrough = (text: string): { readonly fixed: number; readonly each: number } => {
  const points = text.split(",").map((pair) => pair.split(":").map(Number) as [number, number]);
  const [[b1, s1], [b2, s2] = [0, 0]] = points as [[number, number], [number, number]?];
  if (points.length > 2 || points.some(([b, s]) => !(b > 0 && s > 0)) || b1 === b2)
    throw new RequestError(`--steps is ${text}; give BATCH:SECONDS of a rank, or two of them: 64:0.05,512:0.35`);
  const each = (s1 - s2) / (b1 - b2);
  return { fixed: Math.max(s1 - b1 * each, 0), each };
};

/** The backward pass to the weights, behind which gradients can be sent, as a share of the step. */
const HIDDEN = 1 / 3;
const LOCAL_STEPS = 8;

const predict = (ranks: number, share: number, { fixed, each }: ReturnType<typeof lineThrough>) => {
  const [latency, bandwidth] = [Number(values["latency-us"]) / 1e6, Number(values.gbytes) * 1e9];
  const compute = fixed + share * each;
  const hops = ranks === 1 ? 0 : 2 * Math.ceil(Math.log2(ranks));
  const host = ranks === 1 ? 0 : Number(values["host-ms"]) / 1e3;
  const bytes = ((2 * (ranks - 1)) / ranks) * Number(values.mbytes) * 1e6;
  const waits = Number(values.messages) * hops * latency;
  const gradients = host + bytes / bandwidth;
  const beyond = (sent: number) => Math.max(sent - HIDDEN * compute, 0);
  return {
    asIs: compute + waits + gradients,
    overlapped: compute + waits + beyond(gradients),
    halved: compute + waits + beyond(gradients / 2),
    local: compute + (waits + gradients) / LOCAL_STEPS,
  };
};

const printModel = (steps: string): void => {
  const line = lineThrough(steps);
  const batch = Number(values.batch);
  const rows = numbersIn("ranks", values.ranks);
  for (const [title, shareOf] of [
    [`the same global batch of ${batch}`, (ranks: number) => batch / ranks],
    [`${batch} images a rank`, () => batch],
  ] as const) {
    console.log(`${title}: images/s over all ranks, and efficiency (1 is as many times one rank's)`);
    console.log(
      ["ranks", "b", "as it is", "overlapped", "and halved", `local ${LOCAL_STEPS}`].map((t) => t.padEnd(16)).join(""),
    );
    for (const ranks of rows) {
      const share = shareOf(ranks);
      if (share < 2) {
        console.log(`${String(ranks).padEnd(16)}${share} images a rank: batch norm needs 2`);
        continue;
      }
      const one = batch / (line.fixed + batch * line.each);
      const cells = Object.values(predict(ranks, share, line)).map((seconds) => {
        const rate = (share * ranks) / seconds;
        return `${rate.toFixed(0)} (${(rate / (ranks * one)).toFixed(2)})`;
      });
      console.log([String(ranks), String(share), ...cells].map((t) => t.padEnd(16)).join(""));
    }
  }
};

const place = launched();
if (place !== undefined) await measure(place);
else if (values.steps === undefined)
  throw new RequestError("give --steps BATCH:SECONDS,BATCH:SECONDS, or start it by mpirun");
else printModel(values.steps);
