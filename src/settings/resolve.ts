import { closest, distance } from "fastest-levenshtein";
import { RequestError } from "../errors.ts";
import { camelCase, kebabCase, type SettingValue } from "./name.ts";

interface RowOf<Kind extends string, Value> {
  readonly type: Kind;
  /** Value where the setting is not given; a function where it depends on the machine. Without it the setting may be undefined. */
  readonly default?: Value | (() => Value);
  /** The setting must be given. */
  readonly required?: boolean;
  /** One line for --help, without a full stop. */
  readonly help: string;
  /** Heading under which --help lists it (default: Settings). */
  readonly group?: string;
  /** Other spellings, in kebab-case. */
  readonly aliases?: readonly string[];
  /** May differ when a run is resumed. */
  readonly changeable?: boolean;
}

interface Range {
  /** Least value allowed, or least value of each element. */
  readonly min?: number;
  /** Greatest value allowed, or greatest value of each element. */
  readonly max?: number;
}

/** A setting: its type, default, help and limits. Fractions such as `8/255` are numbers. */
export type SettingRow =
  | (RowOf<"number", number> & Range)
  | (RowOf<"integer", number> & Range)
  | (RowOf<"numbers", readonly number[]> & Range)
  | (RowOf<"integers", readonly number[]> & Range)
  | RowOf<"boolean", boolean>
  | RowOf<"string", string>
  | RowOf<"path", string>
  | RowOf<"strings", readonly string[]>
  | (RowOf<"enum", string> & {
      readonly values: readonly string[];
      /** How they are made up, for help and messages, where they are many. */
      readonly pattern?: string;
    });

/** Settings by key in camelCase; flags and files spell them in kebab-case. */
export type SettingRows = Readonly<Record<string, SettingRow>>;

interface ValueOf {
  number: number;
  integer: number;
  numbers: readonly number[];
  integers: readonly number[];
  boolean: boolean;
  string: string;
  path: string;
  strings: readonly string[];
}

type RowValue<Row extends SettingRow> = Row extends { type: "enum"; values: readonly (infer Value)[] }
  ? Value
  : Row["type"] extends keyof ValueOf
    ? ValueOf[Row["type"]]
    : never;

type IsGiven<Row> = Row extends { required: true } | { default: unknown } ? true : false;

/** The type of the settings that rows resolve to. */
export type SettingsOf<Rows extends SettingRows> = {
  readonly [Key in keyof Rows]: IsGiven<Rows[Key]> extends true ? RowValue<Rows[Key]> : RowValue<Rows[Key]> | undefined;
};

/** Settings as given by one source, by key, not yet checked. */
export type GivenSettings = ReadonlyMap<string, { readonly value: unknown; readonly label: string }>;

export const isList = ({ type }: SettingRow): boolean =>
  type === "numbers" || type === "integers" || type === "strings";

const printRange = ({ min, max }: Range, before = ""): string => {
  if (min === undefined && max === undefined) return "";
  if (max === undefined) return `${before} of at least ${min}`;
  return min === undefined ? `${before} of at most ${max}` : `${before} from ${min} to ${max}`;
};

/** What a setting takes, for help and messages: `a number from 0 to 1`. */
export const expectation = (row: SettingRow): string => {
  switch (row.type) {
    case "number":
      return `a number${printRange(row)}`;
    case "integer":
      return `a whole number${printRange(row)}`;
    case "numbers":
      return `numbers separated by commas${printRange(row, ", each")}`;
    case "integers":
      return `whole numbers separated by commas${printRange(row, ", each")}`;
    case "boolean":
      return "true or false";
    case "string":
      return "a text";
    case "path":
      return "a path";
    case "strings":
      return "texts separated by commas";
    case "enum":
      if (row.pattern !== undefined) return row.pattern;
      return row.values.length === 1 ? row.values[0]! : `${row.values.slice(0, -1).join(", ")} or ${row.values.at(-1)}`;
  }
};

const decimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** A number or a fraction of two (`8/255`); undefined where the text is neither. */
export const parseNumber = (text: string): number | undefined => {
  const parts = text.trim().split("/");
  if (parts.length > 2 || !parts.every((part) => decimal.test(part.trim()))) return undefined;
  const [numerator, denominator = 1] = parts.map(Number) as [number, number?];
  const value = numerator / denominator;
  return Number.isFinite(value) ? value : undefined;
};

const toNumber = (value: unknown, { type, min, max }: Range & { readonly type: string }): number | undefined => {
  const number = typeof value === "number" ? value : typeof value === "string" ? parseNumber(value) : undefined;
  if (number === undefined || !Number.isFinite(number)) return undefined;
  if (type.startsWith("integer") && !Number.isSafeInteger(number)) return undefined;
  if ((min !== undefined && number < min) || (max !== undefined && number > max)) return undefined;
  return number;
};

const toList = <T>(value: unknown, element: (item: unknown) => T | undefined): readonly T[] | undefined => {
  const items = Array.isArray(value)
    ? value
    : typeof value === "string"
      ? value.split(",").map((item) => item.trim())
      : [value];
  if (!Array.isArray(value) && items.length === 1 && items[0] === "") return [];
  const elements = items.map(element);
  return elements.every((item) => item !== undefined) ? elements : undefined;
};

const toText = (value: unknown): string | undefined =>
  typeof value === "string" ? value : typeof value === "number" ? String(value) : undefined;

/** The value that a row makes of what was given; undefined where it cannot. */
const convert = (row: SettingRow, value: unknown): SettingValue => {
  switch (row.type) {
    case "number":
    case "integer":
      return toNumber(value, row);
    case "numbers":
    case "integers":
      return toList(value, (item) => toNumber(item, row));
    case "boolean":
      return value === true || value === "true" ? true : value === false || value === "false" ? false : undefined;
    case "string":
      return toText(value);
    case "path":
      return value === "" ? undefined : toText(value);
    case "strings":
      return toList(value, (item) => toText(item) || undefined);
    case "enum":
      return row.values.find((name) => name === String(value));
  }
};

/** The known name that is near enough to be meant. */
export const nearestName = (name: string, known: readonly string[]): string | undefined => {
  if (known.length === 0) return undefined;
  const nearest = closest(name, known);
  const most = name.length <= 3 ? 1 : Math.max(2, Math.floor(name.length / 3));
  return distance(name, nearest) <= most ? nearest : undefined;
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
  if (converted !== undefined) return converted;
  const nearest = row.type === "enum" ? nearestName(String(value), row.values) : undefined;
  const remedy = nearest === undefined ? "" : `; did you mean ${nearest}?`;
  throw new RequestError(`${label} is ${describe(value)} but must be ${expectation(row)}${remedy}`);
};

/**
 * All settings of a command, checked: each from the first source that gives it, otherwise its default.
 *
 * @param sources strongest first: flags, file, preset
 * @param demand refuse where a required setting is missing
 * @throws RequestError naming the setting, the value given and what is expected
 */
export const resolveSettings = <Rows extends SettingRows>(
  rows: Rows,
  sources: readonly GivenSettings[],
  demand = true,
): SettingsOf<Rows> => {
  const settings: Record<string, SettingValue> = {};
  // Every source is checked, so that a fault in a file does not hide behind a flag.
  for (const source of [...sources].reverse())
    for (const [key, { value, label }] of source) settings[key] = check(rows[key]!, value, label);
  const resolved = Object.entries(rows).map(([key, row]) => {
    const value = settings[key] ?? (typeof row.default === "function" ? row.default() : row.default);
    if (value === undefined && row.required && demand)
      throw new RequestError(`--${kebabCase(key)} is missing: give ${expectation(row)} (${row.help})`);
    return [key, value];
  });
  return Object.fromEntries(resolved) as SettingsOf<Rows>;
};
