/** What an exported file tells of itself: plain texts, JSON where there is more than one word. */
import type { NetworkPart } from "../../graphs/deploy/network.ts";
import { preprocessingOf } from "../models/preprocessing.ts";
import { versions } from "../version.ts";
import type { ExportOptions } from "./model.ts";
import type { Source } from "./source.ts";

/** Names of the classes in order, as the page and other readers show them. */
export const classNames = (count: number, known: readonly string[] | undefined): string[] =>
  Array.from({ length: count }, (_, i) => (known?.length === count ? known[i]! : `class ${i}`));

export interface Described {
  readonly source: Source;
  readonly what: NetworkPart;
  readonly precision: ExportOptions["precision"];
  readonly preprocess: boolean;
  readonly classes: readonly string[];
  /** Accuracies by what was measured, shares from 0 to 1. */
  readonly accuracies: Readonly<Record<string, number>>;
}

/** What runs of version 0.1.0 called the accuracies of their last batch. */
const formerNames: Readonly<Record<string, string>> = {
  accuracy: "trainAccuracy",
  robustAccuracy: "trainRobustAccuracy",
};

/** The last figures of a training, under names that say what they are of. */
const honest = (figures: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(figures).map(([name, value]) => [formerNames[name] ?? name, value]));

/** metadata_props of an exported file. */
export const metadataOf = (described: Described): Record<string, string> => {
  const { source, what, precision, preprocess, classes, accuracies } = described;
  const { config, checkpoint } = source.run;
  const { settings } = config;
  const text = (value: unknown): string[] => (value === undefined ? [] : [String(value)]);
  const { size, normalisation } = source.network;
  const preprocessing = preprocessingOf(preprocess, size);
  // The network's own normalisation is a part of the file: images come as pixels in [0, 1].
  const inside = normalisation === undefined ? {} : { normalisation: { inside: "(x - mean) / std", ...normalisation } };
  const trained = honest((checkpoint.state.metrics ?? {}) as Record<string, unknown>);
  const entries: [string, readonly string[]][] = [
    ["what", [what]],
    ["method", text(settings.method ?? settings.scheme)],
    ["command", [config.command]],
    ["dataset", text(settings.dataset)],
    ["classes", what === "classifier" ? [JSON.stringify(classes)] : []],
    ["branch", text(source.branch?.name)],
    ["batch_norm", ["folded into the convolutions, products in float64, rounded once to float32"]],
    ["preprocessing", [JSON.stringify({ ...preprocessing, ...inside })]],
    ["precision", [precision]],
    ["eps", text(settings.eps)],
    ["accuracies", Object.keys(accuracies).length > 0 ? [JSON.stringify(accuracies)] : []],
    ["metrics", Object.keys(trained).length > 0 ? [JSON.stringify(trained)] : []],
    ["versions", [JSON.stringify({ trained: config.versions, exported: versions() })]],
    ["commit", text(config.commit ?? undefined)],
    ["source", [`${source.folder} step ${checkpoint.step}`]],
  ];
  return Object.fromEntries(entries.flatMap(([key, [value]]) => (value === undefined ? [] : [[key, value]])));
};
