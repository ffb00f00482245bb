/** What a verb may be asked: its settings, presets and defaults that depend on others. */
import { z } from "zod";
import { commonSettings, outSetting } from "./fragments.ts";
import { type GivenSettings, pickSetting, readObject, resolveRows } from "./resolve.ts";
import { rowsOf, type SettingRows, setting } from "./schema.ts";

type Shape = Readonly<Record<string, z.ZodType>>;
type Common = typeof commonSettings & typeof outSetting;

/** A verb's settings with the common ones, of which it may have its own in place. */
type Whole<Own extends Shape> = Omit<Common, keyof Own> & Own;

/** Settings as a caller gives them: what has a default may be left out. */
export type Given<Own extends Shape> = Readonly<z.input<z.ZodObject<Whole<Own>>>> & { readonly preset?: string };

/** Settings as a verb receives them, each checked and with its default. */
export type Resolved<Own extends Shape> = Readonly<z.output<z.ZodObject<Whole<Own>>>>;

export interface SpecDefinition<Own extends Shape> {
  /** The verb's name, as run folders and messages call it. */
  readonly name: string;
  /** Its settings, besides the common ones. With a boolean `resume`, a resumed run's settings come from its config.yaml. */
  readonly settings: Own;
  /** It answers on stdout alone and has no --out (default false). */
  readonly writesNothing?: boolean;
  /** Named choices of settings. */
  readonly presets?: Readonly<Record<string, Partial<Resolved<Own>>>>;
  /** The run folder of a verb whose --out is another file (default: --out itself). */
  runFolder?(out: string): string;
  /** Defaults that depend on other settings: each stands where that setting was not given, in config.yaml too. */
  complete?(settings: Partial<Resolved<Own>>): Partial<Resolved<Own>> | Promise<Partial<Resolved<Own>>>;
}

export interface Spec<Own extends Shape = Shape> {
  readonly name: string;
  /** All settings, a preset's name first where there are presets. */
  readonly rows: SettingRows;
  readonly presets: Readonly<Record<string, object>>;
  runFolder(out: string): string;
  /**
   * All settings, from sources (strongest first), then the preset, then with `resume` the run's own, then the defaults.
   *
   * @param demand refuse where a required setting is missing (default true)
   * @throws RequestError naming the setting, the value given and what is expected
   */
  resolve(sources: readonly GivenSettings[], demand?: boolean): Promise<Resolved<Own>>;
  /** All sources in the order in which they count, those that `resolve` adds to the given ones included. */
  gather(sources: readonly GivenSettings[]): Promise<readonly GivenSettings[]>;
}

/** Where defaults that depend on other settings stand, for messages. */
export const followingDefaults = "the defaults that follow";

/** The settings of the run in a folder, where it is one of this verb. */
const readRun = async (
  name: string,
  rows: SettingRows,
  folder: string,
  override: boolean,
): Promise<GivenSettings | undefined> => {
  const { placeOf, readRunConfig } = await import("../runs/config.ts");
  const before = await readRunConfig(folder, override ? "override" : "resume");
  if (before?.command !== name) return undefined;
  const known = Object.keys(before.settings)
    .filter((key) => Object.hasOwn(rows, key))
    .map((key) => [key, rows[key]?.type === "path" ? placeOf(before, key) : before.settings[key]] as const);
  return readObject(name, rows, Object.fromEntries(known), `${folder}/config.yaml`);
};

export const defineSpec = <const Own extends Shape>(definition: SpecDefinition<Own>): Spec<Own> => {
  const { name, presets = {}, complete, runFolder = (out: string) => out } = definition;
  const presetNames = Object.keys(presets);
  const preset =
    presetNames.length === 0
      ? {}
      : { preset: setting(z.enum(presetNames).optional(), "named choice of settings; flags and files win") };
  const rows = rowsOf({
    ...preset,
    ...commonSettings,
    ...(definition.writesNothing ? {} : outSetting),
    ...definition.settings,
  });
  const gather: Spec<Own>["gather"] = async (given) => {
    const sources = [...given];
    const chosen = pickSetting(rows, "preset", sources);
    if (typeof chosen === "string") sources.push(readObject(name, rows, presets[chosen] ?? {}, `preset ${chosen}`));
    const out = pickSetting(rows, "out", sources);
    if (typeof out === "string" && pickSetting(rows, "resume", sources) === true) {
      const override = pickSetting(rows, "override", sources) === true;
      const before = await readRun(name, rows, runFolder(out), override);
      if (before !== undefined) sources.push(before);
    }
    if (complete !== undefined) {
      const settings = resolveRows(rows, sources, false) as Partial<Resolved<Own>>;
      sources.push(readObject(name, rows, await complete(settings), followingDefaults));
    }
    return sources;
  };
  const resolve: Spec<Own>["resolve"] = async (given, demand = true) =>
    resolveRows(rows, await gather(given), demand) as Resolved<Own>;
  return { name, rows, presets, runFolder, resolve, gather };
};
