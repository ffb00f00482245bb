import { readFileSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { exitCode, isOurs, RequestError } from "../src/errors.ts";
import { fileError } from "../src/files/file-error.ts";
import { parseNumber } from "../src/settings/resolve.ts";

/** The comment that a script begins with. */
const usage = (script: string): string => {
  const [, comment = ""] = /^\/\*\*\n(.*?)\n \*\//s.exec(readFileSync(fileURLToPath(script), "utf8")) ?? [];
  return comment.replace(/^ \* ?/gm, "");
};

const report = (error: unknown): never => {
  const fault = fileError(error, "use", String((error as NodeJS.ErrnoException | undefined)?.path));
  console.error(isOurs(fault) ? `error: ${fault.message}` : error);
  process.exit(exitCode(fault));
};

/**
 * The flags of a script, as `parseArgs` gives them. --help prints the comment that the script begins with; from here on what is
 * wrong with a request is one sentence and exit code 2, as for `advcl` itself. A flag whose default is a number takes numbers.
 *
 * @param script `import.meta.url` of the script
 */
export const readFlags = <const Config extends ParseArgsConfig>(
  script: string,
  config: Config,
): ReturnType<typeof parseArgs<Config>> => {
  process.on("uncaughtException", report);
  if (process.argv.slice(2).some((arg) => arg === "--help" || arg === "-h")) {
    process.stdout.write(`${usage(script)}\n`);
    process.exit(0);
  }
  const name = basename(fileURLToPath(script));
  try {
    const parsed = parseArgs(config);
    for (const [flag, { default: usual }] of Object.entries(config.options ?? {})) {
      const value = parsed.values[flag as keyof typeof parsed.values] as unknown;
      const isNumber = typeof usual === "string" && parseNumber(usual) !== undefined;
      if (isNumber && parseNumber(String(value)) === undefined)
        throw new RequestError(`--${flag} is ${JSON.stringify(value)} but must be a number; see ${name} --help`);
    }
    return parsed;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (!code?.startsWith("ERR_PARSE_ARGS")) return report(error);
    const [said] = message.split(/\. |\n/);
    return report(new RequestError(`${said}; see ${name} --help`));
  }
};

/** The path that a flag must give; refused where it is missing or nothing lies there. */
export const existingPath = (flag: string, path: string | undefined): string => {
  if (path === undefined) throw new RequestError(`--${flag} is missing: give a path`);
  statSync(path);
  return resolve(path);
};

/** The numbers of a flag that takes several, separated by commas. */
export const numbersIn = (flag: string, text: string): number[] =>
  text.split(",").map((part) => {
    const number = parseNumber(part);
    if (number === undefined)
      throw new RequestError(
        `--${flag} is ${JSON.stringify(text)} but must be numbers separated by commas, such as 16,32`,
      );
    return number;
  });
