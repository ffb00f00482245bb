import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AdvclOptions, advcl, advclBranches } from "../../../graphs/methods/advcl.ts";
import type { StepOptions } from "../../../graphs/methods/method.ts";
import type { Depth } from "../../../graphs/nn/resnet.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { manySteps } from "../../../graphs/steps/many.ts";
import {
  describeShape,
  encoderShapes,
  type LoweringRow,
  measureLowerings,
  measureTarget,
} from "../../bench/lowerings.ts";
import { benchFeeds, gemmPeak, median, peakMemory } from "../../bench/measure.ts";
import { loadDataset } from "../../data/dataset.ts";
import { createLoader } from "../../data/loader.ts";
import { advclView, uniformStart, weakView } from "../../data/view.ts";
import { availableCores } from "../../engine/cores.ts";
import { chooseEngine, targetRow } from "../../engine/engine.ts";
import { type Profile, readProfile } from "../../engine/profile.ts";
import { createRunner } from "../../engine/runner.ts";
import { depthNames, stemNames, stemOf } from "../../runs/network.ts";
import { defineCommand } from "../command.ts";

export const bench = defineCommand({
  name: "bench",
  summary: "measure the step, the data pipeline or the engine on this machine",
  writesNothing: true,
  settings: {
    what: {
      type: "enum",
      values: ["step", "data", "gemm", "lowerings"],
      default: "step",
      help: "what is measured; lowerings: every way of the CPU target, or the one way of --target",
    },
    target: targetRow,
    batch: { type: "integer", default: 64, min: 2, help: "images a step" },
    size: { type: "integer", default: 32, min: 8, max: 512, help: "side of the images" },
    depth: { type: "enum", values: depthNames, default: "18", help: "layers of the ResNet" },
    width: { type: "integer", default: 64, min: 1, max: 1024, help: "channels of the first stage" },
    stem: { type: "enum", values: stemNames, default: "auto", help: "auto: ImageNet's for images over 64" },
    attackSteps: { type: "integer", default: 5, min: 0, help: "PGD steps of the attack" },
    clusters: { type: "integers", default: [2, 10, 50, 100, 500], min: 2, help: "K of each clustering head" },
    stepsARun: { type: "integer", default: 1, min: 1, help: "steps in one run of the engine" },
    shares: {
      type: "boolean",
      default: false,
      help: "of --what step: each op's share of the time and of the GEMM peak, and nodes on the CPU",
    },
    reps: { type: "integer", default: 3, min: 1, help: "measured repetitions, after one that is not" },
    workers: { type: "integer", default: () => Math.max(1, availableCores() - 1), min: 0, help: "for --what data" },
  },
  run: async (settings, context) => {
    const { what, batch, size, reps, seed } = settings;
    const engine = await chooseEngine(settings);
    if (what === "gemm") {
      const { side, gflops } = await gemmPeak(engine);
      context.print(
        `${gflops.toFixed(0)} GFLOP/s in a square MatMul of ${side} (${engine.provider}, ${settings.threads} threads)`,
      );
      context.result({ gflops, provider: engine.provider });
      return;
    }
    if (what === "lowerings") {
      const { gflops: peak } = await gemmPeak(engine);
      const rows: LoweringRow[] = [];
      const shapes = encoderShapes(batch, settings.width, size);
      const measured =
        engine.provider === "cpu" && settings.target === undefined
          ? measureLowerings(shapes, { ...engine.options, reps })
          : measureTarget(shapes, settings.target ?? engine.target.name, engine.target, { ...engine.options, reps });
      for await (const row of measured) {
        rows.push(row);
        context.print(
          `${row.op.padEnd(8)} ${describeShape(row.shape).padEnd(30)} ${row.way.padEnd(9)} ${row.milliseconds.toFixed(2).padStart(9)} ms ` +
            `${row.gflops.toFixed(0).padStart(5)} GFLOP/s ${((100 * row.gflops) / peak).toFixed(0).padStart(4)} % of peak${row.chosen ? "  chosen" : ""}`,
        );
      }
      context.result({ peakGflops: peak, rows });
      return;
    }
    if (what === "data") {
      const dataset = await loadDataset({ name: "shapes", split: "train", size, limit: Math.max(1024, batch), seed });
      const inputs = {
        clean: weakView,
        view1: advclView,
        view2: advclView,
        start_cl: uniformStart(8 / 255),
        start_ce: uniformStart(8 / 255),
      };
      const loader = createLoader({ dataset, batch, seed, workers: settings.workers, inputs, dropLast: true });
      const seconds: number[] = [];
      for (let epoch = 1; epoch <= reps + 1; epoch++) {
        const start = performance.now();
        for await (const _ of loader.epoch(epoch));
        if (epoch > 1) seconds.push((performance.now() - start) / 1000 / loader.stepsPerEpoch);
      }
      await loader.close();
      const imagesPerSecond = batch / median(seconds);
      context.print(
        `${imagesPerSecond.toFixed(0)} images/s (three views and two noises each, ${settings.workers} workers)`,
      );
      context.result({
        secondsMedian: median(seconds),
        secondsMin: Math.min(...seconds),
        imagesPerSecond,
        workers: settings.workers,
      });
      return;
    }
    const options: StepOptions & AdvclOptions = {
      ...advcl.paper,
      batch,
      size,
      depth: Number(settings.depth) as Depth,
      width: settings.width,
      stem: stemOf(settings.stem, size),
      clusters: settings.clusters,
      attackSteps: settings.attackSteps,
    };
    const { stepsARun } = settings;
    const single = advcl.build(options);
    const step = stepsARun === 1 ? single : manySteps(single, stepsARun);
    const feeds = benchFeeds(step, seed);
    const [inputs, held] = [true, false].map((fed) =>
      Object.entries(feeds).filter(([name]) => name.startsWith("input.") === fed),
    ) as [[string, Tensor][], [string, Tensor][]];
    const started = performance.now();
    const runner = await createRunner(engine, step, new Map(held));
    const createSeconds = (performance.now() - started) / 1000;
    const progress = context.progress({ steps: reps + 1, unit: "run" });
    const seconds: number[] = [];
    for (let rep = 0; rep <= reps; rep++) {
      const start = performance.now();
      await runner.run(Object.fromEntries(inputs));
      runner.accept();
      const taken = (performance.now() - start) / 1000 / stepsARun;
      if (rep > 0) seconds.push(taken);
      progress.update({ step: rep + 1, figures: { seconds: taken }, images: batch * stepsARun });
    }
    progress.stop();
    const profile = join(tmpdir(), `advcl-profile-${process.pid}-`);
    let profiled: Profile | undefined;
    let peakGflops = 0;
    const nodes = runner.model.nodes.size;
    await runner.release();
    if (settings.shares) {
      const watched = await engine.load(step, { profile });
      for (let run = 0; run < 2; run++) await watched.session.run(feeds);
      watched.session.endProfiling();
      await watched.session.release();
      profiled = await readProfile(profile, watched.model);
      peakGflops = (await gemmPeak(engine)).gflops;
      for (const { op, seconds, share, gflops } of profiled.shares.filter((s) => s.share >= 0.002))
        context.print(
          `${op.padEnd(24)} ${(100 * share).toFixed(1).padStart(5)} % ${seconds.toFixed(3).padStart(8)} s` +
            (gflops === undefined
              ? ""
              : ` ${gflops.toFixed(0).padStart(6)} GFLOP/s ${((100 * gflops) / peakGflops).toFixed(0).padStart(4)} % of the GEMM peak`),
        );
      context.print(`convolutions and matrix products: ${(100 * profiled.products).toFixed(1)} % of the time`);
      const left = Object.entries(profiled.onCpu).map(([op, count]) => `${count} ${op}`);
      if (engine.provider !== "cpu") context.print(`nodes on the CPU: ${left.join(", ") || "none"}`);
    }
    const result = {
      provider: engine.provider,
      target: engine.target.name,
      branches: advclBranches.length,
      batch,
      size,
      width: settings.width,
      stepsARun,
      secondsMedian: median(seconds),
      secondsMin: Math.min(...seconds),
      imagesPerSecond: batch / median(seconds),
      createSeconds,
      peakMemoryBytes: await peakMemory(),
      nodes,
      ...(profiled && { ...profiled, peakGflops }),
    };
    context.print(
      `${result.secondsMedian.toFixed(3)} s a step (min ${result.secondsMin.toFixed(3)}), ${result.imagesPerSecond.toFixed(2)} images/s, ` +
        `${nodes} nodes built and loaded in ${createSeconds.toFixed(2)} s, peak ${(result.peakMemoryBytes / 1e9).toFixed(2)} GB`,
    );
    context.result(result);
  },
});
