/** Files that may not be there. */
import { readFile } from "node:fs/promises";
import { fileError } from "./file-error.ts";

/**
 * The bytes of a file; undefined where there is none, or no folder that could hold it.
 *
 * @throws RequestError where it is there and cannot be read
 */
export const readIfThere = async (path: string): Promise<Buffer | undefined> => {
  try {
    return await readFile(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw fileError(error, "read", path);
  }
};

/** The same as text. */
export const readTextIfThere = async (path: string): Promise<string | undefined> =>
  (await readIfThere(path))?.toString("utf8");
