/** The text of --help. */
import wrapAnsi from "wrap-ansi";
import { kebabCase, printFlags, printSetting, type SettingValue } from "../settings/name.ts";
import { expectation, isList, type SettingRow, type SettingRows, type SettingType } from "../settings/schema.ts";

const printDefault = ({ required, default: value }: SettingRow): string => {
  if (required) return "required";
  return value === undefined || value === false ? "" : `default ${printSetting(value as SettingValue)}`;
};

const placeholders: Readonly<Record<SettingType, string>> = {
  number: "X",
  integer: "N",
  numbers: "X,…",
  integers: "N,…",
  strings: "NAME,…",
  string: "TEXT",
  path: "PATH",
  enum: "",
  boolean: "",
};

const wrap = (text: string, width: number): string[] => wrapAnsi(text, width).split("\n");

type Columns = readonly (readonly [string, string])[];

/** Width of the left column, its margins included. */
const leftOf = (rows: Columns): number => Math.min(28, Math.max(...rows.map(([name]) => name.length))) + 4;

/** Two columns; what does not fit beside the left one stands below it. */
export const printColumns = (rows: Columns, width: number, left = leftOf(rows)): string => {
  const lines = rows.flatMap(([name, text]) => {
    const [first = "", ...rest] = wrap(text, Math.max(30, width - left)).map((line) => " ".repeat(left) + line);
    const label = `  ${name}`;
    return label.length + 2 <= left ? [label.padEnd(left) + first.trimStart(), ...rest] : [label, first, ...rest];
  });
  return lines.join("\n");
};

/** A setting as --help lists it: its flag, and what is to be known of it. */
const printRow = (key: string, row: SettingRow, width: number): readonly [string, string] => {
  const name = kebabCase(key);
  const negatable = row.type === "boolean" && row.default === true;
  const choices = row.pattern ?? [...row.values, ...(row.type === "enum" ? [] : [placeholders[row.type]])].join("|");
  const many = row.type === "enum" && choices.length > width / 2; // they stand in the text then
  const flag = negatable ? `--no-${name}` : `--${name} ${many ? "NAME" : choices}`.trimEnd();
  const also = row.aliases?.length ? [`also ${row.aliases.map((alias) => `--${alias}`).join(", ")}`] : [];
  const notes = [many ? expectation(row) : "", negatable ? "" : printDefault(row), ...also].filter(
    (note) => note !== "",
  );
  return [flag, `${negatable ? "without: " : ""}${row.help}${notes.length === 0 ? "" : ` (${notes.join("; ")})`}`];
};

/** A preset as the flags that one can type in its place. */
const printPreset = (values: object): string => printFlags(values).join(" ") || "the defaults";

export interface HelpText {
  readonly name: string;
  readonly summary: string;
  readonly description?: string | undefined;
  readonly rows: SettingRows;
  readonly presets: Readonly<Record<string, object>>;
}

/** Text of --help, `width` columns wide. */
export const printHelp = ({ name, summary, description, rows, presets }: HelpText, width: number): string => {
  const groups = new Map<string, (readonly [string, string])[]>();
  const isCommon = ([, { group }]: readonly [string, SettingRow]) => group === "Common settings";
  const all = Object.entries(rows);
  for (const [key, row] of [...all.filter((entry) => !isCommon(entry)), ...all.filter(isCommon)]) {
    const group = row.group ?? "Settings";
    groups.set(group, [...(groups.get(group) ?? []), printRow(key, row, width)]);
  }
  const left = leftOf([...groups.values()].flat());
  const sections = [...groups].map(([title, lines]) => `${title}:\n${printColumns(lines, width, left)}`);
  const named = Object.entries(presets).map(([preset, values]) => [preset, printPreset(values)] as const);
  if (named.length > 0) sections.push(`Presets:\n${printColumns(named, width, left)}`);
  const about = description === undefined ? [] : [wrap(description, width).join("\n")];
  const operands = Object.values(rows).filter(({ operand }) => operand);
  const words = operands.map((row) => (isList(row) ? " [FOLDER …]" : " FOLDER")).join("");
  const usage = `Usage: advcl ${name}${words} [--setting value …]`;
  return `${[`advcl ${name}: ${summary}`, ...about, usage, ...sections].join("\n\n")}\n`;
};
