/** The report of a comparison: its table, and accuracy on clean images against accuracy under attack. */
import { type Cell, type Row, rowsOf, tableOf } from "../compare/table.ts";
import { kebabCase, printSetting, type SettingValue } from "../settings/name.ts";
import { chart, colours, Plot } from "./chart.ts";
import { card, cards, html, legend, list, table } from "./page.ts";

export const comparisonReport = (
  cells: readonly Cell[],
  budget: Readonly<Record<string, SettingValue | null>>,
): string => {
  const rows = rowsOf(cells);
  const [head, ...lines] = tableOf(cells);
  const variants = new Set(rows.map((row) => row.variant));
  // Methods are compared within a way of finetuning; the ways, where there is one method.
  type Of = Pick<Row, "variant" | "dataset" | "scheme">;
  const wayOf = ({ dataset, scheme }: Of) => `${scheme.toUpperCase()} on ${dataset}`;
  const seriesOf = (row: Of) => (variants.size > 1 ? row.variant : row.scheme.toUpperCase());
  const groupOf = (row: Of) => (variants.size > 1 ? wayOf(row) : row.dataset);
  const series = [...new Set(rows.map(seriesOf))];
  const groups = [...new Set(rows.map(groupOf))];
  const colourOf = (name: string) => colours[series.indexOf(name) % colours.length] as string;
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))];
  const seeds = [...new Set(cells.map((cell) => cell.seed))];
  const of = (figure: string) => (cell: Cell) => 100 * (cell.figures[figure] ?? Number.NaN);
  const scatter = (group: string) => {
    const here = rows.filter((row) => groupOf(row) === group);
    const single = cells.filter((cell) => groupOf(cell) === group);
    const means = here.flatMap((row) => {
      const { SA, RA } = row.figures;
      if (!SA || !RA) return [];
      const name = seriesOf(row);
      return [{ name, x: 100 * SA.mean, y: 100 * RA.mean, dx: 100 * SA.spread, dy: 100 * RA.spread }];
    });
    type Mean = (typeof means)[number];
    const spread = means.filter(({ dx, dy }) => dx > 0 || dy > 0);
    // Equal values would leave an axis without length.
    const domainOf = (values: readonly number[]) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return high - low < 1 ? { domain: [Math.max(0, low - 1), high + 1] } : {};
    };
    const [xs, ys] = [means.flatMap(({ x, dx }) => [x - dx, x + dx]), means.flatMap(({ y, dy }) => [y - dy, y + dy])];
    const colour = { stroke: (mean: Mean) => colourOf(mean.name), strokeWidth: 1.5, strokeOpacity: 0.7 };
    return card(
      chart({
        height: 330,
        marginTop: 24,
        inset: 14,
        x: {
          label: "accuracy on clean images, % (SA) →",
          labelAnchor: "center",
          grid: true,
          nice: true,
          ...domainOf(xs),
        },
        y: { label: "↑ under PGD-20, % (RA)", grid: true, nice: true, ...domainOf(ys) },
        marks: [
          Plot.ruleY(spread, { y: "y", x1: (m: Mean) => m.x - m.dx, x2: (m: Mean) => m.x + m.dx, ...colour }),
          Plot.ruleX(spread, { x: "x", y1: (m: Mean) => m.y - m.dy, y2: (m: Mean) => m.y + m.dy, ...colour }),
          Plot.dot(single, { x: of("SA"), y: of("RA"), r: 3, stroke: (cell: Cell) => colourOf(seriesOf(cell)) }),
          Plot.dot(means, { x: "x", y: "y", r: 6, fill: (m: Mean) => colourOf(m.name) }),
        ],
      }),
      group,
    );
  };
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
          `<p class="note">SA: clean test images. RA: under PGD-20.${names.includes("AA") ? " AA: under AutoAttack." : ""}${seeds.length > 1 ? " Mean ± standard deviation over the seeds." : ""}</p>`,
      },
      {
        title: "Clean against robust",
        body: `${legend(series)}${cards(groups.map(scatter))}${seeds.length > 1 ? '<p class="note">Large dots are means over the seeds, lines their standard deviation, small circles single runs.</p>' : ""}`,
      },
      ...(spent.length === 0 ? [] : [{ title: "Budget", body: list(spent) }]),
    ],
  });
};
