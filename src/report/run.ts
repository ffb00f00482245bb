/** The report of a run folder of training: how its figures went, and what it was made with. */
import { encoderName, type NetworkShape } from "../../graphs/nn/encoder.ts";
import type { RunConfig } from "../runs/run-folder.ts";
import { kebabCase, printSetting } from "../settings/name.ts";
import { domainOf, lineChart, type Series } from "./chart.ts";
import {
  costOf,
  followed,
  isShare,
  lastFigures,
  type Results,
  type RunFigures,
  readFigures,
  seriesOf,
  words,
} from "./figures.ts";
import { card, cards, html, legend, list, type Section } from "./page.ts";
import { portraitSections } from "./portrait.ts";
import type { Portrait } from "./portrait-file.ts";

/** Figures over the steps; all charts go from the first step to the last. */
const curveSections = (run: RunFigures): readonly Section[] => {
  if (run.lines.length === 0) return [];
  const names = followed(run);
  const domain = domainOf(run.lines.map(({ step }) => step));
  const shares = names.filter(isShare).map((name) => seriesOf(run, name));
  const accuracy = () =>
    card(
      legend(shares.map(({ name }) => name)) + lineChart(shares, { x: "step", percent: true, domain }),
      shares.length > 1 ? "accuracy" : (shares[0] as Series).name,
    );
  const others = names
    .filter((name) => !isShare(name))
    .map((name) => card(lineChart([seriesOf(run, name)], { x: "step", domain }), words(name)));
  return [{ title: "Training", body: cards([...(shares.length > 0 ? [accuracy()] : []), ...others]) }];
};

/** What training cost; nothing where no clock was kept. */
const costSections = (run: RunFigures): readonly Section[] => {
  const { seconds, waiting, low, median, high } = costOf(run);
  if (seconds === 0) return [];
  const entries: [string, string][] = [
    ["seconds of training", seconds.toFixed(1)],
    ["of them waiting for data", `${waiting.toFixed(1)} (${((100 * waiting) / seconds).toFixed(1)} %)`],
  ];
  if (low !== undefined && median !== undefined && high !== undefined)
    entries.push(
      ["images a second, median", median.toFixed(1)],
      ["of nine steps in ten", `${low.toFixed(1)} to ${high.toFixed(1)}`],
    );
  return [{ title: "Cost", body: list(entries) }];
};

/** What a run is, in a line. */
const subtitleOf = ({ config, lines }: RunFigures): string => {
  const { dataset, arch, depth, width } = config.settings;
  const end = lines.at(-1);
  return [
    dataset && `on ${printSetting(dataset)}`,
    depth && encoderName({ arch, depth: Number(depth), width: Number(width) } as NetworkShape),
    width && `width ${printSetting(width)}`,
    end && `${end.step} steps, ${end.epoch} epochs`,
  ]
    .filter(Boolean)
    .join(" · ");
};

export const runReport = async (
  folder: string,
  config: RunConfig,
  results?: Results,
  portrait?: Portrait,
): Promise<string> => {
  const run = await readFigures(folder, config, results);
  const { method, scheme } = config.settings;
  return html({
    title: `${config.command} ${printSetting(method ?? scheme ?? "")}`.trim(),
    subtitle: subtitleOf(run),
    figures: lastFigures(run),
    sections: [
      ...curveSections(run),
      ...(portrait === undefined ? [] : portraitSections(portrait)),
      ...costSections(run),
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
