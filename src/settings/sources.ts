/** Settings as YAML, each with where it comes from. */
import { Document, isScalar, isSeq, Scalar } from "yaml";
import { kebabCase, printSetting, type SettingValue } from "./name.ts";
import type { GivenSettings } from "./resolve.ts";
import { followingDefaults } from "./spec.ts";

/** Where a setting comes from: a flag, a file, a preset, or a default. */
const sourceOf = (key: string, sources: readonly GivenSettings[]): string => {
  const label = sources.map((source) => source.get(key)?.label).find((found) => found !== undefined);
  if (label === undefined) return "default";
  const [, place] = / in (.*)$/.exec(label) ?? [];
  return place === followingDefaults ? "default that follows from other settings" : (place ?? label);
};

/**
 * Settings as a file for --config, a comment on each line saying where its value comes from.
 *
 * @param sources as `spec.gather` gives them
 */
export const printSources = (
  settings: Readonly<Record<string, SettingValue>>,
  sources: readonly GivenSettings[],
): string => {
  // Radii stand as people write them, 8/255; a file may hold them so.
  const written = (value: SettingValue) => {
    const text = typeof value === "number" ? printSetting(value) : "";
    return text.includes("/") ? text : (value ?? null);
  };
  const named = Object.fromEntries(Object.entries(settings).map(([key, value]) => [kebabCase(key), written(value)]));
  const document = new Document(named);
  for (const key of Object.keys(settings)) {
    const node = document.get(kebabCase(key), true);
    const comment = ` ${sourceOf(key, sources)}`;
    if (isSeq(node)) node.flow = true;
    if (isSeq(node) || isScalar(node)) node.comment = comment;
    else document.set(kebabCase(key), Object.assign(new Scalar(node), { comment }));
  }
  return document.toString({ lineWidth: 0, flowCollectionPadding: false });
};
