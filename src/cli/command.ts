import { constants } from "node:os";
import { parseArgs } from "node:util";
import { availableCores } from "../engine/cores.ts";
import { RequestError } from "../errors.ts";
import type { RunFolder } from "../runs/run-folder.ts";
import { kebabCase, printSetting, type SettingValue } from "../settings/name.ts";
import {
  expectation,
  type GivenSettings,
  isList,
  keyOf,
  nearestName,
  resolveSettings,
  type SettingRow,
  type SettingRows,
  type SettingsOf,
} from "../settings/resolve.ts";
import type { ProgressLine, ProgressOptions } from "./progress.ts";

/** Settings of every command. A command that needs another meaning of one declares a row of the same key. */
export const commonRows = {
  config: { type: "path", help: "YAML file with settings; flags win over it", group: "Common settings" },
  seed: { type: "integer", default: 0, min: 0, help: "seed of all random numbers", group: "Common settings" },
  threads: {
    type: "integer",
    default: availableCores,
    min: 1,
    max: 1024,
    help: "threads to compute with",
    group: "Common settings",
    changeable: true,
  },
  provider: {
    type: "enum",
    values: ["auto", "cpu", "cuda", "webgpu"],
    default: "auto",
    help: "what computes",
    group: "Common settings",
    changeable: true,
  },
  out: { type: "path", help: "folder to write to", group: "Common settings" },
  json: {
    type: "boolean",
    default: false,
    help: "make the last line of stdout one JSON object with the results",
    group: "Common settings",
  },
  quiet: { type: "boolean", default: false, help: "no progress on stderr", group: "Common settings" },
  debug: { type: "boolean", default: false, help: "show the stack of an error", group: "Common settings" },
} as const satisfies SettingRows;

type CommonRows = typeof commonRows;

/** Rows of a command with the common ones. */
export type AllRows<Rows extends SettingRows> = Omit<CommonRows, keyof Rows> & Rows;

/** What a command of these rows receives. */
export type CommandSettings<Rows extends SettingRows> = SettingsOf<AllRows<Rows>>;

/** Settings that say how a run is asked for, not what it is: neither kept in a run's config.yaml nor compared on resume. */
const unrecorded = ["config", "preset", "json", "quiet", "debug", "out", "resume"];

/** What a command may do besides computing. */
export interface Context {
  /** The command's name. */
  readonly command: string;
  /** A line on stderr, for people; nothing with --quiet. */
  log(message: string): void;
  /** A warning on stderr, with --quiet too. */
  warn(message: string): void;
  /** Text on stdout: the command's answer for people. With --json it goes the way of `log`. */
  print(text: string): void;
  /** The results, printed by --json as the last line of stdout. */
  result(value: object): void;
  /** A progress line on stderr; stopped with the command if it is not before. */
  progress(options: ProgressOptions): ProgressLine;
  /**
   * Aborted by the first SIGINT or SIGTERM: finish the step, save and return without a `result`; the exit code is then
   * 130 or 143. The second signal kills. A command that never asks for this is killed by the first.
   */
  readonly signal: AbortSignal;
  /** All settings that a run is made of, for its config.yaml. */
  readonly recorded: Readonly<Record<string, SettingValue>>;
  /** Keys of settings that may differ when a run is resumed. */
  readonly changeable: readonly string[];
  /**
   * Opens the run folder of --out, as --resume says; closed with the command if it is not before.
   *
   * @throws RequestError where --out is missing, or as `openRunFolder`
   */
  openRun(options?: { readonly keep?: number; readonly keepEvery?: number }): Promise<RunFolder>;
}

export interface CommandDefinition<Rows extends SettingRows> {
  readonly name: string;
  /** One line for the list of commands, without a full stop. */
  readonly summary: string;
  /** More about it, for its own --help. */
  readonly description?: string;
  /** Its settings, besides `commonRows`. With a boolean `resume`, a resumed run's settings come from its config.yaml. */
  readonly settings: Rows;
  /** It answers on stdout alone and has no --out (default false). */
  readonly writesNothing?: boolean;
  /** Named choices of settings. */
  readonly presets?: Readonly<Record<string, Partial<CommandSettings<Rows>>>>;
  /** The run folder of a command whose --out is another file (default: --out itself). */
  runFolder?(out: string): string;
  /** Defaults that depend on other settings: each stands where that setting was not given, in config.yaml too. */
  complete?(settings: Partial<CommandSettings<Rows>>): Partial<CommandSettings<Rows>>;
  run(settings: CommandSettings<Rows>, context: Context): Promise<void> | void;
}

/** Where a command writes. */
export interface Streams {
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean };
}

/** A command as the command line uses it. */
export interface Command {
  readonly name: string;
  readonly summary: string;
  /** Text of --help, `width` columns wide. */
  help(width: number): string;
  /** Its settings from flags. `demand` refuses where a required one is missing (default true). */
  resolve(args: readonly string[], demand?: boolean): Promise<Readonly<Record<string, SettingValue>>>;
  /** Settings of `resolve` that a configuration file holds. */
  configurable(settings: Readonly<Record<string, SettingValue>>): Record<string, SettingValue>;
  /** Runs it. Returns the exit code; throws what went wrong. */
  execute(args: readonly string[], streams: Streams): Promise<number>;
}

/** Whether flags ask for help. */
export const asksHelp = (args: readonly string[]): boolean =>
  args.some((arg, index) => (arg === "--help" || arg === "-h") && !args.slice(0, index).includes("--"));

const flagOf = (key: string): string => `--${kebabCase(key)}`;

const canNegate = (row: SettingRow): boolean => row.type === "boolean" || isList(row);

/** What flags give, by key. */
const readFlags = (command: string, rows: SettingRows, args: readonly string[]): GivenSettings => {
  const flags = new Map<string, { key: string; negated: boolean }>();
  for (const [key, row] of Object.entries(rows))
    for (const name of [kebabCase(key), ...(row.aliases ?? [])]) {
      flags.set(name, { key, negated: false });
      if (canNegate(row)) flags.set(`no-${name}`, { key, negated: true });
    }
  const options = [...flags].map(([name, { key, negated }]) => {
    const type = negated || rows[key]!.type === "boolean" ? "boolean" : "string";
    return [name, { type }] as const;
  });
  const { tokens } = parseArgs({ args: [...args], options: Object.fromEntries(options), strict: false, tokens: true });
  const given = new Map<string, { value: unknown; label: string }>();
  for (const token of tokens) {
    if (token.kind === "option-terminator") continue;
    if (token.kind === "positional")
      throw new RequestError(
        `advcl ${command} takes no ${JSON.stringify(token.value)}; write settings as --name value`,
      );
    const flag = flags.get(token.name);
    if (flag === undefined) {
      const nearest = nearestName(kebabCase(token.name), [...flags.keys()]);
      const remedy = nearest === undefined ? `see advcl ${command} --help` : `did you mean --${nearest}?`;
      throw new RequestError(`advcl ${command} has no setting ${token.rawName}; ${remedy}`);
    }
    const { key, negated } = flag;
    const row = rows[key]!;
    const label = token.rawName;
    if (negated) {
      if (token.value !== undefined) throw new RequestError(`${label} takes no value; leave out =${token.value}`);
      given.set(key, { value: row.type === "boolean" ? false : [], label });
    } else if (row.type === "boolean") given.set(key, { value: token.value ?? true, label });
    else if (token.value === undefined || (!token.inlineValue && token.value.startsWith("--")))
      throw new RequestError(`${label} needs a value: ${expectation(row)}`);
    else given.set(key, { value: token.value, label });
  }
  return given;
};

/** What an object of settings gives, by key; `place` says where it stands, for messages. */
const readObject = (command: string, rows: SettingRows, content: object, place: string): GivenSettings => {
  const given = new Map<string, { value: unknown; label: string }>();
  const known = Object.keys(rows).filter((key) => key !== "config");
  for (const [name, value] of Object.entries(content)) {
    const key = keyOf(rows, name);
    if (key === undefined || !known.includes(key)) {
      const nearest = nearestName(kebabCase(name), known.map(kebabCase));
      const remedy = nearest === undefined ? `see advcl ${command} --help` : `did you mean ${nearest}?`;
      throw new RequestError(`${place} has the setting ${name}, which advcl ${command} does not have; ${remedy}`);
    }
    given.set(key, { value, label: `${name} in ${place}` });
  }
  return given;
};

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The settings of a --config file; the config.yaml of a run serves as well. */
const readConfigFile = async (command: string, rows: SettingRows, path: string): Promise<GivenSettings> => {
  const [{ readFile }, { parse }, { fileError }] = await Promise.all([
    import("node:fs/promises"),
    import("yaml"),
    import("../files/file-error.ts"),
  ]);
  let content: unknown;
  try {
    content = parse(await readFile(path, "utf8")) ?? {};
  } catch (error) {
    if ((error as Error).name !== "YAMLParseError") throw fileError(error, "read", path);
    const [line] = (error as Error).message.split("\n");
    throw new RequestError(`${path} is not valid YAML: ${line!.replace(/[:.]$/, "")}; correct that line`);
  }
  if (!isRecord(content)) throw new RequestError(`${path} holds no settings; write lines such as seed: 1`);
  if (isRecord(content.settings) && typeof content.command === "string") {
    if (content.command !== command)
      throw new RequestError(`${path} is of a run of ${content.command}, not of ${command}; give another file`);
    content = content.settings;
  }
  return readObject(command, rows, content as object, path);
};

const printDefault = (row: SettingRow): string => {
  if (row.required) return "required";
  const value = typeof row.default === "function" ? row.default() : row.default;
  return value === undefined || value === false ? "" : `default ${printSetting(value)}`;
};

const placeholders: Record<SettingRow["type"], string> = {
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

/** Words in lines of `width` columns. */
const wrap = (text: string, width: number): string[] => {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines;
};

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

const printHelp = (
  {
    name,
    summary,
    description,
    presets,
  }: Pick<CommandDefinition<SettingRows>, "name" | "summary" | "description" | "presets">,
  rows: SettingRows,
  width: number,
): string => {
  const groups = new Map<string, [string, string][]>();
  const own = Object.entries(rows).filter(([, { group }]) => group !== "Common settings");
  const common = Object.entries(rows).filter(([, { group }]) => group === "Common settings");
  for (const [key, row] of [...own, ...common]) {
    const negatable = row.type === "boolean" && row.default === true;
    const choices = row.type === "enum" ? (row.pattern ?? row.values.join("|")) : placeholders[row.type];
    const many = row.type === "enum" && choices.length > width / 2; // they stand in the text then
    const values = many ? "NAME" : choices;
    const flag = negatable ? `--no-${kebabCase(key)}` : `${flagOf(key)} ${values}`.trimEnd();
    const also = row.aliases?.length ? [`also ${row.aliases.map((alias) => `--${alias}`).join(", ")}`] : [];
    const notes = [many ? expectation(row) : "", negatable ? "" : printDefault(row), ...also].filter(
      (note) => note !== "",
    );
    const text = `${negatable ? "without: " : ""}${row.help}${notes.length === 0 ? "" : ` (${notes.join("; ")})`}`;
    const group = row.group ?? "Settings";
    groups.set(group, [...(groups.get(group) ?? []), [flag, text]]);
  }
  const left = leftOf([...groups.values()].flat());
  const sections = [...groups].map(([title, lines]) => `${title}:\n${printColumns(lines, width, left)}`);
  if (presets !== undefined) {
    const lines = Object.entries(presets).map(([preset, values]): [string, string] => [
      preset,
      Object.entries(values)
        .map(([key, value]) => `${kebabCase(key)} ${printSetting(value as SettingValue)}`)
        .join(", ") || "the defaults",
    ]);
    sections.push(`Presets:\n${printColumns(lines, width, left)}`);
  }
  const about = description === undefined ? [] : [wrap(description, width).join("\n")];
  return `${[`advcl ${name}: ${summary}`, ...about, `Usage: advcl ${name} [--setting value …]`, ...sections].join("\n\n")}\n`;
};

/** Commands that watch signals now: a command may run others, and one says that it stops. */
let watching = 0;

/** Aborts on the first signal that ends processes, gives way to the second. */
const watchSignals = (
  warn: (message: string) => void,
): { signal: AbortSignal; code: () => number; stop: () => void } => {
  const controller = new AbortController();
  const names = ["SIGINT", "SIGTERM"] as const;
  let code = 0;
  const outermost = watching++ === 0;
  const unwatch = (): void => {
    for (const name of names) process.off(name, handle);
  };
  const stop = (): void => {
    unwatch();
    watching--;
  };
  const handle = (name: (typeof names)[number]): void => {
    code = 128 + constants.signals[name];
    unwatch(); // the next one acts as if nobody watched
    if (outermost) warn("stopping after this step; a second signal stops at once");
    controller.abort();
  };
  for (const name of names) process.on(name, handle);
  return { signal: controller.signal, code: () => code, stop };
};

/**
 * Makes a command of its rows. Settings come from flags, then --config, then --preset, then (with --resume) the run's
 * config.yaml, then defaults.
 */
export const defineCommand = <const Rows extends SettingRows>(definition: CommandDefinition<Rows>): Command => {
  const { name, presets, runFolder: runFolderOf = (out: string) => out } = definition;
  const presetRow: SettingRows =
    presets === undefined
      ? {}
      : {
          preset: { type: "enum", values: Object.keys(presets), help: "named choice of settings; flags and files win" },
        };
  const { out: _, ...others } = commonRows;
  const common = definition.writesNothing ? others : commonRows;
  const rows: SettingRows = { ...presetRow, ...common, ...definition.settings };

  const resolve: Command["resolve"] = async (args, demand = true) => {
    const flags = readFlags(name, rows, args);
    const pick = (key: string, sources: readonly GivenSettings[]): SettingValue => {
      const given = sources.map((source) => source.get(key)).find((value) => value !== undefined);
      const row = rows[key];
      if (row === undefined || given === undefined) return undefined;
      return resolveSettings({ [key]: { ...row, required: false } as SettingRow }, [new Map([[key, given]])])[key];
    };
    const path = pick("config", [flags]) as string | undefined;
    const sources = [flags];
    if (path !== undefined) sources.push(await readConfigFile(name, rows, path));
    const preset = pick("preset", sources) as string | undefined;
    if (preset !== undefined) sources.push(readObject(name, rows, presets![preset]!, `preset ${preset}`));
    const out = pick("out", sources) as string | undefined;
    if (out !== undefined && pick("resume", sources) === true) {
      const { readRunConfig } = await import("../runs/run-folder.ts");
      const folder = runFolderOf(out);
      const before = await readRunConfig(folder);
      const known = Object.entries(before?.settings ?? {}).filter(
        ([key, value]) => value !== undefined && Object.hasOwn(rows, key),
      );
      if (before?.command === name)
        sources.push(readObject(name, rows, Object.fromEntries(known), `${folder}/config.yaml`));
    }
    if (definition.complete !== undefined) {
      const chosen = resolveSettings(rows, sources, false) as Partial<CommandSettings<Rows>>;
      const depending = Object.entries(definition.complete(chosen)).filter(([, value]) => value !== undefined);
      sources.push(readObject(name, rows, Object.fromEntries(depending), "the defaults that follow"));
    }
    return resolveSettings(rows, sources, demand) as Readonly<Record<string, SettingValue>>;
  };

  const without = (settings: Readonly<Record<string, SettingValue>>, keys: readonly string[]) =>
    Object.fromEntries(Object.entries(settings).filter(([key]) => !keys.includes(key)));

  const execute: Command["execute"] = async (args, { stdout, stderr }) => {
    const settings = await resolve(args);
    const quiet = settings.quiet === true;
    const json = settings.json === true;
    const lines: ProgressLine[] = [];
    const runs: RunFolder[] = [];
    let watch: ReturnType<typeof watchSignals> | undefined;
    let results: object | undefined;
    const { progressLine } = await import("./progress.ts");
    const clear = stderr.isTTY ? "\r\u001b[K" : ""; // over a progress line that stands there
    const warn = (message: string): void => void stderr.write(`${clear}warning: ${message}\n`);
    const log = (message: string): void => {
      if (!quiet) stderr.write(`${clear}${message}\n`);
    };
    const context: Context = {
      command: name,
      log,
      warn,
      print: (text) => {
        if (json) log(text);
        else stdout.write(`${text}\n`);
      },
      result: (value) => {
        results = value;
      },
      progress: (options) => {
        const line = progressLine(options, { stream: stderr, quiet });
        lines.push(line);
        return line;
      },
      get signal() {
        watch ??= watchSignals(warn);
        return watch.signal;
      },
      recorded: without(settings, unrecorded),
      changeable: Object.entries(rows).flatMap(([key, { changeable }]) => (changeable ? [key] : [])),
      openRun: async (options = {}) => {
        const { openRunFolder } = await import("../runs/run-folder.ts");
        const { out, resume } = settings;
        if (typeof out !== "string") throw new RequestError("--out is missing: give the folder of the run");
        const { recorded, changeable } = context;
        const run = await openRunFolder(runFolderOf(out), {
          command: name,
          settings: recorded,
          changeable,
          resume: resume === true,
          resumable: rows.resume !== undefined,
          warn,
          ...options,
        });
        runs.push(run);
        return run;
      },
    };
    try {
      await definition.run(settings as CommandSettings<Rows>, context);
    } finally {
      for (const line of lines) line.stop();
      for (const run of runs) await run.close();
      watch?.stop();
    }
    if (watch?.signal.aborted && results === undefined) return watch.code();
    if (json) stdout.write(`${JSON.stringify(results ?? {})}\n`);
    return 0;
  };

  return {
    name,
    summary: definition.summary,
    help: (width) => printHelp(definition as unknown as CommandDefinition<SettingRows>, rows, width),
    resolve,
    configurable: (settings) => without(settings, ["config", "preset", "json", "quiet", "debug"]),
    execute,
  };
};
