/** The report of a run folder of training: how its figures went, and what it was made with. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { encoderName, type NetworkShape } from "../../graphs/nn/encoder.ts";
import { type MetricsLine, metricsFile, readMetrics, timingFile } from "../runs/metrics.ts";
import type { RunConfig } from "../runs/run-folder.ts";
import { kebabCase, printSetting } from "../settings/name.ts";
import { lineChart, type Series } from "./chart.ts";
import { card, cards, html, legend, list } from "./page.ts";

/** Figures that are shares. */
const isShare = (name: string): boolean => /accuracy$|validation$/i.test(name);

/** Text of a figure's name: robustAccuracy → robust accuracy. */
const words = (name: string): string =>
  kebabCase(name).replaceAll("-", " ").replace("knn", "kNN").replace(/^lr$/, "learning rate");

const seriesOf = (lines: readonly MetricsLine[], name: string): Series => ({
  name: words(name),
  points: lines.flatMap((line) => (typeof line[name] === "number" ? [{ x: line.step, y: line[name] }] : [])),
});

const figure = (name: string, value: number): string =>
  isShare(name) ? `${(100 * value).toFixed(2)} %` : String(Number(value.toPrecision(4)));

/** Results beside the curves, by name: accuracies on test images. */
export type Results = Readonly<Record<string, number>>;

export const runReport = async (folder: string, config: RunConfig, results: Results = {}): Promise<string> => {
  const path = join(folder, metricsFile);
  const lines = existsSync(path) ? await readMetrics(path) : [];
  const timing = existsSync(join(folder, timingFile)) ? await readMetrics(join(folder, timingFile)) : [];
  const names = [...new Set(lines.flatMap((line) => Object.keys(line)))].filter((n) => n !== "step" && n !== "epoch");
  const shares = names.filter(isShare).map((name) => seriesOf(lines, name));
  const others = names.filter((name) => !isShare(name));
  const last = (name: string) => lines.findLast((line) => typeof line[name] === "number")?.[name] as number;
  const { method, scheme, dataset, arch, depth, width } = config.settings;
  const rates = timing.flatMap((line) => line.imagesPerSecond ?? []).sort((a, b) => a - b);
  const seconds = timing.reduce((sum, line) => sum + (line.seconds ?? 0) + (line.dataWait ?? 0), 0);
  const end = lines.at(-1);
  return html({
    title: `${config.command} ${printSetting(method ?? scheme ?? "")}`.trim(),
    subtitle: [
      dataset && `on ${printSetting(dataset)}`,
      depth && encoderName({ arch, depth: Number(depth), width: Number(width) } as NetworkShape),
      width && `width ${printSetting(width)}`,
      end && `${end.step} steps, ${end.epoch} epochs`,
    ]
      .filter(Boolean)
      .join(" · "),
    figures: [
      ...Object.entries(results).map(([name, value]) => [`${words(name)}, test images`, figure(name, value)] as const),
      ...names
        .filter((name) => name === "loss" || name === "knnAccuracy" || /Validation$|^validation$/.test(name))
        .map((name) => [`${words(name)}, last`, figure(name, last(name))] as const),
      ...(rates.length > 0
        ? [
            ["images a second, median", String(Math.round(rates[rates.length >> 1]!))] as const,
            ["minutes of training", (seconds / 60).toFixed(1)] as const,
          ]
        : []),
    ],
    sections: [
      ...(lines.length > 0
        ? [
            {
              title: "Training",
              body: cards([
                ...(shares.length > 0
                  ? [
                      card(
                        legend(shares.map(({ name }) => name)) + lineChart(shares, { x: "step", percent: true }),
                        shares.length > 1 ? "accuracy" : (shares[0] as Series).name,
                      ),
                    ]
                  : []),
                ...others.map((name) => card(lineChart([seriesOf(lines, name)], { x: "step" }), words(name))),
              ]),
            },
          ]
        : []),
      {
        title: "Settings",
        body: list(
          Object.entries(config.settings)
            .filter(([, value]) => value !== undefined)
            .map(([key, value]) => [kebabCase(key), printSetting(value)]),
        ),
      },
      { title: "Versions", body: list([...Object.entries(config.versions), ["commit", config.commit ?? "unknown"]]) },
    ],
  });
};
