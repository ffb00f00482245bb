/** Measurements of this machine: the step, the data pipeline, the engine's products and the ways of a target. */
import { chooseEngine } from "../engine/engine.ts";
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

export type BenchResult = StepFigures | DataFigures | GemmFigures | LoweringFigures;

const run = async (settings: BenchSettings, context: VerbContext): Promise<BenchResult> => {
  const engine = await chooseEngine(settings);
  switch (settings.what) {
    case "data":
      return benchData(settings, context);
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
