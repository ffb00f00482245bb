/** The report of `advcl demo`: what came out, how training went, what the attacks did, and the command of every part. */
import { join } from "node:path";
import type { z } from "zod";
import { classifierTable, intervalOf, type Story } from "../compare/story.ts";
import { metricsFile, readMetrics } from "../runs/metrics.ts";
import { barChart, lineChart, robustBars, type Series } from "./chart.ts";
import { attackPicture, type evaluationSchema } from "./evaluation.ts";
import { card, cards, commandLine, escaped, html, legend, table } from "./page.ts";

/** An evaluation of the story, by the name of its part. */
export interface Attacked {
  readonly name: string;
  readonly summary: z.infer<typeof evaluationSchema>;
  readonly picture: Uint8Array | undefined;
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** A figure over the steps of a run. */
const curveOf = async (folder: string, name: string, figure: string): Promise<Series> => ({
  name,
  points: (await readMetrics(join(folder, name, metricsFile))).flatMap(({ step, [figure]: y }) =>
    typeof y === "number" ? [{ x: step, y }] : [],
  ),
});

/** The comparison that the report is for, as a picture and in figures. */
const opening = (classifiers: Story["classifiers"]): string => {
  const { head, rows } = classifierTable(classifiers);
  const bars = classifiers.map((classifier) => ({
    name: classifier.title,
    clean: classifier.accuracy,
    robust: classifier.robustAccuracy,
    interval: intervalOf(classifier.robustAccuracy, classifier),
  }));
  const picture = card(robustBars(bars), "right on test images: pale clean, full under attack (PGD-20, 8/255)");
  const figures = table(
    head,
    rows.map(([, ...row], i) => [classifiers[i]!.title, ...row]),
  );
  return `${cards([picture, figures])}<p class="note">SA: accuracy on clean test images. RA: under PGD-20, each pixel moved by at most 8/255. All learned from the same few labels. AdvCL's encoder never saw one, and the head on it no attack: what that withstands comes from pretraining. Finetuned: all of the network, by TRADES.</p>`;
};

export const demoReport = async (
  folder: string,
  { classifiers, parts }: Story,
  attacked: readonly Attacked[],
): Promise<string> => {
  const aboutOf = (name: string) => parts.find((part) => part.name === name)?.about ?? name;
  const pretrained = parts.filter(({ command }) => command.startsWith("advcl pretrain"));
  const curves = await Promise.all(pretrained.map(({ name }) => curveOf(folder, name, "knnAccuracy")));
  const losses = await Promise.all(pretrained.slice(-1).map(({ name }) => curveOf(folder, name, "loss")));
  const minutes = parts.reduce((sum, { seconds }) => sum + seconds, 0) / 60;
  return html({
    title: "Robust features without labels",
    subtitle: `AdvCL on generated images, from a teacher to a robust classifier · ${minutes.toFixed(1)} minutes of work`,
    figures: classifiers
      .slice(0, 3)
      .map(({ title, robustAccuracy }) => [`${title}: right under attack`, percent(robustAccuracy)]),
    sections: [
      {
        title: "What a linear head keeps of it",
        body: opening(classifiers),
      },
      {
        title: "Pretraining",
        body: cards([
          card(
            legend(curves.map(({ name }) => name)) + lineChart(curves, { x: "step", percent: true }),
            "kNN accuracy of the features",
          ),
          card(lineChart(losses, { x: "step" }), "loss of AdvCL"),
        ]),
      },
      {
        title: "Attacks",
        body: cards(
          attacked.map(({ name, summary, picture }) =>
            card(
              barChart(
                Object.entries(summary.attacks).map(([attack, { accuracy, interval }]) => ({
                  name: attack,
                  value: accuracy,
                  interval,
                })),
                "accuracy, %, with its 95 % interval",
              ) + attackPicture(picture),
              aboutOf(name),
            ),
          ),
        ),
      },
      {
        title: "What was done",
        body: `<div class="card scroll"><table>${parts
          .map(
            ({ name, about, command, seconds }) =>
              `<tr><td><b>${escaped(name)}</b><br>${escaped(about)}<br>${commandLine(command)}</td><td class="number">${seconds.toFixed(0)} s</td></tr>`,
          )
          .join("")}</table></div>`,
      },
    ],
  });
};
