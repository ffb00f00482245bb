/** Runs and evaluations side by side: their last figures, their curves on shared axes, the settings that differ. */
import { basename, resolve } from "node:path";
import { kebabCase, printSetting } from "../settings/name.ts";
import { barChart, domainOf, lineChart } from "./chart.ts";
import type { Summary } from "./evaluation.ts";
import { followed, isShare, lastFigures, type RunFigures, seriesOf, words } from "./figures.ts";
import { card, cards, html, legend, type Section, table } from "./page.ts";

/** One of the folders. */
export interface Column {
  readonly folder: string;
  readonly run: RunFigures;
  /** Where it is an evaluation. */
  readonly evaluation: Summary | undefined;
}

type Named = Column & { readonly name: string };

/** The folders' last parts; where these are not told apart by them, the folders as they were given. */
const namesOf = (columns: readonly Column[]): readonly Named[] => {
  const names = columns.map(({ folder }) => basename(resolve(folder)));
  const plain = new Set(names).size === names.length;
  return columns.map((column, i) => ({ ...column, name: plain ? names[i]! : column.folder }));
};

/** A table of what is told of each column, a line a name; lines in the order in which names come up. */
const lined = (
  columns: readonly Named[],
  entriesOf: (column: Named) => readonly (readonly [name: string, value: string])[],
  keep: (values: readonly string[]) => boolean = () => true,
): string => {
  const all = columns.map((column) => new Map(entriesOf(column)));
  const names = [...new Set(all.flatMap((entries) => [...entries.keys()]))];
  const rows = names.map((name) => [name, ...all.map((entries) => entries.get(name) ?? "")]);
  const kept = rows.filter(([, ...values]) => keep(values));
  return kept.length === 0 ? '<p class="note">None.</p>' : table(["", ...columns.map(({ name }) => name)], kept);
};

const percent = (share: number): string => (100 * share).toFixed(2);

const figuresOf = ({ run, evaluation }: Column): (readonly [string, string])[] => [
  ...lastFigures(run),
  ...Object.entries(evaluation?.attacks ?? {}).map(([attack, { accuracy, interval }]) => {
    const [low, high] = interval.map(percent);
    return [`right, ${attack}`, `${percent(accuracy)} % (${low} to ${high})`] as const;
  }),
];

const settingsOf = ({ run: { config } }: Column): (readonly [string, string])[] => [
  ["command", config.command],
  ...Object.entries(config.settings)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => [kebabCase(key), printSetting(value)] as const),
];

/** Accuracy under each attack, a bar a column. */
const attackSections = (columns: readonly Named[]): readonly Section[] => {
  const attacks = [...new Set(columns.flatMap(({ evaluation }) => Object.keys(evaluation?.attacks ?? {})))];
  if (attacks.length === 0) return [];
  const bars = (attack: string) =>
    columns.flatMap(({ name, evaluation }) => {
      const figures = evaluation?.attacks[attack];
      return figures === undefined ? [] : [{ name, value: figures.accuracy, interval: figures.interval }];
    });
  const drawn = attacks.map((attack) => card(barChart(bars(attack), "accuracy, %, with its 95 % interval"), attack));
  return [{ title: "Accuracy by attack", body: cards(drawn) }];
};

/** A chart a figure, a line a column; all go over the same steps. */
const curveSections = (columns: readonly Named[]): readonly Section[] => {
  const figures = [...new Set(columns.flatMap(({ run }) => followed(run)))];
  if (figures.length === 0) return [];
  const domain = domainOf(columns.flatMap(({ run }) => run.lines.map(({ step }) => step)));
  const ordered = [...figures.filter(isShare), ...figures.filter((name) => !isShare(name))];
  const drawn = ordered.map((figure) =>
    card(
      lineChart(
        columns.map(({ name, run }) => ({ ...seriesOf(run, figure), name })),
        { x: "step", percent: isShare(figure), domain },
      ),
      words(figure),
    ),
  );
  return [{ title: "Training", body: legend(columns.map(({ name }) => name)) + cards(drawn) }];
};

export const sideBySide = (given: readonly Column[]): string => {
  const columns = namesOf(given);
  const intervals = columns.some(({ evaluation }) => evaluation !== undefined);
  const judged = new Set(
    columns.flatMap(({ evaluation: e }) => (e ? [JSON.stringify([e.dataset, e.count, e.norm, e.eps])] : [])),
  );
  const unlike =
    judged.size > 1
      ? '<p class="note">These evaluations differ in their images or in their radius: see the settings before comparing them.</p>'
      : "";
  return html({
    title: "Side by side",
    subtitle: columns.map(({ name }) => name).join(", "),
    sections: [
      {
        title: "Last figures",
        body: `${lined(columns, figuresOf)}${intervals ? '<p class="note">In brackets the 95 % interval of the test images; other figures have none.</p>' : ""}${unlike}`,
      },
      ...attackSections(columns),
      ...curveSections(columns),
      {
        title: "Settings that differ",
        body: lined(columns, settingsOf, (values) => new Set(values).size > 1),
      },
    ],
  });
};
