import type { Dirent } from "node:fs";
import { lstat, readdir, realpath, stat } from "node:fs/promises";
import { extname, join, sep } from "node:path";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { isHidden } from "../files/hidden.ts";
import { imageSuffixes } from "./image-file.ts";

/** What lies in a folder, by name in the order of UTF-16 units, as Python's `sorted` has it for most names. */
export interface Listing {
  readonly folders: readonly string[];
  readonly images: readonly string[];
}

/** Files that are no images, by suffix: what the listings left out. */
export type LeftOut = Map<string, number>;

export const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Folders of a tree at most: links can make one of a few entries endless. */
const mostFolders = 1_000_000;

const isFileSystemError = (error: unknown, ...codes: readonly string[]): boolean =>
  codes.includes((error as NodeJS.ErrnoException).code ?? "");

/** What a link leads to, refused where that is nothing or a folder that the link lies in itself. */
const followed = async (folder: string, name: string): Promise<"folder" | "file" | "other"> => {
  const path = join(folder, name);
  try {
    const entry = await stat(path);
    if (!entry.isDirectory()) return entry.isFile() ? "file" : "other";
    const [target, here] = await Promise.all([realpath(path), realpath(folder)]);
    if (here === target || here.startsWith(target.endsWith(sep) ? target : target + sep))
      throw new RequestError(`data: ${path} is a link to a folder that it lies in itself; remove it.`);
    return "folder";
  } catch (error) {
    if (isFileSystemError(error, "ENOENT", "ENOTDIR"))
      throw new RequestError(
        `data: ${path} is a link to a file that is not there; restore that file or remove the link.`,
      );
    if (isFileSystemError(error, "ELOOP"))
      throw new RequestError(`data: ${path} is a link that leads to itself; remove it.`);
    throw fileError(error, "read", path);
  }
};

/** Names that are not UTF-8 come with a replacement character for what was lost, and lead nowhere. */
const checkName = async (folder: string, name: string): Promise<void> => {
  if (!name.includes("\ufffd")) return;
  const found = await lstat(join(folder, name)).catch(() => undefined);
  if (found === undefined)
    throw new RequestError(`data: ${folder} holds a file whose name is not UTF-8 (${name}); rename it.`);
};

/**
 * Folders and images of a folder, without what is hidden.
 * @param leftOut counts the other files by suffix
 * @throws RequestError naming what cannot be read
 */
export const list = async (path: string, leftOut: LeftOut): Promise<Listing> => {
  let entries: Dirent[];
  try {
    entries = await readdir(path, { withFileTypes: true });
  } catch (error) {
    throw fileError(error, "read", path);
  }
  const folders: string[] = [];
  const images: string[] = [];
  for (const entry of entries) {
    const { name } = entry;
    if (isHidden(name)) continue;
    await checkName(path, name);
    const suffix = extname(name).toLowerCase();
    const kind = entry.isSymbolicLink()
      ? await followed(path, name)
      : entry.isDirectory()
        ? "folder"
        : entry.isFile()
          ? "file"
          : "other";
    if (kind === "folder") folders.push(name);
    else if (kind === "file" && imageSuffixes.has(suffix)) images.push(name);
    else leftOut.set(suffix, (leftOut.get(suffix) ?? 0) + 1);
  }
  return { folders: folders.sort(byName), images: images.sort(byName) };
};

/**
 * Images anywhere under a folder, by their paths from it, with `/` between names on every system.
 * @throws RequestError naming what cannot be read
 */
export const imagesUnder = async (root: string, leftOut: LeftOut): Promise<string[]> => {
  const found: string[] = [];
  const waiting = [""];
  // One folder at a time: a tree may have more of them than files may be open.
  for (let visited = 0; waiting.length > 0; visited++) {
    const at = waiting.pop()!;
    if (visited > mostFolders)
      throw new RequestError(`data: ${root} leads to more than ${mostFolders} folders; look for links among them.`);
    const { folders, images } = await list(join(root, at), leftOut);
    for (const name of images) found.push(at === "" ? name : `${at}/${name}`);
    for (const name of folders) waiting.push(at === "" ? name : `${at}/${name}`);
  }
  return found.sort(byName);
};

/** `.heic 3, .txt 1`, the most frequent first. */
export const describeLeftOut = (leftOut: LeftOut): string | undefined => {
  const total = [...leftOut.values()].reduce((sum, n) => sum + n, 0);
  if (total === 0) return undefined;
  const kinds = [...leftOut].sort(([a, n], [b, m]) => m - n || byName(a, b)).slice(0, 8);
  const counts = kinds.map(([suffix, n]) => `${suffix === "" ? "no suffix" : suffix} ${n}`).join(", ");
  return `${total} file${total === 1 ? " was" : "s were"} left out, as no image that is read (${counts})`;
};
