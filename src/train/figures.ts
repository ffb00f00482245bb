/** The first and best values of a training's figures, from its metrics.jsonl, which a resumed run goes on with. */
import { join } from "node:path";
import { kindOf, pathOf } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { coursesOf, metricsFile, readMetrics } from "../runs/metrics.ts";
import { type Figures, risesToBetter } from "../verbs/conditions.ts";

/** Values of a training's figures by name. */
export interface Extremes {
  /** Of the first step, or of the evaluation before it. */
  readonly first: Readonly<Record<string, number>>;
  /** The highest accuracy, the lowest of every other figure. */
  readonly best: Readonly<Record<string, number>>;
}

/** First and best values of the figures that a run ends with. */
export const readExtremes = async (folder: string, metrics: Readonly<Record<string, number>>): Promise<Extremes> => {
  const courses = coursesOf(await readMetrics(join(folder, metricsFile)));
  const known = Object.keys(metrics).flatMap((name) => {
    const course = courses.get(name);
    return course === undefined ? [] : [[name, course] as const];
  });
  return {
    first: Object.fromEntries(known.map(([name, { first }]) => [name, first])),
    best: Object.fromEntries(
      known.map(([name, { lowest, highest }]) => [name, risesToBetter(name) ? highest : lowest]),
    ),
  };
};

/** Figures as conditions know them. */
export const figuresOf = (metrics: Readonly<Record<string, number>>, { first, best }: Extremes): Figures =>
  Object.fromEntries(
    Object.entries(metrics).map(([name, last]) => [name, { last, first: first[name], best: best[name] }]),
  );

/** Names of the figures that every step of a training measures. */
export const measuredBy = ({ outputs }: Step): readonly string[] =>
  Object.keys(outputs).flatMap((name) => (kindOf(name) === "metric" ? [pathOf(name)] : []));
