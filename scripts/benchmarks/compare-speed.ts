/**
 * The AdvCL step (5 attack steps) against PyTorch at the same mathematics: one worker process each, one step of each in turn, medians;
 * a table where several widths, sizes of images or batches are given.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-speed.js --python PYTHON [--widths 16,32,64] [--images 32,96] [--batches 32,64,128]
 *       [--stem cifar|imagenet] [--rounds 5] [--threads 2] [--modes authors,hoisted,bf16] [--targets cpu,cpu-pixels] [--reference advcl_torch.py]
 *
 * Without lists: width 64, 32×32 images, batch 32. `authors`: clean views anew in each attack step, NCHW; `hoisted`: clean views once,
 * channels last; `bf16`: that under autocast; `--modes none`: our targets alone. Wall seconds and the processor's seconds, which other programs on the machine disturb
 * less; peaks in GB; ratios are PyTorch's seconds over ours. PYTHON has torch. The last line is one JSON object.
 */
import { advcl } from "../../graphs/methods/advcl.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
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

/** Our half: one step a turn, whose results the next one starts from. */
const serve = async ({ width, size, batch }: Shape): Promise<void> => {
  const engine = await chooseEngine({ provider: "cpu", threads, target: values.targets });
  const step = advcl.build({
    ...advcl.paper,
    batch,
    size,
    depth: 18,
    width,
    stem,
    clusters: [2, 10, 50, 100, 500],
    attackSteps: 5,
  });
  const { session, model } = await engine.load(step);
  const feeds = benchFeeds(step, 1);
  await serveTurns({ target: engine.target.name, nodes: model.nodes.size }, async () => {
    const results = await session.run(feeds);
    for (const [name, value] of Object.entries(results)) if (name.startsWith("next.")) feeds[name.slice(5)] = value;
  });
};

/** Our step and PyTorch's in each of its modes; one sentence where a worker ended, as one that lacks memory does. */
const measure = async ({ width, size, batch }: Shape): Promise<readonly Summary[] | string> => {
  const reference = existingPath("reference", values.reference);
  const own = { widths: width, images: size, batches: batch, threads, stem };
  const torch = { width, size, batch, threads, stem, reference };
  const modes = values.modes === "none" ? [] : values.modes.split(",");
  const targets = values.targets.split(",");
  const contenders = [
    ...targets.map((target) =>
      ourWorker(import.meta.url, { ...own, targets: target }, targets.length === 1 ? "ours" : target),
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

await (values.worker ? serve(shapes[0] as Shape) : compare());
