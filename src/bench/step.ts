/** How long a step takes, and what in it. */
import { tmpdir } from "node:os";
import { join } from "node:path";
import { advcl, advclBranches } from "../../graphs/methods/advcl.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { manySteps } from "../../graphs/steps/many.ts";
import { kindOf } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import type { Engine } from "../engine/engine.ts";
import { median } from "../engine/median.ts";
import { type Profile, readProfile } from "../engine/profile.ts";
import { createRunner } from "../engine/runner.ts";
import { shapeOf } from "../runs/network.ts";
import type { VerbContext } from "../verbs/verb.ts";
import { benchFeeds, gemmPeak, peakMemory } from "./measure.ts";
import type { BenchSettings } from "./settings.ts";

export interface StepFigures extends Partial<Profile> {
  readonly provider: string;
  readonly target: string;
  /** Batch-norm branches. */
  readonly branches: number;
  readonly batch: number;
  readonly size: number;
  readonly width: number;
  readonly stepsARun: number;
  /** Seconds a step. */
  readonly secondsMedian: number;
  readonly secondsMin: number;
  readonly imagesPerSecond: number;
  /** Seconds until the step was built and loaded. */
  readonly createSeconds: number;
  readonly peakMemoryBytes: number;
  readonly nodes: number;
  /** Rate of a large product, with `shares`. */
  readonly peakGflops?: number;
}

type Feeds = Readonly<Record<string, Tensor>>;

const buildStep = (settings: BenchSettings): Step => {
  const { batch, size, clusters, attackSteps, stepsARun } = settings;
  const single = advcl.build({ ...advcl.paper, batch, size, ...shapeOf(settings, size), clusters, attackSteps });
  return stepsARun === 1 ? single : manySteps(single, stepsARun);
};

/** Seconds of each step, the first left out, and what loading took. */
const timeSteps = async (
  { reps, stepsARun, batch }: BenchSettings,
  step: Step,
  feeds: Feeds,
  engine: Engine,
  context: VerbContext,
) => {
  const [inputs, held] = [true, false].map((fed) =>
    Object.entries(feeds).filter(([name]) => (kindOf(name) === "input") === fed),
  ) as [[string, Tensor][], [string, Tensor][]];
  const started = performance.now();
  const runner = await createRunner(engine, step, new Map(held));
  const createSeconds = (performance.now() - started) / 1000;
  const progress = context.progress({ steps: reps + 1, unit: "run" });
  const seconds: number[] = [];
  const batches = Array.from({ length: reps + 2 }, () => Object.fromEntries(inputs));
  for (let rep = 0; rep <= reps; rep++) {
    const start = performance.now();
    // As a training does: the next batch goes to the device while this one is computed.
    runner.stage?.(batches[rep + 1]!);
    await runner.run(batches[rep]!);
    runner.accept();
    const taken = (performance.now() - start) / 1000 / stepsARun;
    if (rep > 0) seconds.push(taken);
    progress.update({ step: rep + 1, figures: { seconds: taken }, images: batch * stepsARun });
  }
  progress.stop();
  const nodes = runner.model.nodes.size;
  await runner.release();
  return { seconds, createSeconds, nodes };
};

/** Each op's share of a step's time. */
const profileStep = async (step: Step, feeds: Feeds, engine: Engine, context: VerbContext) => {
  const profile = join(tmpdir(), `advcl-profile-${process.pid}-`);
  const watched = await engine.load(step, { profile });
  for (let run = 0; run < 2; run++) await watched.session.run(feeds);
  watched.session.endProfiling();
  await watched.session.release();
  const profiled = await readProfile(profile, watched.model);
  const peakGflops = (await gemmPeak(engine)).gflops;
  for (const { op, seconds, share, gflops } of profiled.shares.filter((s) => s.share >= 0.002)) {
    const rate =
      gflops === undefined
        ? ""
        : ` ${gflops.toFixed(0).padStart(6)} GFLOP/s ${((100 * gflops) / peakGflops).toFixed(0).padStart(4)} % of the GEMM peak`;
    context.print(
      `${op.padEnd(24)} ${(100 * share).toFixed(1).padStart(5)} % ${seconds.toFixed(3).padStart(8)} s${rate}`,
    );
  }
  context.print(`convolutions and matrix products: ${(100 * profiled.products).toFixed(1)} % of the time`);
  const left = Object.entries(profiled.onCpu).map(([op, count]) => `${count} ${op}`);
  if (engine.provider !== "cpu") context.print(`nodes on the CPU: ${left.join(", ") || "none"}`);
  return { ...profiled, peakGflops };
};

export const benchStep = async (
  settings: BenchSettings,
  engine: Engine,
  context: VerbContext,
): Promise<StepFigures> => {
  const { batch, size, width, stepsARun, seed, shares } = settings;
  const step = buildStep(settings);
  const feeds = benchFeeds(step, seed);
  const { seconds, createSeconds, nodes } = await timeSteps(settings, step, feeds, engine, context);
  const profiled = shares ? await profileStep(step, feeds, engine, context) : undefined;
  const figures: StepFigures = {
    provider: engine.provider,
    target: engine.target.name,
    branches: advclBranches.length,
    ...{ batch, size, width, stepsARun },
    secondsMedian: median(seconds),
    secondsMin: Math.min(...seconds),
    imagesPerSecond: batch / median(seconds),
    createSeconds,
    peakMemoryBytes: await peakMemory(),
    nodes,
    ...profiled,
  };
  context.print(
    `${figures.secondsMedian.toFixed(3)} s a step (min ${figures.secondsMin.toFixed(3)}), ${figures.imagesPerSecond.toFixed(2)} images/s, ` +
      `${nodes} nodes built and loaded in ${createSeconds.toFixed(2)} s, peak ${(figures.peakMemoryBytes / 1e9).toFixed(2)} GB`,
  );
  return figures;
};
