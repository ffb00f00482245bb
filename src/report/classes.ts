/** An evaluation class by class: who is right, and what is taken for what, clean and under attack. */
import { z } from "zod";
import { wilsonInterval } from "../evaluate/interval.ts";
import { chart, colours, Plot, robustBars } from "./chart.ts";
import { card, cards, type Section, table } from "./page.ts";

/** A row of `images.jsonl`, as far as a report reads it. */
export const imageSchema = z.object({
  label: z.int(),
  prediction: z.int(),
  /** The first attack that broke it, null where none did; "clean" where it was wrong already. */
  brokenBy: z.string().nullable(),
  attacks: z.record(z.string(), z.object({ prediction: z.int() })),
});
export type JudgedImage = z.infer<typeof imageSchema>;

/** Beyond so many classes a report shows the weakest, and confusions as a list. */
const mostClasses = 20;

/** What an image is taken for in the end: by the first attack that broke it, else as it is right. */
const attackedPrediction = ({ label, prediction, brokenBy, attacks }: JudgedImage): number => {
  if (brokenBy === null) return label;
  return brokenBy === "clean" ? prediction : (attacks[brokenBy]?.prediction ?? -1);
};

/** Accuracy of a class: clean, and under all attacks together with its interval. */
const barsOf = (images: readonly JudgedImage[], labels: readonly number[], nameOf: (k: number) => string) =>
  labels.map((label) => {
    const own = images.filter((image) => image.label === label);
    const kept = own.filter(({ brokenBy }) => brokenBy === null).length;
    return {
      name: nameOf(label),
      clean: own.filter(({ prediction }) => prediction === label).length / own.length,
      robust: kept / own.length,
      interval: wilsonInterval(kept, own.length),
    };
  });

interface Confusion {
  readonly label: number;
  readonly prediction: number;
  readonly count: number;
  /** Of the images of this class. */
  readonly share: number;
}

/** How often each class is taken for each, where it is. */
const confusionsOf = (images: readonly JudgedImage[], predictionOf: (image: JudgedImage) => number): Confusion[] => {
  const totals = new Map<number, number>();
  const counts = new Map<string, { label: number; prediction: number; count: number }>();
  for (const image of images) {
    const [label, prediction] = [image.label, predictionOf(image)];
    const key = `${label} ${prediction}`;
    totals.set(label, (totals.get(label) ?? 0) + 1);
    counts.set(key, { label, prediction, count: (counts.get(key)?.count ?? 0) + 1 });
  }
  return [...counts.values()].map((cell) => ({ ...cell, share: cell.count / totals.get(cell.label)! }));
};

/** A matrix: rows are true classes, columns what they are taken for, cells counts, the darker the greater the share of the row. */
const matrix = (cells: readonly Confusion[], labels: readonly number[], nameOf: (k: number) => string): string => {
  const predicted = [
    ...labels,
    ...new Set(cells.map(({ prediction }) => prediction).filter((k) => !labels.includes(k))),
  ];
  const shown = cells.map(({ label, prediction, count, share }) => ({
    ...{ label: nameOf(label), prediction: nameOf(prediction), count, share },
    right: label === prediction,
  }));
  type Cell = (typeof shown)[number];
  return chart({
    width: 560,
    height: 100 + 30 * labels.length,
    marginLeft: 96,
    marginBottom: 84,
    marginTop: 8,
    padding: 0.06,
    x: { label: "taken for", labelAnchor: "center", domain: predicted.map(nameOf), tickRotate: -45, labelOffset: 80 },
    y: { label: null, domain: labels.map(nameOf) },
    marks: [
      Plot.cell(shown, {
        ...{ x: "prediction", y: "label", fill: (cell: Cell) => colours[cell.right ? 0 : 1]! },
        // At least so much that a single image is seen; at most so much that the number can be read on it.
        fillOpacity: (cell: Cell) => 0.08 + 0.5 * cell.share,
      }),
      Plot.text(shown, { x: "prediction", y: "label", text: (cell: Cell) => String(cell.count) }),
    ],
    opacity: { type: "identity" },
  });
};

const confusionTable = (cells: readonly Confusion[], nameOf: (k: number) => string): string =>
  table(
    ["class", "taken for", "images", "% of the class"],
    cells
      .filter(({ label, prediction }) => label !== prediction)
      .sort((a, b) => b.count - a.count || a.label - b.label || a.prediction - b.prediction)
      .slice(0, 15)
      .map(({ label, prediction, count, share }) => [
        ...[nameOf(label), nameOf(prediction), String(count), (100 * share).toFixed(1)],
      ]),
  );

/** @param attacks names of the attacks, in their order */
export const classSections = (
  images: readonly JudgedImage[],
  classes: readonly string[],
  attacks: readonly string[],
): readonly Section[] => {
  if (images.length === 0) return [];
  const nameOf = (k: number): string => (k < 0 ? "no class" : (classes[k] ?? `class ${k}`));
  const labels = [...new Set(images.map(({ label }) => label))].sort((a, b) => a - b);
  const few = labels.length <= mostClasses;
  const bars = barsOf(images, labels, nameOf);
  const weakest = few ? bars : bars.sort((a, b) => a.robust - b.robust || a.clean - b.clean).slice(0, mostClasses);
  const under = attacks.length > 1 ? `under ${attacks.join(", ")} together` : `under ${attacks[0]}`;
  const confusions = [
    ["clean", confusionsOf(images, ({ prediction }) => prediction)] as const,
    ...(attacks.length > 0 ? [[under, confusionsOf(images, attackedPrediction)] as const] : []),
  ];
  return [
    {
      title: few ? "Classes" : `The ${mostClasses} weakest of ${labels.length} classes`,
      body: card(
        robustBars(weakest),
        attacks.length > 0 ? `right: pale clean, full ${under} (lines: 95 % interval)` : "right on clean images",
      ),
    },
    {
      title: "What is taken for what",
      body:
        cards(
          confusions.map(([name, cells]) =>
            card(few ? matrix(cells, labels, nameOf) : confusionTable(cells, nameOf), name),
          ),
        ) +
        (attacks.length > 0
          ? '<p class="note">Under attack an image counts for what the first attack that broke it made of it; one that none broke, and one that was wrong when clean, for what it is when clean.</p>'
          : ""),
    },
  ];
};
