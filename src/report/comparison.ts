/** The report of a comparison: its table, and accuracy on clean images against accuracy under attack. */
import { type Cell, percentOf, rowsOf } from "../comparison/table.ts";
import { kebabCase, printSetting, type SettingValue } from "../setting-name.ts";
import { chart, colours, Plot } from "./chart.ts";
import { card, cards, html, legend, list, table } from "./page.ts";

export const comparisonReport = (
  cells: readonly Cell[],
  budget: Readonly<Record<string, SettingValue | null>>,
): string => {
  const rows = rowsOf(cells);
  const variants = [...new Set(rows.map((row) => row.variant))];
  const colourOf = (variant: string) => colours[variants.indexOf(variant) % colours.length] as string;
  const groups = [
    ...new Map(rows.map(({ dataset, scheme }) => [`${dataset} ${scheme}`, { dataset, scheme }])).values(),
  ];
  const severalDatasets = new Set(rows.map((row) => row.dataset)).size > 1;
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))];
  const seeds = [...new Set(cells.map((cell) => cell.seed))];
  const of = (figure: string) => (cell: Cell) => 100 * (cell.figures[figure] ?? Number.NaN);
  const scatter = (dataset: string, scheme: string) => {
    const here = rows.filter((row) => row.dataset === dataset && row.scheme === scheme);
    const single = cells.filter((cell) => cell.dataset === dataset && cell.scheme === scheme);
    const means = here.flatMap(({ variant, figures: { SA, RA } }) =>
      SA && RA ? [{ variant, x: 100 * SA.mean, y: 100 * RA.mean, dx: 100 * SA.spread, dy: 100 * RA.spread }] : [],
    );
    type Mean = (typeof means)[number];
    const colour = { stroke: (mean: Mean) => colourOf(mean.variant), strokeWidth: 1.5, strokeOpacity: 0.7 };
    return card(
      chart({
        height: 330,
        marginTop: 24,
        inset: 14,
        x: { label: "accuracy on clean images, % (SA) →", labelAnchor: "center", grid: true, nice: true },
        y: { label: "↑ under PGD-20, % (RA)", grid: true, nice: true },
        marks: [
          Plot.ruleY(means, { y: "y", x1: (m: Mean) => m.x - m.dx, x2: (m: Mean) => m.x + m.dx, ...colour }),
          Plot.ruleX(means, { x: "x", y1: (m: Mean) => m.y - m.dy, y2: (m: Mean) => m.y + m.dy, ...colour }),
          Plot.dot(single, { x: of("SA"), y: of("RA"), r: 3, stroke: (cell: Cell) => colourOf(cell.variant) }),
          Plot.dot(means, { x: "x", y: "y", r: 6, fill: (m: Mean) => colourOf(m.variant) }),
        ],
      }),
      `${scheme.toUpperCase()} on ${dataset}`,
    );
  };
  return html({
    title: "Comparison of methods",
    subtitle: `${variants.length} variants, ${groups.length} ways of finetuning, seeds ${seeds.join(", ")}`,
    sections: [
      {
        title: "Accuracy, %",
        body:
          table(
            [
              "method",
              ...groups.flatMap(({ dataset, scheme }) =>
                names.map((name) => `${severalDatasets ? `${dataset} ` : ""}${scheme.toUpperCase()} ${name}`),
              ),
            ],
            variants.map((variant) => [
              variant,
              ...groups.flatMap(({ dataset, scheme }) => {
                const row = rows.find((r) => r.variant === variant && r.dataset === dataset && r.scheme === scheme);
                return names.map((name) => (row?.figures[name] === undefined ? "" : percentOf(row.figures[name])));
              }),
            ]),
          ) +
          `<p class="note">SA: clean test images. RA: under PGD-20.${names.includes("AA") ? " AA: under AutoAttack." : ""} Mean ± standard deviation over the seeds.</p>`,
      },
      {
        title: "Clean against robust",
        body: `${legend(variants)}${cards(groups.map(({ dataset, scheme }) => scatter(dataset, scheme)))}<p class="note">Large dots are means over the seeds, lines their standard deviation, small circles single runs.</p>`,
      },
      {
        title: "Budget",
        body: list(
          Object.entries(budget)
            .filter(([, value]) => value !== null && value !== undefined)
            .map(([key, value]) => [kebabCase(key), printSetting(value as SettingValue)]),
        ),
      },
    ],
  });
};
