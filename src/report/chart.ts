/** Charts as SVG text, by Observable Plot on a document in memory: a report holds them as they are and runs no script. */
import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom/worker"; // one file: the other has hundreds, opened at once

/** A mark of Plot's (its own type wants a browser's). */
export type Mark = Plot.Markish;

const { document } = parseHTML("<!doctype html><html><body></body></html>");

/** The colours of series in order; readable on light and dark. */
export const colours = ["#2563eb", "#d9480f", "#0d9488", "#9333ea", "#ca8a04", "#db2777", "#65a30d", "#64748b"];

/** A chart as SVG; it takes the colour of the text around it. */
export const chart = (options: Plot.PlotOptions): string => {
  const figure = Plot.plot({
    width: 560,
    height: 240,
    marginLeft: 56,
    marginBottom: 40,
    style: { background: "none", fontSize: "12px" },
    ...options,
    document: document as never,
  });
  return (figure as unknown as { readonly outerHTML: string }).outerHTML;
};

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
}

/** More points than this say nothing more on a chart: the mean of each stretch stands for it. */
const most = 120;

/** At most `most` points, each the mean of as many neighbours. */
export const thinned = (points: readonly Point[]): readonly Point[] => {
  const size = Math.ceil(points.length / most);
  if (size <= 1) return points;
  return Array.from({ length: Math.ceil(points.length / size) }, (_, i) => {
    const part = points.slice(i * size, (i + 1) * size);
    const mean = (of: (point: Point) => number) => part.reduce((sum, point) => sum + of(point), 0) / part.length;
    return { x: mean((point) => point.x), y: mean((point) => point.y) };
  });
};

/** From where to where an axis goes; charts side by side share theirs. */
export type Domain = readonly [low: number, high: number];

/** The domain of all these values; undefined where there are none, or one. */
export const domainOf = (values: readonly number[]): Domain | undefined => {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low < high ? [low, high] : undefined;
};

export interface LineOptions {
  /** Name of the axis below. */
  readonly x: string;
  /** Values are shares: the axis goes from 0 to 100 %, so that it exaggerates nothing. */
  readonly percent?: boolean;
  readonly domain?: Domain | undefined;
}

/** Lines over the steps; a series of few points shows them. */
export const lineChart = (series: readonly Series[], { x, percent = false, domain }: LineOptions): string =>
  chart({
    x: { label: x, ...(domain && { domain: [...domain] }) },
    y: {
      label: null,
      grid: true,
      ...(percent ? { domain: [0, 1], tickFormat: (v: number) => `${Math.round(100 * v)} %` } : { nice: true }),
    },
    marks: series.flatMap(({ points }, i) => {
      const shown = thinned(points);
      const colour = colours[i % colours.length]!;
      return [
        Plot.lineY(shown as Point[], { x: "x", y: "y", stroke: colour, strokeWidth: 1.75 }),
        ...(shown.length <= 30 ? [Plot.dot(shown as Point[], { x: "x", y: "y", fill: colour, r: 2.5 })] : []),
      ];
    }),
  });

/** A share with its interval. */
export interface Bar {
  readonly name: string;
  readonly value: number;
  readonly interval?: readonly [low: number, high: number] | undefined;
}

/** Shares as bars in percent, each with its interval; names at the left. */
export const barChart = (bars: readonly Bar[], label: string): string => {
  const shown = bars.map(({ name, value, interval }) => ({
    name,
    value: 100 * value,
    low: 100 * (interval?.[0] ?? value),
    high: 100 * (interval?.[1] ?? value),
  }));
  return chart({
    height: 60 + 34 * bars.length,
    marginTop: 10,
    marginLeft: 110,
    x: { label, domain: [0, 100], grid: true },
    y: { label: null, domain: bars.map(({ name }) => name) },
    marks: [
      Plot.barX(shown, { y: "name", x: "value", fill: colours[0]!, insetTop: 5, insetBottom: 5 }),
      Plot.ruleY(shown, { y: "name", x1: "low", x2: "high", strokeWidth: 2 }),
    ],
  });
};

/** A classifier's shares of right answers on clean images and under attack. */
export interface RobustBar {
  readonly name: string;
  readonly clean: number;
  readonly robust: number;
  readonly interval: readonly [low: number, high: number];
}

/** Accuracy of each classifier in percent: pale on clean images, full under attack, with the interval of the latter. */
export const robustBars = (bars: readonly RobustBar[]): string => {
  const shown = bars.map(({ name, clean, robust, interval: [low, high] }) => ({
    ...{ name, clean: 100 * clean, robust: 100 * robust, low: 100 * low, high: 100 * high },
  }));
  type Shown = (typeof shown)[number];
  const printed = ({ robust }: Shown): string => robust.toFixed(0);
  // Where the full bar is too short for its number, that stands behind everything.
  const holds = ({ robust }: Shown): boolean => robust >= 8;
  return chart({
    height: 60 + 40 * bars.length,
    marginTop: 10,
    marginLeft: 205,
    marginRight: 24,
    x: { label: "right, %", domain: [0, 100], grid: true },
    y: { label: null, domain: bars.map(({ name }) => name) },
    marks: [
      Plot.barX(shown, { y: "name", x: "clean", fill: colours[0]!, fillOpacity: 0.22, insetTop: 6, insetBottom: 6 }),
      Plot.barX(shown, { y: "name", x: "robust", fill: colours[0]!, insetTop: 6, insetBottom: 6 }),
      Plot.ruleY(shown, { y: "name", x1: "low", x2: "high", strokeWidth: 2 }),
      Plot.text(shown.filter(holds), {
        ...{ y: "name", x: 1.5, text: printed, textAnchor: "start" },
        ...{ fill: "white", fontWeight: "bold" },
      }),
      Plot.text(
        shown.filter((bar) => !holds(bar)),
        {
          ...{ y: "name", x: (bar: Shown) => Math.max(bar.clean, bar.high) + 1.5, text: printed },
          ...{ textAnchor: "start", fill: "currentColor", fontWeight: "bold" },
        },
      ),
    ],
  });
};

export { Plot };
