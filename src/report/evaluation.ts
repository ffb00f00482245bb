/** The report of an evaluation: accuracy under each attack with its interval, and pictures of what the attacks did. */
import { z } from "zod";
import { printRadius } from "../evaluate/attacks/ball.ts";
import { barChart, lineChart } from "./chart.ts";
import { classSections, type JudgedImage } from "./classes.ts";
import { card, cards, escaped, html, legend, table } from "./page.ts";

const figures = z.object({
  accuracy: z.number(),
  interval: z.tuple([z.number(), z.number()]),
  right: z.number(),
  count: z.number(),
  attacked: z.number(),
  queries: z.number(),
  gradients: z.string().optional(),
});
const attackFigures = figures.extend({ parts: z.record(z.string(), figures).optional() });
export const evaluationSchema = z.object({
  model: z.string(),
  dataset: z.string(),
  count: z.number(),
  classes: z.array(z.string()).default([]),
  norm: z.enum(["linf", "l2"]),
  eps: z.number(),
  seed: z.number(),
  attacks: z.record(z.string(), attackFigures),
  curve: z.array(z.object({ eps: z.number(), attacks: z.record(z.string(), attackFigures) })).optional(),
  corruptions: z.object({ accuracy: z.number(), byCorruption: z.record(z.string(), z.number()) }).optional(),
  warnings: z.array(z.string()),
});

const percent = (share: number): string => (100 * share).toFixed(2);

/** The picture of attacks as HTML; empty where there is none. */
export const attackPicture = (png: Uint8Array | undefined): string =>
  png === undefined
    ? ""
    : `<img alt="clean images, perturbations, adversarial images" src="data:image/png;base64,${Buffer.from(png).toString("base64")}">`;

export type Summary = z.infer<typeof evaluationSchema>;

/** Accuracy against radius, a line an attack; none where there is one radius. */
const radiusSections = ({ curve = [], norm }: Summary) => {
  if (curve.length < 2) return [];
  const names = Object.keys(curve[0]?.attacks ?? {});
  const scale = norm === "linf" ? 255 : 1;
  const lines = names.map((name) => ({
    name,
    points: curve.map(({ eps, attacks }) => ({ x: scale * eps, y: attacks[name]?.accuracy ?? 0 })),
  }));
  const body = cards([
    card(
      `${legend(names)}${lineChart(lines, { x: norm === "linf" ? "L∞ radius, 255ths" : "L2 radius", percent: true })}`,
    ),
    table(
      ["radius", ...names.map((name) => `${name}, %`)],
      curve.map(({ eps, attacks }) => [
        printRadius(norm, eps),
        ...names.map((name) => percent(attacks[name]?.accuracy ?? 0)),
      ]),
    ),
  ]);
  return [{ title: "Accuracy against radius", body }];
};

/** What lies beside the summary, where it does. */
export interface Beside {
  /** `attacks.png` */
  readonly picture?: Uint8Array | undefined;
  /** `images.jsonl` */
  readonly images?: readonly JudgedImage[] | undefined;
}

export const evaluationReport = (summary: Summary, { picture, images = [] }: Beside = {}): string => {
  const { model, dataset, count, norm, eps, seed, attacks, corruptions, warnings } = summary;
  const entries = Object.entries(attacks);
  const attackNames = Object.keys(attacks).filter((name) => name !== "clean");
  const rows = entries.flatMap(([name, whole]) => [
    ...Object.entries(whole.parts ?? {}).map(([part, f]) => [`+ ${part}`, f] as const),
    [name, whole] as const,
  ]);
  return html({
    title: "Evaluation",
    subtitle: `${model} on ${count} images of ${dataset}, ${norm === "linf" ? "L∞" : "L2"} radius ${printRadius(norm, eps)}, seed ${seed}`,
    figures: entries.map(([name, { accuracy }]) => [name, `${percent(accuracy)} %`]),
    sections: [
      {
        title: "Accuracy by attack",
        body:
          cards([
            card(
              barChart(
                entries.map(([name, { accuracy, interval }]) => ({ name, value: accuracy, interval })),
                "accuracy, %, with its 95 % interval",
              ),
            ),
            table(
              ["attack", "accuracy, %", "95 % interval", "right", "queries an attacked image"],
              rows.map(([name, f]) => [
                f.gradients === undefined ? name : `${name} (by the gradients of its ${f.gradients})`,
                percent(f.accuracy),
                f.interval.map(percent).join(" to "),
                `${f.right} of ${f.count}`,
                (f.queries / Math.max(1, f.attacked)).toFixed(1),
              ]),
            ),
          ]) + warnings.map((warning) => `<p class="note">${escaped(warning)}</p>`).join(""),
      },
      ...radiusSections(summary),
      ...classSections(images, summary.classes, attackNames),
      ...(corruptions
        ? [
            {
              title: `Corruptions: ${percent(corruptions.accuracy)} %`,
              body: cards([
                card(
                  barChart(
                    Object.entries(corruptions.byCorruption).map(([name, value]) => ({ name, value })),
                    "accuracy, %",
                  ),
                ),
              ]),
            },
          ]
        : []),
      ...(picture
        ? [
            {
              title: "What the attacks did",
              body: card(attackPicture(picture)),
            },
          ]
        : []),
    ],
  });
};
