/** `config.yaml` of a run folder: what the run was asked, sealed, with what was changed on the way. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { parse, stringify } from "yaml";
import { z } from "zod";
import { RequestError } from "../errors.ts";
import { readTextIfThere } from "../files/if-there.ts";
import { checkSeal, digestOf } from "../files/seal.ts";
import { camelCase, kebabCase, type SettingValue } from "../settings/name.ts";

/** A setting, or the images, that a resumed run went on with in another form. */
export interface Change {
  /** Steps that were done by then; null where no checkpoint was written yet. */
  readonly step: number | null;
  /** Its key, or `images`. */
  readonly setting: string;
  readonly was: SettingValue;
  readonly is: SettingValue;
}

/** A plugin that a run uses: its path as it was given, and what it was. */
export interface PluginFile {
  readonly file: string;
  /** SHA-256 of the file. */
  readonly sha256: string;
}

/** What a run was begun with besides its settings, which a resumed one must find again. */
export interface Basis {
  /** Fingerprint of its images (`datasetFingerprint`). */
  readonly images?: string | undefined;
  readonly stepsPerEpoch?: number | undefined;
  /** Files of code that it takes parts from. */
  readonly plugins?: readonly PluginFile[] | undefined;
}

export interface RunConfig extends Basis {
  readonly command: string;
  /** All resolved settings by key (`attackSteps`), the seed among them; in the file they are spelled as flags are. */
  readonly settings: Readonly<Record<string, SettingValue>>;
  /** Where files and folders among the settings lay, absolute, by key: for commands from another working folder. */
  readonly paths?: Readonly<Record<string, string>>;
  /** How its graphs are lowered, by name, where that was left to the machine: it rounds in its own way. */
  readonly target?: string | undefined;
  readonly versions: Readonly<Record<string, string>>;
  /** Git commit of this package, `-dirty` where it was changed; null where unknown. */
  readonly commit: string | null;
  /** What resumed runs changed, in order. */
  readonly changes?: readonly Change[];
}

export const configFile = "config.yaml";

const valueSchema = z
  .union([z.string(), z.number(), z.boolean(), z.array(z.number()), z.array(z.string())])
  .nullable()
  .transform((value): SettingValue => value ?? undefined);
const configSchema = z.object({
  command: z.string(),
  settings: z.record(z.string(), valueSchema),
  paths: z.record(z.string(), z.string()).optional(),
  images: z.string().optional(),
  stepsPerEpoch: z.int().positive().optional(),
  plugins: z.array(z.object({ file: z.string(), sha256: z.string() })).optional(),
  target: z.string().optional(),
  versions: z.record(z.string(), z.string()),
  commit: z.string().nullable(),
  changes: z
    .array(z.object({ step: z.number().nullable(), setting: z.string(), was: valueSchema, is: valueSchema }))
    .optional(),
});

const kebabKeys = <T>(record: Readonly<Record<string, T>>): Record<string, T | null> =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [kebabCase(key), value ?? null]));
const camelKeys = <T>(record: Readonly<Record<string, T>>): Record<string, T> =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [camelCase(name), value]));

/** The file, its seal last. */
export const encodeConfig = (config: RunConfig): string => {
  const {
    command,
    settings,
    paths = {},
    images,
    stepsPerEpoch,
    plugins = [],
    target,
    versions,
    commit,
    changes = [],
  } = config;
  const text = stringify({
    command,
    settings: kebabKeys(settings),
    ...(Object.keys(paths).length > 0 && { paths: kebabKeys(paths) }),
    ...(images !== undefined && { images }),
    ...(stepsPerEpoch !== undefined && { stepsPerEpoch }),
    ...(plugins.length > 0 && { plugins: plugins.map(({ file, sha256 }) => ({ file, sha256 })) }),
    ...(target !== undefined && { target }),
    versions,
    commit,
    ...(changes.length > 0 && {
      changes: changes.map(({ step, setting, was, is }) => ({
        step,
        setting: kebabCase(setting),
        was: was ?? null,
        is: is ?? null,
      })),
    }),
  });
  return `${text}sha256: ${digestOf(parse(text))}\n`;
};

/** How far a config.yaml is trusted: as the base of other work, to be gone on with, or as it is by the user's word. */
export type Trust = "base" | "resume" | "override";

const decodeConfig = (text: string, path: string, trust: Trust): RunConfig => {
  let content: unknown;
  try {
    content = parse(text, { logLevel: "error" }); // no warnings of the parser's own on stderr
  } catch {
    content = undefined;
  }
  const checked = checkSeal(content);
  const { success, data } = configSchema.safeParse(checked?.content);
  if (!success || checked === undefined)
    throw new RequestError(`${path} is not the config.yaml of a run; restore it or choose another folder`);
  const remedy = "restore it, or go on with it as it is by --resume --override";
  if (checked.seal === "broken" && trust !== "override")
    throw new RequestError(`${path} was changed after the run wrote it (its sha256 is another's); ${remedy}`);
  if (checked.seal === "missing" && trust === "resume")
    throw new RequestError(`${path} carries no sha256, by which a change of it would be seen; ${remedy}`);
  const { paths, images, stepsPerEpoch, plugins, target, changes, ...rest } = data;
  return {
    ...rest,
    settings: camelKeys(data.settings),
    ...(paths && { paths: camelKeys(paths) }),
    ...(images !== undefined && { images }),
    ...(stepsPerEpoch !== undefined && { stepsPerEpoch }),
    ...(plugins && { plugins }),
    ...(target !== undefined && { target }),
    ...(changes && { changes: changes.map((change) => ({ ...change, setting: camelCase(change.setting) })) }),
  };
};

/**
 * The config of a run folder, without taking its lock.
 *
 * @returns undefined where the folder is missing or holds no config.yaml
 * @throws RequestError where config.yaml is damaged, or was changed since it was written
 */
export const readRunConfig = async (folder: string, trust: Trust = "base"): Promise<RunConfig | undefined> => {
  const path = join(folder, configFile);
  const text = await readTextIfThere(path);
  return text === undefined ? undefined : decodeConfig(text, path, trust);
};

/** Absolute paths of those settings that name something that is there. */
export const pathsOf = (
  settings: Readonly<Record<string, SettingValue>>,
  keys: readonly string[],
): Record<string, string> =>
  Object.fromEntries(
    keys.flatMap((key) => {
      const value = settings[key];
      return typeof value === "string" && existsSync(value) ? [[key, resolve(value)]] : [];
    }),
  );

/** A setting that names a file or folder, as it can be opened from here: where it lay, else as it was given. */
export const placeOf = ({ settings, paths = {} }: RunConfig, key: string): SettingValue => {
  const absolute = Object.hasOwn(paths, key) ? paths[key] : undefined;
  const given = settings[key];
  if (absolute === undefined || (typeof given === "string" && resolve(given) === absolute)) return given;
  return existsSync(absolute) ? absolute : given;
};
