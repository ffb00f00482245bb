/** Settings as zod schemas, and what help and messages say of them. */
import { z } from "zod";

/** What is said of a setting besides its type, default and limits, which its schema has. */
export interface SettingMeta {
  /** One line for --help, without a full stop. */
  readonly help: string;
  /** Heading under which --help lists it (default: Settings). */
  readonly group?: string;
  /** Other spellings, in kebab-case. */
  readonly aliases?: readonly string[];
  /** May differ when a run is resumed. */
  readonly changeable?: boolean;
  /** Given several times as a flag, the lists are put together. */
  readonly repeatable?: boolean;
  /** May be lower when a run is resumed whose loss was not finite. */
  readonly lowers?: boolean;
  /** It names a file or folder. */
  readonly path?: boolean;
  /** Words of a command line that are no flags give it: one to a path, all that are left to a list. */
  readonly operand?: boolean;
  /** A distance between pixels, which lie in [0, 1]: a larger number is one of 0 to 255. */
  readonly ofPixels?: boolean;
  /** Names of a text that are known; plugins may bring others. */
  readonly names?: readonly string[];
  /** How the names of an enum are made up, for help and messages, where they are many. */
  readonly pattern?: string;
}

/** What is known of each setting's schema. */
const registry = z.registry<SettingMeta>();

/** A setting: what it takes, and one line of help. */
export const setting = <Schema extends z.ZodType>(
  schema: Schema,
  help: string,
  meta: Omit<SettingMeta, "help"> = {},
): Schema => {
  const own = schema.clone();
  registry.add(own as z.ZodType, { help, ...meta });
  return own;
};

/** A number, or `auto`, which leaves it to the machine. */
export const autoOr = <Schema extends z.ZodNumber>(schema: Schema): z.ZodUnion<[z.ZodEnum<{ auto: "auto" }>, Schema]> =>
  z.union([z.enum(["auto"]), schema]);

/** A path to a file or folder. */
export const path = (): z.ZodString => z.string().min(1);

export type SettingType =
  | "number"
  | "integer"
  | "numbers"
  | "integers"
  | "boolean"
  | "string"
  | "path"
  | "strings"
  | "enum";

/** A setting as help, messages and conversion from text need it. */
export interface SettingRow extends SettingMeta {
  readonly type: SettingType;
  /** The value where it is not given; undefined where there is none. */
  readonly default: unknown;
  /** It must be given. */
  readonly required: boolean;
  /** Least value allowed, or least value of each element. */
  readonly min: number | undefined;
  /** Greatest value allowed, or greatest value of each element. */
  readonly max: number | undefined;
  /** Names of an enum, or words that stand for a number; none of other types. */
  readonly values: readonly string[];
  readonly schema: z.ZodType;
}

/** Settings by key in camelCase; flags and files spell them in kebab-case. */
export type SettingRows = Readonly<Record<string, SettingRow>>;

/** The schema inside defaults and options, with the default if there is one. */
const unwrap = (schema: z.ZodType): { inner: z.ZodType; required: boolean; byDefault: () => unknown } => {
  let inner = schema;
  let required = true;
  let byDefault: () => unknown = () => undefined;
  for (;;) {
    if (inner instanceof z.ZodDefault) {
      const { def } = inner;
      byDefault = () => def.defaultValue;
    } else if (!(inner instanceof z.ZodOptional)) return { inner, required, byDefault };
    required = false;
    inner = inner.unwrap() as z.ZodType;
  }
};

/** A limit of numbers; undefined where it only says that whole numbers are exact. */
const limit = (value: number | null): number | undefined =>
  value === null || Math.abs(value) >= Number.MAX_SAFE_INTEGER ? undefined : value;

type Kind = Pick<SettingRow, "type" | "min" | "max" | "values">;

const kindOf = (schema: z.ZodType, { path: isPath, names }: Partial<SettingMeta>): Kind => {
  const plain = { min: undefined, max: undefined, values: [] };
  if (schema instanceof z.ZodNumber) {
    const type = schema.format === "safeint" ? "integer" : "number";
    return { ...plain, type, min: limit(schema.minValue), max: limit(schema.maxValue) };
  }
  if (schema instanceof z.ZodUnion) {
    const [word, number] = schema.options as [z.ZodEnum, z.ZodNumber];
    return { ...kindOf(number, {}), values: word.options.map(String) };
  }
  if (schema instanceof z.ZodBoolean) return { ...plain, type: "boolean" };
  if (schema instanceof z.ZodString && names !== undefined) return { ...plain, type: "enum", values: names };
  if (schema instanceof z.ZodString) return { ...plain, type: isPath ? "path" : "string" };
  if (schema instanceof z.ZodEnum) return { ...plain, type: "enum", values: schema.options.map(String) };
  if (schema instanceof z.ZodArray) {
    const { type, ...limits } = kindOf(schema.element as z.ZodType, {});
    if (type === "number" || type === "integer" || type === "string") return { ...limits, type: `${type}s` };
  }
  throw new Error(`internal: a setting can't be of the type ${schema.def.type}`);
};

/** What a schema made by `setting` says of itself. */
const rowOf = (key: string, schema: z.ZodType): SettingRow => {
  const meta = registry.get(schema);
  if (meta === undefined) throw new Error(`internal: the setting ${key} has no help`);
  const { inner, required, byDefault } = unwrap(schema);
  return {
    ...meta,
    ...kindOf(inner, meta),
    required,
    get default() {
      return byDefault();
    },
    schema,
  };
};

export const rowsOf = (shape: z.core.$ZodShape): SettingRows =>
  Object.fromEntries(Object.entries(shape).map(([key, schema]) => [key, rowOf(key, schema as z.ZodType)]));

export const isList = ({ type }: SettingRow): boolean =>
  type === "numbers" || type === "integers" || type === "strings";

const printRange = ({ min, max }: Pick<SettingRow, "min" | "max">, before = ""): string => {
  if (min === undefined && max === undefined) return "";
  if (max === undefined) return `${before} of at least ${min}`;
  return min === undefined ? `${before} of at most ${max}` : `${before} from ${min} to ${max}`;
};

/** `a, b or c`. */
export const printNames = (names: readonly string[]): string =>
  names.length === 1 ? names.join() : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;

/** What a setting takes, for help and messages: `a number from 0 to 1`. */
export const expectation = (row: SettingRow): string => {
  const expected: Readonly<Record<SettingType, string>> = {
    number: `a number${printRange(row)}`,
    integer: `a whole number${printRange(row)}`,
    numbers: `numbers separated by commas${printRange(row, ", each")}`,
    integers: `whole numbers separated by commas${printRange(row, ", each")}`,
    boolean: "true or false",
    string: "a text",
    path: "a path",
    strings: "texts separated by commas",
    enum: row.pattern ?? printNames(row.values),
  };
  const words = row.type === "enum" ? [] : row.values;
  return [...words, expected[row.type]].join(" or ");
};
