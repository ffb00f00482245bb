/** Work made of several verbs: each part is done once, and its results are remembered in the folder of the whole. */
import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { RequestError } from "../errors.ts";
import { makeFolder } from "../files/atomic.ts";
import { readSealed, writeSealed } from "../files/seal.ts";
import type { PluginFile } from "../runs/config.ts";
import { configFile } from "../runs/run-folder.ts";
import { kebabCase, printFlags } from "../settings/name.ts";
import type { Given } from "../settings/spec.ts";
import { indentedReporter } from "../verbs/reporter.ts";
import { Interrupted, type Verb, type VerbContext } from "../verbs/verb.ts";

type Shape = Readonly<Record<string, z.ZodType>>;

/** The command that does what a verb does with settings. */
export const commandOf = (name: string, settings: object): string => ["advcl", name, ...printFlags(settings)].join(" ");

/** The setting that goes on with the run in a folder, where there is one. */
export const resuming = (folder: string): { readonly resume?: true } =>
  existsSync(join(folder, configFile)) ? { resume: true } : {};

/** The work in a folder. */
export interface Pipeline {
  /**
   * Calls a verb, unless its results are remembered under the name.
   *
   * @param settings a function is called only where the verb is: what the settings need may be a part of its own
   * @throws Interrupted where the signal is aborted
   */
  once<Own extends Shape, Result extends object>(
    name: string,
    verb: Verb<Own, Result>,
    settings: Given<Own> | (() => Promise<Given<Own>>),
  ): Promise<Result & { readonly seconds: number }>;
}

/**
 * Keeps the settings of the whole in a file of its folder, and opens it for its parts.
 *
 * @param growing settings that may be others when the work goes on
 * @throws RequestError where the folder holds such a `thing` with other settings, and something of it is done
 */
export const openPipeline = async (
  {
    out,
    file,
    thing,
    growing = [],
    plugins = [],
  }: {
    out: string;
    file: string;
    thing: string;
    growing?: readonly string[];
    /** Whose parts the work is done with: others may not stand in for them. */
    plugins?: readonly PluginFile[];
  },
  context: VerbContext,
): Promise<Pipeline> => {
  const { recorded, changeable } = context;
  await makeFolder(out);
  const path = join(out, file);
  const kept = Object.entries(recorded).filter(([key]) => !growing.includes(key) && !changeable.includes(key));
  const settings: Readonly<Record<string, unknown>> = {
    ...Object.fromEntries(kept),
    ...(plugins.length > 0 && { plugins: plugins.map(({ sha256 }) => sha256) }),
  };
  const before = await readSealed(path, "give another --out");
  const differing = Object.keys({ ...settings, ...before }).filter(
    (key) => before !== undefined && JSON.stringify(before[key] ?? null) !== JSON.stringify(settings[key] ?? null),
  );
  const begun = (await readdir(out)).some((name) => name !== file);
  if (begun && differing.length > 0)
    throw new RequestError(
      `${out} holds a ${thing} with other settings (${differing.map(kebabCase).join(", ")}); give its own, or another --out`,
    );
  await writeSealed(path, settings);
  return { once: (name, verb, given) => performOnce(join(out, "results"), name, verb, given, context) };
};

const performOnce = async <Own extends Shape, Result extends object>(
  folder: string,
  name: string,
  verb: Verb<Own, Result>,
  given: Given<Own> | (() => Promise<Given<Own>>),
  context: VerbContext,
): Promise<Result & { readonly seconds: number }> => {
  const path = join(folder, `${name}.json`);
  const known = await readSealed(path, `remove it, and ${name} is done again`);
  if (known !== undefined) return known as Result & { readonly seconds: number };
  const { signal } = context;
  if (signal.aborted) throw new Interrupted("");
  const settings = typeof given === "function" ? await given() : given;
  context.log(`${name}: ${commandOf(verb.spec.name, settings)}`);
  const began = performance.now();
  const made = await verb(settings, { reporter: indentedReporter(context), signal });
  if (signal.aborted) throw new Interrupted("");
  const results = { ...made, seconds: (performance.now() - began) / 1000 };
  await mkdir(folder, { recursive: true });
  await writeSealed(path, results);
  return results;
};
