/** Commands made of other commands: each part is done once, and its results are remembered in the folder of the whole. */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Writable } from "node:stream";
import type { Command, Context } from "../cli/command.ts";
import { RequestError, RunError } from "../errors.ts";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { fileError } from "../files/file-error.ts";
import { configFile } from "../runs/run-folder.ts";
import { kebabCase } from "../settings/name.ts";

/** Thrown to leave when a signal has come. */
export class Stopped extends Error {}

/** What a command gave with --json. */
export type Results = Readonly<Record<string, unknown>>;

/** Settings as flags; what is undefined is left out. */
export const flagsOf = (settings: Readonly<Record<string, unknown>>): string[] =>
  Object.entries(settings).flatMap(([key, value]) =>
    value === undefined ? [] : [`--${kebabCase(key)}`, Array.isArray(value) ? value.join(",") : String(value)],
  );

/** The flag that goes on with the run in a folder, where there is one. */
export const resumeFlag = (folder: string): string[] => (existsSync(join(folder, configFile)) ? ["--resume"] : []);

/** Runs a command of ours and returns its results; undefined where a signal stopped it. */
const perform = async (
  command: Command,
  flags: readonly string[],
  context: Context,
  title: string,
): Promise<Results | undefined> => {
  context.log(`${title}: advcl ${command.name} ${flags.join(" ")}`);
  let answer = "";
  const stdout = new Writable({
    write: (chunk, _, done) => {
      answer += String(chunk);
      done();
    },
  });
  const stderr = new Writable({
    write: (chunk, _, done) => {
      for (const line of String(chunk).split("\n")) if (line !== "") context.log(`  ${line}`);
      done();
    },
  });
  const code = await command.execute([...flags, "--json"], { stdout, stderr });
  if (context.signal.aborted) return undefined;
  if (code !== 0) throw new RunError(`${title}: advcl ${command.name} ended with code ${code}`);
  return JSON.parse(answer.trim().split("\n").at(-1) as string) as Results;
};

const readJson = async (path: string): Promise<Results | undefined> => {
  try {
    return JSON.parse(await readFile(path, "utf8")) as Results;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw fileError(error, "read", path);
  }
};

export class Pipeline {
  private readonly out: string;
  private readonly context: Context;

  constructor(out: string, context: Context) {
    this.out = out;
    this.context = context;
  }

  /**
   * Keeps the settings in a file of the folder.
   * @param growing settings that may be others when the pipeline goes on
   * @throws RequestError where the folder holds such a `thing` with other settings, and something of it is done
   */
  async claim(file: string, thing: string, growing: readonly string[] = []): Promise<void> {
    const { recorded, changeable } = this.context;
    await makeFolder(this.out);
    const path = join(this.out, file);
    const settings = Object.fromEntries(
      Object.entries(recorded).filter(([key]) => !growing.includes(key) && !changeable.includes(key)),
    );
    const before = await readJson(path);
    const differing = Object.keys({ ...settings, ...before }).filter(
      (key) => before !== undefined && JSON.stringify(before[key] ?? null) !== JSON.stringify(settings[key] ?? null),
    );
    const begun = (await readdir(this.out)).some((name) => name !== file);
    if (begun && differing.length > 0)
      throw new RequestError(
        `${this.out} holds a ${thing} with other settings (${differing.map(kebabCase).join(", ")}); give its own, or another --out`,
      );
    await writeFileAtomic(path, `${JSON.stringify(settings, null, 2)}\n`);
  }

  /**
   * Runs a command, unless its results are remembered under the name.
   * @param flags made only where it is run: what they need may be a part of its own
   * @throws Stopped where a signal has come
   */
  async once(
    name: string,
    command: Command,
    flags: readonly string[] | (() => Promise<readonly string[]>),
  ): Promise<Results> {
    const path = join(this.out, "results", `${name}.json`);
    const known = await readJson(path);
    if (known !== undefined) return known;
    if (this.context.signal.aborted) throw new Stopped();
    const given = typeof flags === "function" ? await flags() : flags;
    const began = performance.now();
    const made = await perform(command, given, this.context, name);
    if (made === undefined) throw new Stopped();
    const results = { ...made, seconds: (performance.now() - began) / 1000 };
    await mkdir(join(this.out, "results"), { recursive: true });
    await writeFileAtomic(path, `${JSON.stringify(results, null, 2)}\n`);
    return results;
  }
}
