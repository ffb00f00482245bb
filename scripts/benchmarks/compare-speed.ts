/**
 * The AdvCL step (5 attack steps) against PyTorch at the same mathematics: one worker process each, one step of each in turn, medians;
 * a table where several widths, sizes of images or batches are given.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-speed.js --python PYTHON [--widths 16,32,64] [--images 32,96] [--batches 32,64,128]
 *       [--stem cifar|imagenet] [--replicas 1,2] [--rounds 5] [--threads 2] [--modes authors,hoisted,bf16] [--targets cpu,cpu-pixels] [--reference advcl_torch.py]
 *
 * Without lists: width 64, 32×32 images, batch 32. `authors`: clean views anew in each attack step, NCHW; `hoisted`: clean views once,
 * channels last; `bf16`: that under autocast; `--modes none`: our targets alone. Wall seconds and the processor's seconds, which other programs on the machine disturb
 * less; peaks in GB; ratios are PyTorch's seconds over ours. PYTHON has torch. The last line is one JSON object.
 */
import { once } from "node:events";
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from "node:worker_threads";
import { advcl } from "../../graphs/methods/advcl.ts";
import { averagedStep } from "../../graphs/steps/split.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import { joinThreads, sharedMemory, type ThreadPlace } from "../../src/distributed/threads.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { RequestError } from "../../src/errors.ts";
import { existingPath, numbersIn, readFlags } from "../flags.ts";
import {
  comparisonFlags,
  describe,
  machine,
  ourWorker,
  type Summary,
  serveTurns,
  summarize,
  takeTurns,
  torchWorker,
} from "./side-by-side.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    ...comparisonFlags,
    widths: { type: "string" },
    images: { type: "string" },
    batches: { type: "string" },
    modes: { type: "string", default: "authors,hoisted" },
    targets: { type: "string", default: "cpu" },
    stem: { type: "string", default: "cifar" },
    replicas: { type: "string" },
  },
});
const threads = Number(values.threads);
if (values.stem !== "cifar" && values.stem !== "imagenet")
  throw new RequestError(`--stem ${values.stem} is neither cifar nor imagenet`);
const { stem } = values;

/** One cell of the table: filters of the first layer, side of the images, images in a batch. */
interface Shape {
  readonly width: number;
  readonly size: number;
  readonly batch: number;
}
const shapes: readonly Shape[] = numbersIn("widths", values.widths ?? "64").flatMap((width) =>
  numbersIn("images", values.images ?? "32").flatMap((size) =>
    numbersIn("batches", values.batches ?? "32").map((batch) => ({ width, size, batch })),
  ),
);

/** What makes one step of a replica, or of all there is, whose results the next one starts from. */
const prepare = async ({ width, size, batch }: Shape, place?: ThreadPlace) => {
  const replicas = place?.size ?? 1;
  const ranks = place && { size: replicas, rank: place.rank, batchNorm: true, negatives: true };
  const spoken = place && { ranks: joinThreads(place).within, speaking: true };
  const engine = await chooseEngine({
    provider: "cpu",
    threads: Math.max(1, Math.floor(threads / replicas)),
    target: values.targets,
    ...spoken,
  });
  const own = advcl.build({
    ...advcl.paper,
    batch: batch / replicas,
    size,
    depth: 18,
    width,
    stem,
    clusters: [2, 10, 50, 100, 500],
    attackSteps: 5,
    ranks,
  });
  const step = ranks === undefined ? own : averagedStep(own, replicas, 1);
  const { session, model } = await engine.load(step);
  const feeds = benchFeeds(step, 1);
  const turn = async (): Promise<void> => {
    const results = await session.run(feeds);
    for (const [name, value] of Object.entries(results)) if (name.startsWith("next.")) feeds[name.slice(5)] = value;
  };
  return { ready: { target: engine.target.name, nodes: model.nodes.size }, turn };
};

/** A thread of another replica, and what has it make a step. */
interface Replica {
  readonly shape: Shape;
  readonly place: ThreadPlace;
}

const serveReplica = async ({ shape, place }: Replica, port: MessagePort): Promise<void> => {
  const { turn } = await prepare(shape, place);
  port.on("message", () => void turn());
  port.postMessage("ready");
};

/** Our half: one step a turn. */
const serve = async (shape: Shape): Promise<void> => {
  const size = Number(values.replicas ?? 1);
  const memory = sharedMemory(size);
  const placeOf = (rank: number): ThreadPlace => ({ rank, size, memory, limitSeconds: 60 });
  const others = Array.from({ length: size - 1 }, (_, i) => {
    const workerData: Replica = { shape, place: placeOf(i + 1) };
    return new Worker(new URL(import.meta.url), { workerData, argv: process.argv.slice(2) });
  });
  await Promise.all(others.map((other) => once(other, "message")));
  const { ready, turn } = await prepare(shape, size === 1 ? undefined : placeOf(0));
  await serveTurns(ready, async () => {
    for (const other of others) other.postMessage("turn");
    await turn();
  });
  await Promise.all(others.map((other) => other.terminate()));
};

/** Our step and PyTorch's in each of its modes; one sentence where a worker ended, as one that lacks memory does. */
const measure = async ({ width, size, batch }: Shape): Promise<readonly Summary[] | string> => {
  const reference = existingPath("reference", values.reference);
  const own = { widths: width, images: size, batches: batch, threads, stem };
  const torch = { width, size, batch, threads, stem, reference };
  const modes = values.modes === "none" ? [] : values.modes.split(",");
  const targets = values.targets.split(",");
  const counts = numbersIn("replicas", values.replicas ?? "1");
  const contenders = [
    ...targets.flatMap((target) =>
      counts.map((replicas) => {
        const name = targets.length === 1 ? "ours" : target;
        const settings = { ...own, targets: target, replicas };
        return ourWorker(import.meta.url, settings, replicas === 1 ? name : `${name}, ${replicas} replicas`);
      }),
    ),
    ...modes.map((mode) => torchWorker(`torch ${mode}`, values.python, "pretrain", { ...torch, mode })),
  ];
  try {
    return summarize(await takeTurns(contenders, { rounds: Number(values.rounds) }));
  } catch (error) {
    if (shapes.length === 1) throw error;
    return (error as Error).message;
  }
};

const compare = async (): Promise<void> => {
  const on = machine(threads);
  const rows: object[] = [];
  console.log(`The AdvCL step of ResNet-18 on ${on}, ${values.rounds} rounds in turn, medians`);
  for (const shape of shapes) {
    const measured = await measure(shape);
    const failed = typeof measured === "string";
    rows.push({ ...shape, ...(failed ? { error: measured } : { contenders: measured }) });
    console.log(`\nwidth ${shape.width}, ${shape.size}×${shape.size} images, batch ${shape.batch}`);
    console.log(failed ? `failed: ${measured}` : describe(measured));
    if (failed) process.exitCode = 1;
  }
  console.log(JSON.stringify({ machine: on, rounds: Number(values.rounds), rows }));
};

if (isMainThread) await (values.worker ? serve(shapes[0] as Shape) : compare());
else await serveReplica(workerData as Replica, parentPort as MessagePort);
