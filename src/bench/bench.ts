/** Measurements of this machine: the step, the data pipeline, the engine's products and the ways of a target. */
import { blockedName } from "../../graphs/targets/cpu/placing.ts";
import { blockSize } from "../engine/block.ts";
import { chooseEngine } from "../engine/engine.ts";
import { timedLayouts } from "../engine/layouts/choice.ts";
import type { LayoutRow } from "../engine/layouts/timing.ts";
import { RequestError } from "../errors.ts";
import { networkDefaultsOf } from "../runs/network.ts";
import { defineVerb, type VerbContext } from "../verbs/verb.ts";
import { benchData, type DataFigures } from "./data.ts";
import { benchLowerings, type LoweringFigures } from "./lowerings.ts";
import { gemmPeak } from "./measure.ts";
import { type BenchSettings, benchSettings } from "./settings.ts";
import { benchStep, type StepFigures } from "./step.ts";

/** The rate of a large square product. */
export interface GemmFigures {
  readonly gflops: number;
  readonly provider: string;
}

/** Where values lie best on this processor. */
export interface LayoutFigures {
  /** What trainings take from now on where no target is named. */
  readonly target: string;
  readonly rows: readonly LayoutRow[];
}

export type BenchResult = StepFigures | DataFigures | GemmFigures | LoweringFigures | LayoutFigures;

const benchLayouts = async ({ threads }: BenchSettings, { print }: VerbContext): Promise<LayoutFigures> => {
  const block = await blockSize();
  if (block === undefined)
    throw new RequestError("onnxruntime has no blocked convolutions on this processor, so there is nothing to choose");
  const rows: LayoutRow[] = [];
  print("channels  side  images     blocks     pixels  ratio");
  const { limits, reason } = await timedLayouts(block, threads, (row) => {
    rows.push(row);
    const { channels, side, images, blocks, pixels, ratio } = row;
    const cells = [String(channels).padStart(8), String(side).padStart(4), String(images).padStart(6)];
    const times = [blocks, pixels].map((ms) => `${ms.toFixed(1)} ms`.padStart(9));
    print([...cells, ...times, ratio.toFixed(2).padStart(5)].join("  "));
  });
  const target = blockedName(block, limits);
  print(`${target}: ${reason}`);
  return { target, rows };
};

const run = async (settings: BenchSettings, context: VerbContext): Promise<BenchResult> => {
  const engine = await chooseEngine(settings);
  switch (settings.what) {
    case "data":
      return benchData(settings, context);
    case "layouts":
      return benchLayouts(settings, context);
    case "lowerings":
      return benchLowerings(settings, engine, context);
    case "step":
      return benchStep(settings, engine, context);
    case "gemm": {
      const { side, gflops } = await gemmPeak(engine);
      const { provider } = engine;
      context.print(
        `${gflops.toFixed(0)} GFLOP/s in a square MatMul of ${side} (${provider}, ${settings.threads} threads)`,
      );
      return { gflops, provider };
    }
  }
};

/** Measures what `what` names, and prints it. */
export const bench = defineVerb(
  {
    name: "bench",
    settings: benchSettings,
    writesNothing: true,
    complete: ({ arch }) => networkDefaultsOf(arch),
  },
  run,
);
