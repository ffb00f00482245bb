/** Settings from the flags of a command line. */
import { CommanderError, Command as Parser } from "commander";
import { RequestError } from "../errors.ts";
import { kebabCase } from "../settings/name.ts";
import { type GivenSettings, unknownSetting } from "../settings/resolve.ts";
import { expectation, isList, type SettingRow, type SettingRows } from "../settings/schema.ts";

/** A flag: the setting that it gives, or with `no-` takes away. */
interface Flag {
  readonly key: string;
  readonly row: SettingRow;
  readonly negated: boolean;
}

const flagsOf = (rows: SettingRows): Map<string, Flag> => {
  const flags = new Map<string, Flag>();
  for (const [key, row] of Object.entries(rows))
    for (const name of [kebabCase(key), ...(row.aliases ?? [])]) {
      flags.set(name, { key, row, negated: false });
      if (row.type === "boolean" || isList(row)) flags.set(`no-${name}`, { key, row, negated: true });
    }
  return flags;
};

/** Whether flags ask for help. */
export const asksHelp = (args: readonly string[]): boolean =>
  args.some((arg, index) => (arg === "--help" || arg === "-h") && !args.slice(0, index).includes("--"));

/** What the parser refuses, as a sentence of ours. */
const refusal = (error: CommanderError, command: string, flags: ReadonlyMap<string, Flag>): Error => {
  const [, written = ""] = /'(-[^\s'=]*)/.exec(error.message) ?? [];
  const name = written.replace(/^-+/, "");
  if (error.code === "commander.optionMissingArgument") {
    const row = flags.get(name)?.row;
    return new RequestError(`${written} needs a value: ${row === undefined ? "give one" : expectation(row)}`);
  }
  if (error.code !== "commander.unknownOption") return error;
  return unknownSetting(command, [...flags.keys()], name, `advcl ${command} has no setting ${written}`, "--");
};

/**
 * What flags give, by key.
 *
 * @throws RequestError where a flag is unknown or lacks its value, or something stands there that is no flag
 */
export const readFlags = (command: string, rows: SettingRows, args: readonly string[]): GivenSettings => {
  const flags = flagsOf(rows);
  const given = new Map<string, { value: unknown; label: string }>();
  const parser = new Parser(command).helpOption(false).allowExcessArguments(true).exitOverride();
  parser.configureOutput({ writeErr: () => {} }).showSuggestionAfterError(false);
  const take = (name: string, { key, row, negated }: Flag, value: unknown): void => {
    const label = `--${name}`;
    const before = row.repeatable ? given.get(key)?.value : undefined;
    if (negated) given.set(key, { value: row.type === "boolean" ? false : [], label });
    else if (typeof before === "string") given.set(key, { value: `${before},${value}`, label });
    else given.set(key, { value: row.type === "boolean" ? (value ?? true) : value, label });
  };
  for (const [name, flag] of flags) {
    parser.option(flag.negated || flag.row.type === "boolean" ? `--${name}` : `--${name} <value>`);
    parser.on(`option:${name}`, (value: unknown) => {
      if (String(value).startsWith("--")) throw new RequestError(`--${name} needs a value: ${expectation(flag.row)}`);
      take(name, flag, value ?? undefined);
    });
  }
  // `--attack=false`, `--label=--x`: the parser knows no boolean with a value, and no flag as a value.
  const end = args.includes("--") ? args.indexOf("--") : args.length;
  const rest = args.filter((arg, i) => {
    const [, name = "", value] = /^--([^=]+)=(.*)$/s.exec(arg) ?? [];
    const flag = i < end ? flags.get(name) : undefined;
    if (flag === undefined) return true;
    if (flag.negated) throw new RequestError(`--${name} takes no value; leave out =${value}`);
    take(name, flag, value);
    return false;
  });
  try {
    parser.parse(rest, { from: "user" });
  } catch (error) {
    throw error instanceof CommanderError ? refusal(error, command, flags) : error;
  }
  const words = [...parser.args];
  for (const [key, row] of Object.entries(rows)) {
    if (!row.operand || given.has(key) || words.length === 0) continue;
    given.set(key, { value: isList(row) ? words.splice(0) : words.shift(), label: `--${kebabCase(key)}` });
  }
  const [extra] = words;
  if (extra !== undefined)
    throw new RequestError(`advcl ${command} takes no ${JSON.stringify(extra)}; write settings as --name value`);
  return given;
};
