/** Whether a run may go on: with which settings it was begun, which it is given now, and what may differ. */
import { resolve } from "node:path";
import { RequestError } from "../errors.ts";
import { kebabCase, printSetting, type SettingValue } from "../settings/name.ts";
import type { Json } from "./checkpoint.ts";
import { type Basis, type Change, type PluginFile, pathsOf, type RunConfig } from "./config.ts";

type Settings = Readonly<Record<string, SettingValue>>;

export interface ResumeRules {
  readonly command: string;
  readonly settings: Settings;
  /** What settings are where they are not given: a run of before they were there went by these. */
  readonly defaults?: Settings;
  /** Keys of settings that may differ when the run is resumed: threads, provider, workers. */
  readonly changeable?: readonly string[];
  /** Keys of settings that may be lower once a loss was not finite: learning rates. */
  readonly lowers?: readonly string[];
  /** Keys of settings that name files or folders. */
  readonly paths?: readonly string[];
  /** What the run stands on besides. */
  readonly basis?: Basis;
  /** Any setting may differ, and config.yaml is taken as it is; left out where a user cannot say so. */
  readonly override?: boolean;
  /** Takes what differs by the user's word, a sentence without a full stop. */
  readonly warn: (message: string) => void;
  /** Takes what differs and may. */
  readonly log?: (message: string) => void;
}

const text = (value: SettingValue | Json): string => JSON.stringify(value ?? null);

const describe = ({ setting, was, is }: Change): string =>
  `${kebabCase(setting)} was ${printSetting(was)} and is now ${printSetting(is)}`;

/** Settings that make a run what it is, wherever and on whatever machine it goes on: what a checkpoint keeps. */
export const fixedSettings = (
  settings: Settings,
  { changeable = [], paths = [] }: Pick<ResumeRules, "changeable" | "paths">,
): Record<string, Json> =>
  Object.fromEntries(
    Object.entries(settings)
      .filter(([key]) => !changeable.includes(key) && !paths.includes(key))
      .map(([key, value]) => [key, (value ?? null) as Json]),
  );

/** What config.yaml says otherwise than the checkpoint that it continues, but for changes that it tells of. */
const tampered = (
  { settings, changes = [] }: RunConfig,
  kept: Readonly<Record<string, Json>>,
  step: number,
): Change[] => {
  const differing = (now: Settings) => Object.keys(kept).filter((key) => text(kept[key]) !== text(now[key]));
  let now = settings;
  if (differing(now).length === 0) return [];
  for (const { setting, was } of [...changes].reverse()) {
    now = { ...now, [setting]: was };
    if (differing(now).length === 0) return [];
  }
  return differing(settings).map((setting) => ({
    step,
    setting,
    was: (kept[setting] ?? undefined) as SettingValue,
    is: settings[setting],
  }));
};

/** Settings that differ from those of config.yaml. */
const differences = (before: RunConfig, { settings, defaults = {}, paths = [] }: ResumeRules, step: number | null) => {
  const keys = new Set([...Object.keys(before.settings), ...Object.keys(settings)]);
  const same = (key: string, was: SettingValue, is: SettingValue) =>
    text(was) === text(is) || (paths.includes(key) && typeof is === "string" && resolve(is) === before.paths?.[key]);
  return [...keys].flatMap((setting): Change[] => {
    const was = Object.hasOwn(before.settings, setting) ? before.settings[setting] : defaults[setting];
    const is = settings[setting];
    return same(setting, was, is) ? [] : [{ step, setting, was, is }];
  });
};

/** Refuses plugins that are not those that the run began with, wherever they lie now. */
const checkPlugins = (
  folder: string,
  before: readonly PluginFile[],
  now: readonly PluginFile[],
  override: boolean,
  step: number | null,
): Change[] => {
  const digests = (files: readonly PluginFile[]) => files.map(({ sha256 }) => sha256);
  if (text(digests(before)) === text(digests(now))) return [];
  const names = (files: readonly PluginFile[]) =>
    files.length === 0
      ? "none"
      : files.map(({ file, sha256 }) => `${file} (sha256 ${sha256.slice(0, 12)}…)`).join(", ");
  if (!override)
    throw new RequestError(
      `cannot resume ${folder}: its plugins were ${names(before)} and are now ${names(now)}; give those that the run began with by --plugin, or go on with these by --override`,
    );
  return [{ step, setting: "plugins", was: [...digests(before)], is: [...digests(now)] }];
};

const checkBasis = (folder: string, before: RunConfig, rules: ResumeRules, step: number | null): Change[] => {
  const { basis: { images, stepsPerEpoch, plugins = [] } = {}, override = false, settings } = rules;
  const changes: Change[] = checkPlugins(folder, before.plugins ?? [], plugins, override, step);
  if (before.images !== undefined && images !== undefined && before.images !== images) {
    const where = typeof settings.data === "string" ? ` of ${settings.data}` : "";
    if (!override)
      throw new RequestError(
        `cannot resume ${folder}: the images${where} are not those that the run began with; give these by --data, or go on with others by --override`,
      );
    changes.push({ step, setting: "images", was: before.images, is: images });
  }
  if (before.stepsPerEpoch !== undefined && stepsPerEpoch !== undefined && before.stepsPerEpoch !== stepsPerEpoch)
    throw new RequestError(
      `cannot resume ${folder}: an epoch had ${before.stepsPerEpoch} steps and would now have ${stepsPerEpoch}, which --override does not change; give the batch and images that the run began with or choose another folder`,
    );
  return changes;
};

/** A checkpoint to go on from, as far as it tells whether config.yaml is its own. */
export interface Kept {
  readonly step: number;
  readonly settings?: Readonly<Record<string, Json>> | undefined;
}

/**
 * Compares a run with what it is to go on as, and says what differs.
 *
 * @param diverged whether the run ended at a loss that is not finite
 * @returns the config to go on with, which tells of all that was changed
 * @throws RequestError naming each setting that may not differ
 */
export const reconcile = (
  folder: string,
  before: RunConfig,
  rules: ResumeRules,
  kept: Kept | undefined,
  diverged: boolean,
): RunConfig => {
  const { command, settings, changeable = [], lowers = [], paths = [], basis = {}, override = false } = rules;
  if (before.command !== command)
    throw new RequestError(
      `cannot resume ${folder}: it holds a run of ${before.command}, not of ${command}; choose another folder`,
    );
  const step = kept?.step ?? null;
  const byHand = kept?.settings === undefined ? [] : tampered(before, kept.settings, kept.step);
  if (byHand.length > 0 && !override)
    throw new RequestError(
      `cannot resume ${folder}: config.yaml is not that of its checkpoint ${step} (${byHand.map(describe).join(", ")}); restore it, or go on with it as it is by --override`,
    );
  const changed = differences(before, rules, step);
  const lower = ({ setting, was, is }: Change) =>
    diverged && lowers.includes(setting) && typeof was === "number" && typeof is === "number" && is < was;
  const allowed = (change: Change) => changeable.includes(change.setting) || lower(change);
  const refused = changed.filter((change) => !allowed(change));
  if (refused.length > 0 && !override)
    throw new RequestError(
      `cannot resume ${folder}: ${refused.map(describe).join(", ")}; give the settings that the run began with${rules.override === undefined ? "" : ", go on with these by --override,"} or choose another folder`,
    );
  const changes = [...byHand, ...changed, ...checkBasis(folder, before, rules, step)];
  const forced = changes.filter((change) => !allowed(change) || byHand.includes(change));
  const recorded = "; config.yaml tells of it";
  if (forced.length > 0) rules.warn(`--override: ${forced.map(describe).join(", ")}${recorded}`);
  const free = changed.filter(allowed);
  if (free.length > 0) rules.log?.(`${free.map(describe).join(", ")}${recorded}`);
  const differs = new Set(changed.map(({ setting }) => setting));
  // A path that means the same place stays as it was given.
  const now = Object.fromEntries(
    Object.keys(settings).map((key) => [
      key,
      paths.includes(key) && !differs.has(key) ? before.settings[key] : settings[key],
    ]),
  );
  return {
    ...before,
    ...(basis.images !== undefined && { images: basis.images }),
    ...(basis.stepsPerEpoch !== undefined && { stepsPerEpoch: basis.stepsPerEpoch }),
    ...(basis.plugins !== undefined && { plugins: basis.plugins }),
    settings: now,
    paths: {
      ...before.paths,
      ...pathsOf(
        settings,
        [...paths].filter((key) => differs.has(key)),
      ),
    },
    changes: [...(before.changes ?? []), ...changes],
  };
};
