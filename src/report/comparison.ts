/** The report of a comparison: its table, and accuracy on clean images against accuracy under attack. */
import { type Cell, intervalOf, type Row, rowsOf, tableOf } from "../compare/table.ts";
import { kebabCase, printSetting, type SettingValue } from "../settings/name.ts";
import { chart, colours, lineChart, Plot, type Point } from "./chart.ts";
import { card, cards, escaped, html, legend, list, type Section, table } from "./page.ts";
import { mapCharts } from "./portrait.ts";
import type { FeatureMap } from "./portrait-file.ts";

/** What a classifier is told by. */
type Key = Pick<Row, "variant" | "dataset" | "scheme">;

/** How rows are drawn: methods are compared within a way of finetuning; the ways, where there is one method. */
interface Drawing {
  readonly rows: readonly Row[];
  readonly cells: readonly Cell[];
  seriesOf(key: Key): string;
  groupOf(key: Key): string;
  colourOf(series: string): string;
}

/** The mean of a series over its seeds, and its spread, in percent. */
interface Mean {
  readonly name: string;
  readonly x: number;
  readonly y: number;
  readonly dx: number;
  readonly dy: number;
}

/** Accuracies stand on the same axes in every chart, from 0 to 100 %. */
const whole = { domain: [0, 100], grid: true };

const meansOf = (group: string, { rows, groupOf, seriesOf }: Drawing): Mean[] =>
  rows.flatMap((row) => {
    const { SA, RA } = row.figures;
    if (groupOf(row) !== group || !SA || !RA) return [];
    return [{ name: seriesOf(row), x: 100 * SA.mean, y: 100 * RA.mean, dx: 100 * SA.spread, dy: 100 * RA.spread }];
  });

/** Accuracy under attack over accuracy on clean images, of the classifiers of a group. */
const scatter = (group: string, drawing: Drawing): string => {
  const { cells, groupOf, seriesOf, colourOf } = drawing;
  const single = cells.filter((cell) => groupOf(cell) === group);
  const means = meansOf(group, drawing);
  const spread = means.filter(({ dx, dy }) => dx > 0 || dy > 0);
  const colour = { stroke: (mean: Mean) => colourOf(mean.name), strokeWidth: 1.5, strokeOpacity: 0.7 };
  const figure = (name: string) => (cell: Cell) => 100 * (cell.figures[name] ?? Number.NaN);
  return card(
    chart({
      height: 330,
      marginTop: 24,
      inset: 14,
      x: { label: "accuracy on clean images, % (SA) →", labelAnchor: "center", ...whole },
      y: { label: "↑ under PGD-20, % (RA)", ...whole },
      marks: [
        Plot.ruleY(spread, { y: "y", x1: (m: Mean) => m.x - m.dx, x2: (m: Mean) => m.x + m.dx, ...colour }),
        Plot.ruleX(spread, { x: "x", y1: (m: Mean) => m.y - m.dy, y2: (m: Mean) => m.y + m.dy, ...colour }),
        Plot.dot(single, { x: figure("SA"), y: figure("RA"), r: 3, stroke: (cell: Cell) => colourOf(seriesOf(cell)) }),
        Plot.dot(means, { x: "x", y: "y", r: 6, fill: (m: Mean) => colourOf(m.name) }),
      ],
    }),
    group,
  );
};

/** Accuracy under PGD-20 over the radius, the mean over the seeds, where radii were asked for. */
const curveSections = ({ rows, cells, groupOf, seriesOf }: Drawing, series: readonly string[]): readonly Section[] => {
  const curveOf = (row: Row): Point[] => {
    const own = cells.filter((c) => c.variant === row.variant && c.dataset === row.dataset && c.scheme === row.scheme);
    const radii = new Map<number, number[]>();
    for (const { curve = [], figures } of own)
      for (const { eps, accuracy } of [{ eps: 0, accuracy: figures.SA ?? 0 }, ...curve])
        radii.set(eps, [...(radii.get(eps) ?? []), accuracy]);
    const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    return [...radii].map(([eps, values]) => ({ x: 255 * eps, y: mean(values) })).sort((a, b) => a.x - b.x);
  };
  if (!cells.some(({ curve = [] }) => curve.length > 0)) return [];
  const groups = [...new Set(rows.map(groupOf))];
  const lines = (group: string) => {
    const own = rows.filter((row) => groupOf(row) === group);
    // Series keep their place, and so their colour, where a group lacks one.
    return series.map((name) => {
      const row = own.find((candidate) => seriesOf(candidate) === name);
      return { name, points: row ? curveOf(row) : [] };
    });
  };
  const drawn = groups.map((group) => card(lineChart(lines(group), { x: "radius, /255 (L∞)", percent: true }), group));
  return [
    {
      title: "Accuracy by radius",
      body: `${legend(series)}${cards(drawn)}<p class="note">Under PGD-20, the mean over the seeds; at 0 on clean images.</p>`,
    },
  ];
};

/** The map of features of each encoder, by class and by cluster. */
export interface EncoderMap {
  readonly variant: string;
  readonly map: FeatureMap;
}

const mapSections = (maps: readonly EncoderMap[], seed: number): readonly Section[] => {
  const drawn = maps.filter(({ map }) => map.points.length > 0 && map.groups.length > 0);
  if (drawn.length === 0) return [];
  const body = drawn.map(({ variant, map }) => `<h3>${escaped(variant)}</h3>${mapCharts(map)}`).join("");
  const note = `Encoders of seed ${seed}; ${drawn[0]!.map.source}`;
  return [{ title: "Maps of features", body: `${body}<p class="note">${escaped(note)}</p>` }];
};

/** What a comparison's report is made of, besides its table. */
export interface ComparisonParts {
  readonly budget?: Readonly<Record<string, SettingValue | null>> | undefined;
  /** Of the encoders of the first seed. */
  readonly maps?: readonly EncoderMap[];
}

export const comparisonReport = (cells: readonly Cell[], { budget = {}, maps = [] }: ComparisonParts = {}): string => {
  const rows = rowsOf(cells);
  const [head, ...lines] = tableOf(cells, intervalOf);
  const variants = new Set(rows.map((row) => row.variant));
  const wayOf = ({ dataset, scheme }: Key) => `${scheme.toUpperCase()} on ${dataset}`;
  const seriesOf = (key: Key) => (variants.size > 1 ? key.variant : key.scheme.toUpperCase());
  const groupOf = (key: Key) => (variants.size > 1 ? wayOf(key) : key.dataset);
  const series = [...new Set(rows.map(seriesOf))];
  const groups = [...new Set(rows.map(groupOf))];
  const colourOf = (name: string) => colours[series.indexOf(name) % colours.length]!;
  const drawing = { rows, cells, seriesOf, groupOf, colourOf };
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))];
  const seeds = [...new Set(cells.map((cell) => cell.seed))];
  const images = cells.find((cell) => cell.images !== undefined)?.images;
  const intervals =
    images === undefined
      ? ""
      : ` In brackets the 95 % interval of the mean for the ${images} test images, which all share.`;
  const spent = Object.entries(budget)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([key, value]) => [kebabCase(key), printSetting(value as SettingValue)] as const);
  return html({
    title: "Comparison",
    subtitle: `${variants.size === 1 ? rows[0]?.variant : `${variants.size} variants`}, ${new Set(rows.map(wayOf)).size} ways of finetuning, ${seeds.length === 1 ? "seed" : "seeds"} ${seeds.join(", ")}`,
    sections: [
      {
        title: "Accuracy, %",
        body:
          table(head, lines) +
          `<p class="note">SA: clean test images. RA: under PGD-20.${names.includes("AA") ? " AA: under AutoAttack." : ""}${seeds.length > 1 ? " Mean ± standard deviation over the seeds." : ""}${intervals}</p>`,
      },
      {
        title: "Clean against robust",
        body: `${legend(series)}${cards(groups.map((group) => scatter(group, drawing)))}${seeds.length > 1 ? '<p class="note">Large dots are means over the seeds, lines their standard deviation, small circles single runs.</p>' : ""}`,
      },
      ...curveSections(drawing, series),
      ...mapSections(maps, seeds[0] ?? 0),
      ...(spent.length === 0 ? [] : [{ title: "Budget", body: list(spent) }]),
    ],
  });
};
