/** How fast views are made. */
import { loadDataset } from "../data/dataset.ts";
import { createLoader } from "../data/loader.ts";
import { advclView, uniformStart, weakView } from "../data/view.ts";
import { median } from "../engine/median.ts";
import type { VerbContext } from "../verbs/verb.ts";
import type { BenchSettings } from "./settings.ts";

export interface DataFigures {
  /** Seconds a step's images. */
  readonly secondsMedian: number;
  readonly secondsMin: number;
  readonly imagesPerSecond: number;
  readonly workers: number;
}

/** AdvCL's three views and two noises of each image. */
export const benchData = async (
  { batch, size, seed, reps, workers }: BenchSettings,
  context: VerbContext,
): Promise<DataFigures> => {
  const dataset = await loadDataset({ name: "shapes", split: "train", size, limit: Math.max(1024, batch), seed });
  const inputs = {
    clean: weakView,
    view1: advclView,
    view2: advclView,
    start_cl: uniformStart(8 / 255),
    start_ce: uniformStart(8 / 255),
  };
  const loader = createLoader({ dataset, batch, seed, workers, inputs, dropLast: true });
  const seconds: number[] = [];
  for (let epoch = 1; epoch <= reps + 1; epoch++) {
    const start = performance.now();
    for await (const _ of loader.epoch(epoch));
    if (epoch > 1) seconds.push((performance.now() - start) / 1000 / loader.stepsPerEpoch);
  }
  await loader.close();
  const imagesPerSecond = batch / median(seconds);
  context.print(`${imagesPerSecond.toFixed(0)} images/s (three views and two noises each, ${workers} workers)`);
  return { secondsMedian: median(seconds), secondsMin: Math.min(...seconds), imagesPerSecond, workers };
};
