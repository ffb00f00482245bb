/** The table of a comparison: mean and spread over seeds, with the interval of the test images. */
import { wilsonInterval } from "../evaluate/interval.ts";

/** One classifier: a variant pretrained with a seed, finetuned by a scheme on a dataset. */
export interface Cell {
  readonly variant: string;
  readonly seed: number;
  readonly dataset: string;
  readonly scheme: string;
  /** Accuracies by name: SA, RA, AA; shares of the test images. */
  readonly figures: Readonly<Record<string, number>>;
  /** Test images; undefined in a table of a version that did not keep it. */
  readonly images?: number | undefined;
  /** Accuracy under PGD-20 at each radius, where it was asked for. */
  readonly curve?: readonly { readonly eps: number; readonly accuracy: number }[] | undefined;
}

export interface Summary {
  readonly mean: number;
  /** Standard deviation over the seeds (n - 1); 0 for one seed. */
  readonly spread: number;
  readonly seeds: number;
  /** 95 % of the mean, for the test images alone, which all seeds share; undefined where their number is not known. */
  readonly interval?: readonly [low: number, high: number];
}

export interface Row {
  readonly variant: string;
  readonly dataset: string;
  readonly scheme: string;
  readonly figures: Readonly<Record<string, Summary>>;
}

export const summarise = (values: readonly number[], images?: number): Summary => {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return {
    mean,
    spread: values.length < 2 ? 0 : Math.sqrt(squares / (values.length - 1)),
    seeds: values.length,
    ...(images !== undefined && { interval: wilsonInterval(mean * images, images) }),
  };
};

/** Cells gathered over their seeds, in the order of their first. */
export const rowsOf = (cells: readonly Cell[]): Row[] => {
  const groups = new Map<string, Cell[]>();
  for (const cell of cells) {
    const key = JSON.stringify([cell.variant, cell.dataset, cell.scheme]);
    groups.set(key, [...(groups.get(key) ?? []), cell]);
  }
  return [...groups.values()].map((group) => {
    const { variant, dataset, scheme, images } = group[0] as Cell;
    const names = [...new Set(group.flatMap(({ figures }) => Object.keys(figures)))];
    const figures = names.map((name) => {
      const values = group.flatMap((cell) => (cell.figures[name] === undefined ? [] : [cell.figures[name]]));
      return [name, summarise(values, images)] as const;
    });
    return { variant, dataset, scheme, figures: Object.fromEntries(figures) };
  });
};

const percent = (share: number): string => (100 * share).toFixed(1);

/** Mean ± standard deviation in percent; the mean alone of one seed. */
export const percentOf = ({ mean, spread, seeds }: Summary): string =>
  seeds < 2 ? percent(mean) : `${percent(mean)} ± ${percent(spread)}`;

/** The same with the interval of the test images, where it is known. */
export const intervalOf = (summary: Summary): string =>
  summary.interval === undefined
    ? percentOf(summary)
    : `${percentOf(summary)} (${summary.interval.map(percent).join(" to ")})`;

/** A Markdown table with its columns aligned. */
export const markdownTable = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const widths = head.map((_, c) => Math.max(...[head, ...rows].map((line) => line[c]!.length)));
  const line = (cells: readonly string[]) => `| ${cells.map((cell, c) => cell.padEnd(widths[c]!)).join(" | ")} |`;
  return [line(head), `|${widths.map((w) => "-".repeat(w + 2)).join("|")}|`, ...rows.map(line)].join("\n");
};

/**
 * Head and lines of the table: a line for each variant, on each dataset where there are several; accuracies in percent, mean ±
 * standard deviation over the seeds.
 */
export const tableOf = (
  cells: readonly Cell[],
  print: (summary: Summary) => string = percentOf,
): readonly [head: string[], ...lines: string[][]] => {
  const rows = rowsOf(cells);
  const several = new Set(rows.map(({ dataset }) => dataset)).size > 1;
  const columns = [
    ...new Map(
      rows.flatMap(({ scheme, figures }) =>
        Object.keys(figures).map((figure) => [`${scheme} ${figure}`, { scheme, figure }] as const),
      ),
    ).values(),
  ];
  const lines = new Map(
    rows.map(({ dataset, variant }) => [
      JSON.stringify([dataset, variant]),
      [
        ...(several ? [dataset] : []),
        variant,
        ...columns.map(({ scheme, figure }) => {
          const found = rows.find((r) => r.variant === variant && r.dataset === dataset && r.scheme === scheme);
          const summary = found?.figures[figure];
          return summary === undefined ? "" : print(summary);
        }),
      ],
    ]),
  );
  const head = columns.map(({ scheme, figure }) => `${scheme.toUpperCase()} ${figure}`);
  return [[...(several ? ["dataset"] : []), "method", ...head], ...lines.values()];
};

/** The table in Markdown. */
export const printTable = (cells: readonly Cell[]): string => {
  const [head, ...lines] = tableOf(cells);
  return markdownTable(head, lines);
};
