/** What a run folder of training tells: its figures over the steps, the last of them, and what they cost. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type MetricsLine, metricsFile, readMetrics, timingFile } from "../runs/metrics.ts";
import type { RunConfig } from "../runs/run-folder.ts";
import { kebabCase } from "../settings/name.ts";
import type { Series } from "./chart.ts";

/** Results beside the curves, by name: accuracies on test images. */
export type Results = Readonly<Record<string, number>>;

export interface RunFigures {
  readonly config: RunConfig;
  readonly results: Results;
  /** Of `metrics.jsonl`. */
  readonly lines: readonly MetricsLine[];
  /** Of `timing.jsonl`. */
  readonly timing: readonly MetricsLine[];
}

const linesOf = async (path: string): Promise<readonly MetricsLine[]> => (existsSync(path) ? readMetrics(path) : []);

export const readFigures = async (folder: string, config: RunConfig, results: Results = {}): Promise<RunFigures> => ({
  ...{ config, results },
  lines: await linesOf(join(folder, metricsFile)),
  timing: await linesOf(join(folder, timingFile)),
});

/** Figures that are shares. */
export const isShare = (name: string): boolean => /accuracy$|validation$/i.test(name);

/** Text of a figure's name: robustAccuracy → robust accuracy. */
export const words = (name: string): string =>
  kebabCase(name).replaceAll("-", " ").replace("knn", "kNN").replace(/^lr$/, "learning rate");

/** The figures of a run that have a course, in the order in which they came up. */
export const followed = ({ lines }: RunFigures): string[] =>
  [...new Set(lines.flatMap((line) => Object.keys(line)))].filter((name) => name !== "step" && name !== "epoch");

export const seriesOf = ({ lines }: RunFigures, name: string): Series => ({
  name: words(name),
  points: lines.flatMap((line) => (typeof line[name] === "number" ? [{ x: line.step, y: line[name] }] : [])),
});

const printed = (name: string, value: number): string =>
  isShare(name) ? `${(100 * value).toFixed(2)} %` : String(Number(value.toPrecision(4)));

/** Values in ascending order at these shares of the way from the first to the last. */
const quantiles = (values: readonly number[], shares: readonly number[]): number[] =>
  shares.map((share) => values[Math.floor(share * (values.length - 1))]!);

/** What training cost, by the clock: seconds, the part of them in which the engine waited for data, images a second. */
export const costOf = ({ timing }: RunFigures) => {
  const sum = (name: string): number => timing.reduce((total, line) => total + (line[name] ?? 0), 0);
  const waiting = sum("dataWait");
  const rates = timing.flatMap((line) => line.imagesPerSecond ?? []).sort((a, b) => a - b);
  const [low, median, high] = quantiles(rates, [0.05, 0.5, 0.95]);
  return { seconds: sum("seconds") + waiting, waiting, low, median, high };
};

/** The figures that a run ends with, by name, for people. */
export const lastFigures = (run: RunFigures): (readonly [name: string, value: string])[] => {
  const last = (name: string) => run.lines.findLast((line) => typeof line[name] === "number")?.[name] as number;
  const { seconds, median } = costOf(run);
  return [
    ...Object.entries(run.results).map(
      ([name, value]) => [`${words(name)}, test images`, printed(name, value)] as const,
    ),
    ...followed(run)
      .filter((name) => name === "loss" || name === "knnAccuracy" || /Validation$|^validation$/.test(name))
      .map((name) => [`${words(name)}, last`, printed(name, last(name))] as const),
    ...(median === undefined
      ? []
      : [
          ["images a second, median", String(Math.round(median))] as const,
          ["minutes of training", (seconds / 60).toFixed(1)] as const,
        ]),
  ];
};
