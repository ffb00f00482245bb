/** A command: reads settings, calls its verb, prints the results. */
import { z } from "zod";
import { launched } from "../distributed/launcher.ts";
import { readConfigFile } from "../settings/config-file.ts";
import { kebabCase, type SettingValue } from "../settings/name.ts";
import { type GivenSettings, pickSetting } from "../settings/resolve.ts";
import { path, rowsOf, type SettingRows, setting } from "../settings/schema.ts";
import { printSources } from "../settings/sources.ts";
import { conditionExitCode, unmet } from "../verbs/conditions.ts";
import { quietReporter, type Reporter } from "../verbs/reporter.ts";
import { Interrupted, type Verb } from "../verbs/verb.ts";
import { readFlags } from "./flags.ts";
import { printHelp } from "./help.ts";
import { progressLine } from "./progress.ts";
import { type Watch, watchSignals } from "./signals.ts";

const common = { group: "Common settings" };

/** Settings of every command that are no verb's. */
const [before, after] = [
  {
    config: setting(path().optional(), "YAML file with settings, or the name of a recipe; flags win over it", {
      ...common,
      path: true,
    }),
  },
  {
    showConfig: setting(z.boolean().default(false), "print all settings with their sources, and do nothing", common),
    json: setting(z.boolean().default(false), "make the last line of stdout one JSON object with the results", common),
    quiet: setting(z.boolean().default(false), "no progress on stderr", common),
    debug: setting(z.boolean().default(false), "show the stack of an error", common),
  },
].map(rowsOf) as [SettingRows, SettingRows];

/** Where a command writes. */
export interface Streams {
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean };
}

export interface Configuration {
  readonly settings: Readonly<Record<string, SettingValue>>;
  readonly text: string;
}

/** A command as the command line uses it. */
export interface Command {
  readonly name: string;
  readonly summary: string;
  /** All settings that its flags give. */
  readonly rows: SettingRows;
  /** Text of --help, `width` columns wide. */
  help(width: number): string;
  /**
   * What `advcl config` prints of flags: the verb's settings, without those that a configuration file does not hold; as a text they
   * are a file, each with its source.
   */
  configure(args: readonly string[]): Promise<Configuration>;
  /** Runs it. Returns the exit code; throws what went wrong. */
  execute(args: readonly string[], streams: Streams): Promise<number>;
}

/** A command as the list shows it; loaded only when it is used. */
export interface CommandEntry {
  /** The same text as in the command's own file (a test compares them). */
  readonly summary: string;
  readonly load: () => Promise<Command>;
}

export interface CommandDefinition<Own extends Readonly<Record<string, z.ZodType>>, Result> {
  readonly verb: Verb<Own, Result>;
  /** One line for the list of commands, without a full stop. */
  readonly summary: string;
  /** More about it, for its own --help. */
  readonly description?: string;
  /** The results for people, where the verb does not print them as they come. */
  print?(result: Result): string;
}

/** A reporter that writes for people: results to stdout, unless --json wants it for itself, all else to stderr. */
const streamReporter = ({ stdout, stderr }: Streams, quiet: boolean, json: boolean): Reporter => {
  const clear = stderr.isTTY ? "\r\u001b[K" : ""; // over a progress line that stands there
  const log = (message: string): void => {
    if (!quiet) stderr.write(`${clear}${message}\n`);
  };
  return {
    log,
    warn: (message) => void stderr.write(`${clear}warning: ${message}\n`),
    print: (text) => {
      if (json) log(text);
      else stdout.write(`${text}\n`);
    },
    progress: (options) => progressLine(options, { stream: stderr, quiet }),
  };
};

/** Makes a command of a verb. Settings come from flags, then --config, then what the verb's `spec.resolve` adds. */
export const defineCommand = <const Own extends Readonly<Record<string, z.ZodType>>, Result extends object>({
  verb,
  summary,
  description,
  print,
}: CommandDefinition<Own, Result>): Command => {
  const { spec } = verb;
  const { name, presets } = spec;
  const rows: SettingRows = { ...before, ...spec.rows, ...after };

  const readSources = async (args: readonly string[]): Promise<GivenSettings[]> => {
    const flags = readFlags(name, rows, args);
    const file = pickSetting(rows, "config", [flags]);
    if (typeof file !== "string") return [flags];
    const { config: _, ...others } = rows;
    return [flags, await readConfigFile(name, others, file)];
  };
  const configurationOf = async (sources: readonly GivenSettings[]): Promise<Configuration> => {
    const { preset: _, ...settings } = (await spec.resolve(sources, false)) as Readonly<Record<string, SettingValue>>;
    const text =
      pickSetting(rows, "json", sources) === true
        ? `${JSON.stringify(Object.fromEntries(Object.entries(settings).map(([key, value]) => [kebabCase(key), value ?? null])))}\n`
        : printSources(settings, await spec.gather(sources));
    return { settings, text };
  };
  const execute: Command["execute"] = async (args, streams) => {
    const sources = await readSources(args);
    if (pickSetting(rows, "showConfig", sources) === true) {
      streams.stdout.write((await configurationOf(sources)).text);
      return 0;
    }
    // Of several ranks the first speaks.
    const silent = (launched()?.rank ?? 0) > 0;
    const json = pickSetting(rows, "json", sources) === true;
    const reporter = silent
      ? quietReporter
      : streamReporter(streams, pickSetting(rows, "quiet", sources) === true, json);
    const settings = await spec.resolve(sources);
    let watch: Watch | undefined;
    try {
      const result = await verb.perform(settings, {
        reporter,
        // Signals are watched from when the verb asks for them; one that never does is ended by the first.
        get signal() {
          watch ??= watchSignals(reporter.warn);
          return watch.signal;
        },
      });
      if (print !== undefined) reporter.print(print(result));
      if (json && !silent) streams.stdout.write(`${JSON.stringify(result)}\n`);
      const failed = unmet(result);
      for (const sentence of failed) streams.stderr.write(`failed: ${sentence}\n`);
      return failed.length === 0 ? 0 : conditionExitCode;
    } catch (error) {
      if (!(error instanceof Interrupted) || watch === undefined) throw error;
      if (error.message !== "") reporter.log(error.message);
      return watch.code();
    } finally {
      watch?.stop();
    }
  };
  return {
    name,
    summary,
    rows,
    help: (width) => printHelp({ name, summary, description, rows, presets }, width),
    configure: async (args) => configurationOf(await readSources(args)),
    execute,
  };
};
