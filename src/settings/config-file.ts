/** Settings from a YAML file: a plain one, a recipe with a section for each command, or the config.yaml of a run. */
import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { packageRoot } from "../version.ts";
import { type GivenSettings, nearestName, readObject } from "./resolve.ts";
import type { SettingRows } from "./schema.ts";

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const recipesFolder = join(packageRoot, "recipes");

/** Names of the recipes that ship with the package. */
export const recipeNames = (): readonly string[] =>
  readdirSync(recipesFolder).flatMap((name) => (name.endsWith(".yaml") ? [name.slice(0, -".yaml".length)] : []));

/** The file that --config means: a path, or the bare name of a recipe that ships. */
const findFile = (given: string): string => {
  if (existsSync(given) || !/^[a-z][a-z0-9-]*$/.test(given)) return given;
  const names = recipeNames();
  if (names.includes(given)) return join(recipesFolder, `${given}.yaml`);
  const nearest = nearestName(given, names);
  const remedy = nearest === undefined ? `recipes are ${names.join(", ")}` : `did you mean ${nearest}?`;
  throw new RequestError(`--config ${given}: there is no such file, and no such recipe; ${remedy}`);
};

const readYaml = async (path: string): Promise<unknown> => {
  try {
    const content: unknown = parse(await readFile(path, "utf8"), { logLevel: "error" }) ?? {};
    JSON.stringify(content); // throws where an alias stands for what holds it
    return content;
  } catch (error) {
    const { name, message } = error as Error;
    // Of aliases that stand for nothing, for themselves, or for more than the parser unfolds.
    if (name === "ReferenceError" || name === "TypeError")
      throw new RequestError(`${path} has an alias that can't be followed; write the values out`);
    if (name !== "YAMLParseError") throw fileError(error, "read", path);
    const [line = ""] = message.split("\n");
    throw new RequestError(`${path} is not valid YAML: ${line.replace(/[:.]$/, "")}; correct that line`);
  }
};

/**
 * The settings of a --config file. A file whose values are all mappings is a recipe: it has a section for each command.
 *
 * @param given a path, or the name of a recipe that ships
 * @throws RequestError where the file can't be read, is not valid YAML, or holds what the command does not have
 */
export const readConfigFile = async (command: string, rows: SettingRows, given: string): Promise<GivenSettings> => {
  const path = findFile(given);
  const content = await readYaml(path);
  if (!isRecord(content)) throw new RequestError(`${path} holds no settings; write lines such as seed: 1`);
  if (isRecord(content.settings) && typeof content.command === "string") {
    if (content.command !== command)
      throw new RequestError(`${path} is of a run of ${content.command}, not of ${command}; give another file`);
    return readObject(command, rows, content.settings, path);
  }
  const sections = Object.keys(content);
  if (sections.length === 0 || !sections.every((name) => isRecord(content[name])))
    return readObject(command, rows, content, path);
  const section = content[command];
  if (!isRecord(section))
    throw new RequestError(`${path} has settings of ${sections.join(", ")}, not of ${command}; give another file`);
  return readObject(command, rows, section, path);
};
