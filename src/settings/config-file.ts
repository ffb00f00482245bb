/** Settings from a YAML file, or from the config.yaml of a run. */
import { readFile } from "node:fs/promises";
import { parse } from "yaml";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { type GivenSettings, readObject } from "./resolve.ts";
import type { SettingRows } from "./schema.ts";

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * The settings of a --config file.
 *
 * @throws RequestError where the file can't be read, is not valid YAML, or holds what the command does not have
 */
export const readConfigFile = async (command: string, rows: SettingRows, path: string): Promise<GivenSettings> => {
  let content: unknown;
  try {
    content = parse(await readFile(path, "utf8")) ?? {};
  } catch (error) {
    if ((error as Error).name !== "YAMLParseError") throw fileError(error, "read", path);
    const [line = ""] = (error as Error).message.split("\n");
    throw new RequestError(`${path} is not valid YAML: ${line.replace(/[:.]$/, "")}; correct that line`);
  }
  if (!isRecord(content)) throw new RequestError(`${path} holds no settings; write lines such as seed: 1`);
  if (!isRecord(content.settings) || typeof content.command !== "string")
    return readObject(command, rows, content, path);
  if (content.command !== command)
    throw new RequestError(`${path} is of a run of ${content.command}, not of ${command}; give another file`);
  return readObject(command, rows, content.settings, path);
};
