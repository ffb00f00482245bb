/** Settings from flags, files and code: read, converted, checked, and put together with their defaults. */
import { closest, distance } from "fastest-levenshtein";
import { RequestError } from "../errors.ts";
import { camelCase, kebabCase, type SettingValue } from "./name.ts";
import { expectation, type SettingRow, type SettingRows } from "./schema.ts";

/** Settings as one source gives them, by key, not yet checked; the label is how messages name them. */
export type GivenSettings = ReadonlyMap<string, { readonly value: unknown; readonly label: string }>;

const decimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** A number or a fraction of two (`8/255`); undefined where the text is neither. */
export const parseNumber = (text: string): number | undefined => {
  const parts = text.trim().split("/");
  if (parts.length > 2 || !parts.every((part) => decimal.test(part.trim()))) return undefined;
  const [numerator, denominator = 1] = parts.map(Number) as [number, number?];
  const value = numerator / denominator;
  return Number.isFinite(value) ? value : undefined;
};

const toNumber = (value: unknown): number | undefined =>
  typeof value === "number" ? value : typeof value === "string" ? parseNumber(value) : undefined;

const toText = (value: unknown): string | undefined =>
  typeof value === "string" ? value : typeof value === "number" ? String(value) : undefined;

const toBoolean = (value: unknown): boolean | undefined => {
  if (value === true || value === "true") return true;
  return value === false || value === "false" ? false : undefined;
};

const toList = (value: unknown, element: (item: unknown) => unknown): readonly unknown[] | undefined => {
  const items = Array.isArray(value)
    ? value
    : typeof value === "string"
      ? value.split(",").map((item) => item.trim())
      : [value];
  if (!Array.isArray(value) && items.length === 1 && (items[0] === "" || items[0] === "none")) return [];
  const elements = items.map(element);
  return elements.every((item) => item !== undefined) ? elements : undefined;
};

/** What a row makes of a value as users write it; undefined where it cannot. */
const convert = ({ type, values }: SettingRow, value: unknown): unknown => {
  if (values.includes(String(value))) return String(value);
  switch (type) {
    case "number":
    case "integer":
      return toNumber(value);
    case "numbers":
    case "integers":
      return toList(value, toNumber);
    case "boolean":
      return toBoolean(value);
    case "strings":
      return toList(value, (item) => toText(item) || undefined);
    case "enum":
      return String(value);
    default:
      return toText(value);
  }
};

/** The known name that is near enough to be meant. */
export const nearestName = (name: string, known: readonly string[]): string | undefined => {
  if (known.length === 0) return undefined;
  const nearest = closest(name, known);
  const limit = name.length <= 3 ? 1 : Math.max(2, Math.floor(name.length / 3));
  return distance(name, nearest) <= limit ? nearest : undefined;
};

const describe = (value: unknown): string =>
  typeof value === "string" ? JSON.stringify(value) : (JSON.stringify(value) ?? String(value));

/** Key of a setting by any of its spellings. */
export const keyOf = (rows: SettingRows, name: string): string | undefined => {
  const key = camelCase(name);
  if (Object.hasOwn(rows, key)) return key;
  const spelled = kebabCase(key);
  return Object.entries(rows).find(([, row]) => row.aliases?.includes(spelled))?.[0];
};

/** The value of one setting, checked; undefined only where null was given to a setting that may be left out. */
const check = (row: SettingRow, value: unknown, label: string): SettingValue => {
  if (value === null && row.default === undefined && !row.required) return undefined;
  const converted = convert(row, value);
  const { success, data } = converted === undefined ? { success: false } : row.schema.safeParse(converted);
  if (success) return data as SettingValue;
  if (row.ofPixels && typeof converted === "number" && converted > 1)
    throw new RequestError(
      `${label} is ${describe(value)} but pixels lie in [0, 1], and it must be ${expectation(row)}; did you mean ${converted}/255?`,
    );
  const nearest = row.type === "enum" ? nearestName(String(value), row.values) : undefined;
  const remedy = nearest === undefined ? "" : `; did you mean ${nearest}?`;
  throw new RequestError(`${label} is ${describe(value)} but must be ${expectation(row)}${remedy}`);
};

/** The refusal of a setting that a command does not have, with the one that may be meant. `where` says who has it. */
export const unknownSetting = (command: string, known: readonly string[], name: string, where: string, dashes = "") => {
  const nearest = nearestName(kebabCase(name), known);
  const remedy = nearest === undefined ? `see advcl ${command} --help` : `did you mean ${dashes}${nearest}?`;
  return new RequestError(`${where}; ${remedy}`);
};

/**
 * What an object of settings gives, by key, in any spelling; undefined values are left out.
 *
 * @param place where it stands, for messages; empty for an object of the caller's own
 * @throws RequestError where the command has no such setting
 */
export const readObject = (command: string, rows: SettingRows, content: object, place: string): GivenSettings => {
  const given = new Map<string, { value: unknown; label: string }>();
  for (const [name, value] of Object.entries(content)) {
    const key = keyOf(rows, name);
    if (key === undefined) {
      const where =
        place === ""
          ? `advcl ${command} has no setting ${name}`
          : `${place} has the setting ${name}, which advcl ${command} does not have`;
      throw unknownSetting(command, Object.keys(rows).map(kebabCase), name, where);
    }
    if (value !== undefined) given.set(key, { value, label: place === "" ? name : `${name} in ${place}` });
  }
  return given;
};

/** One setting from the strongest source that gives it, checked; undefined where none does. */
export const pickSetting = (rows: SettingRows, key: string, sources: readonly GivenSettings[]): SettingValue => {
  const given = sources.map((source) => source.get(key)).find((value) => value !== undefined);
  const row = rows[key];
  return row === undefined || given === undefined ? undefined : check(row, given.value, given.label);
};

/**
 * All settings of rows, checked: each from the first source that gives it, otherwise its default.
 *
 * @param sources strongest first: flags, file, preset
 * @param demand refuse where a required setting is missing
 * @throws RequestError naming the setting, the value given and what is expected
 */
export const resolveRows = (
  rows: SettingRows,
  sources: readonly GivenSettings[],
  demand = true,
): Readonly<Record<string, SettingValue>> => {
  const settings: Record<string, SettingValue> = {};
  // Every source is checked, so that a fault in a file does not hide behind a flag.
  for (const source of [...sources].reverse())
    for (const [key, { value, label }] of source) {
      const row = rows[key];
      if (row !== undefined) settings[key] = check(row, value, label);
    }
  const resolved = Object.entries(rows).map(([key, row]) => {
    const value = settings[key] ?? (row.default as SettingValue);
    if (value === undefined && row.required && demand)
      throw new RequestError(`--${kebabCase(key)} is missing: give ${expectation(row)} (${row.help})`);
    return [key, value];
  });
  return Object.fromEntries(resolved);
};
