/** Files that may not be there. */
import { readFile } from "node:fs/promises";
import { fileError } from "./file-error.ts";

/**
 * What is read at a path; undefined where nothing is there, or no folder that could hold it.
 *
 * @throws RequestError where it is there and cannot be read
 */
export const ifThere = async <T>(path: string, read: () => Promise<T>): Promise<T | undefined> => {
  try {
    return await read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw fileError(error, "read", path);
  }
};

/** The bytes of a file, as `ifThere`. */
export const readIfThere = (path: string): Promise<Buffer | undefined> => ifThere(path, () => readFile(path));

/** The same as text. */
export const readTextIfThere = async (path: string): Promise<string | undefined> =>
  (await readIfThere(path))?.toString("utf8");
