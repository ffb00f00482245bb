import { readFile } from "node:fs/promises";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import type { RunFolder } from "./run-folder.ts";
import { eventFile, TensorBoardWriter } from "./tensorboard.ts";

export const metricsFile = "metrics.jsonl";
export const timingFile = "timing.jsonl";

/** A line of metrics.jsonl: the step and epoch that it tells of, then numbers by name; null where one is not finite. */
export interface MetricsLine {
  readonly step: number;
  readonly epoch: number;
  readonly [name: string]: number | null;
}

/**
 * Writes a run's `metrics.jsonl`, its TensorBoard event file and `timing.jsonl`. No clock enters metrics.jsonl, so that
 * the same run gives the same bytes; what depends on the clock goes to timing.jsonl.
 */
export class MetricsWriter {
  readonly #metrics: ReturnType<RunFolder["appendTo"]>;
  readonly #timing: ReturnType<RunFolder["appendTo"]>;
  readonly #board: TensorBoardWriter | undefined;

  /**
   * @param tensorboard also write TensorBoard's event file (default true)
   * @param now milliseconds since 1970, for that file
   */
  constructor(
    run: Pick<RunFolder, "appendTo">,
    { tensorboard = true, now = Date.now }: { readonly tensorboard?: boolean; readonly now?: () => number } = {},
  ) {
    this.#metrics = run.appendTo(metricsFile);
    this.#timing = run.appendTo(timingFile, { history: true });
    this.#board = tensorboard ? new TensorBoardWriter(run.appendTo(eventFile), now) : undefined;
  }

  /**
   * Writes the figures of a step.
   *
   * @param metrics by name: loss, lr, robust accuracy, …
   * @param timing by name, seconds or rates
   */
  write(
    { step, epoch }: { readonly step: number; readonly epoch: number },
    metrics: Readonly<Record<string, number>>,
    timing?: Readonly<Record<string, number>>,
  ): void {
    if ("step" in metrics || "epoch" in metrics) throw new Error("internal: a metric is named step or epoch");
    this.#metrics.append(`${JSON.stringify({ step, epoch, ...metrics })}\n`);
    this.#board?.write(step, metrics);
    if (timing !== undefined) this.#timing.append(`${JSON.stringify({ step, epoch, ...timing })}\n`);
  }
}

const isMetricsLine = (value: unknown): value is MetricsLine =>
  typeof value === "object" &&
  value !== null &&
  !Array.isArray(value) &&
  "step" in value &&
  Number.isSafeInteger(value.step) &&
  "epoch" in value &&
  typeof value.epoch === "number" &&
  Object.values(value).every((figure) => figure === null || typeof figure === "number");

/**
 * The lines of a metrics.jsonl or timing.jsonl; a last line that is still being written is left out.
 *
 * @throws RequestError where the file is missing or a line is not one of figures
 */
export const readMetrics = async (path: string): Promise<MetricsLine[]> => {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw fileError(error, "read", path);
  }
  return text
    .split("\n")
    .slice(0, -1)
    .map((line, index) => {
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch {
        throw new RequestError(`${path} is damaged: line ${index + 1} is not JSON; remove that line`);
      }
      if (!isMetricsLine(value))
        throw new RequestError(
          `${path} is damaged: line ${index + 1} is not a step, an epoch and figures by name; remove that line`,
        );
      return value;
    });
};

/** A figure over a run: the first value, and the lowest and highest that it ever had. */
export interface Course {
  readonly first: number;
  readonly lowest: number;
  readonly highest: number;
}

/** The courses of the figures of a run's metrics.jsonl by name; values that are not finite are left out. */
export const coursesOf = (lines: readonly MetricsLine[]): ReadonlyMap<string, Course> => {
  const courses = new Map<string, Course>();
  for (const { step: _, epoch: __, ...figures } of lines)
    for (const [name, value] of Object.entries(figures)) {
      if (value === null) continue;
      const { first = value, lowest = value, highest = value } = courses.get(name) ?? {};
      courses.set(name, { first, lowest: Math.min(lowest, value), highest: Math.max(highest, value) });
    }
  return courses;
};
