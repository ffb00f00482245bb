/**
 * One AFF step (TRADES, 10 attack steps) of ResNet-18 against PyTorch's, channels last: one worker process each, one step of
 * each in turn, medians of wall seconds and of the processor's seconds, which other programs disturb less.
 *
 *     npm run build
 *     node dist/scripts/benchmarks/compare-finetune.js --python PYTHON [--batch 64] [--width 64] [--attack-steps 10]
 *       [--rounds 5] [--threads 2] [--target cpu] [--reference advcl_torch.py]
 *
 * PYTHON has torch. The last line is one JSON object.
 */

import { advclBranches } from "../../graphs/methods/advcl.ts";
import { finetuneStep } from "../../graphs/steps/finetune.ts";
import { benchFeeds } from "../../src/bench/measure.ts";
import { chooseEngine } from "../../src/engine/engine.ts";
import { existingPath, readFlags } from "../flags.ts";
import {
  describe,
  machine,
  ourWorker,
  serveTurns,
  shapeFlags,
  shapeOf,
  summarize,
  takeTurns,
  torchWorker,
} from "./side-by-side.ts";

const { values } = readFlags(import.meta.url, { options: shapeFlags("64", "10") });
const shape = shapeOf(values);
const { batch, width, threads, "attack-steps": attackSteps } = shape;

/** Our half: one step a turn, whose results the next one starts from. */
const serve = async (): Promise<void> => {
  const engine = await chooseEngine({ provider: "cpu", threads, target: values.target });
  const step = finetuneStep({
    objective: "trades",
    batch,
    size: 32,
    depth: 18,
    width,
    stem: "cifar",
    branches: advclBranches,
    branch: "pgd",
    classes: 10,
    beta: 6,
    attackSteps,
    eps: 8 / 255,
    stepSize: 2 / 255,
    momentum: 0.9,
    weightDecay: 2e-4,
  });
  const start = performance.now();
  const { session, model } = await engine.load(step);
  const feeds = benchFeeds(step, 1);
  const createSeconds = (performance.now() - start) / 1e3;
  await serveTurns({ target: engine.target.name, nodes: model.nodes.size, createSeconds }, async () => {
    const results = await session.run(feeds);
    for (const [name, value] of Object.entries(results))
      if (name.startsWith("next.")) feeds[name.slice("next.".length)] = value;
  });
  await session.release();
};

const compare = async (): Promise<void> => {
  const on = machine(threads);
  const reference = existingPath("reference", values.reference);
  const contenders = [
    ourWorker(import.meta.url, { ...shape, target: values.target }),
    torchWorker("torch", values.python, "finetune", { ...shape, reference }),
  ];
  const rows = summarize(await takeTurns(contenders, { rounds: Number(values.rounds) }));
  console.log(
    `AFF step, ResNet-18 width ${width}, batch ${batch}, ${attackSteps} attack steps on ${on}, medians of ${values.rounds}`,
  );
  console.log(describe(rows));
  console.log(JSON.stringify({ machine: on, ...shape, contenders: rows }));
};

await (values.worker ? serve() : compare());
