import { createHash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access, type FileHandle, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { checkPath, fileError } from "./file-error.ts";
import { hasEnded, thisHolder, visible } from "./holder.ts";

const marker = ".partial-";

/** This process as its unfinished work names it: number, start, and the place where the number means something. */
const makeOwner = (): string => {
  const { pid, began, namespace, boot, host } = thisHolder();
  const place = createHash("sha256").update([namespace, boot, host].join("\0")).digest("hex").slice(0, 12);
  return `${pid}-${began}-${place}`;
};
let own: string | undefined;
const owner = (): string => {
  own ??= makeOwner();
  return own;
};

/** A name beside `path`, in the same file system, that says whose unfinished work it is. */
const temporaryName = (path: string): string =>
  join(dirname(path), `.${basename(path)}${marker}${owner()}-${randomBytes(4).toString("hex")}`);

/** Whether a file or folder name is that of unfinished work of this module, left behind by a killed process. */
export const isPartial = (name: string): boolean => name.startsWith(".") && name.includes(marker);

/** Removes what killed writers left in `folder` and the folders in it. Only for the one process that may write there. */
export const removePartials = async (folder: string): Promise<void> => {
  for (const entry of await readdir(folder, { withFileTypes: true }))
    if (isPartial(entry.name)) await rm(join(folder, entry.name), { recursive: true, force: true });
    else if (entry.isDirectory()) await removePartials(join(folder, entry.name));
};

/** Unfinished work that has not changed for so long is of nobody any more, wherever it was begun: a day, in milliseconds. */
const abandonedAfter = 86_400_000;

/** Whether nobody goes on with unfinished work: its process was of this place and has ended, or it lies for a day. */
const isAbandoned = async (path: string): Promise<boolean> => {
  const match = /\.partial-(\d+)-(?:(\d+)-([0-9a-f]{12})-)?[0-9a-f]{8}$/.exec(path); // 0.1.0 told the number alone
  if (match === null) return false;
  const [, pid, began, place] = match;
  const here = place !== undefined && owner().endsWith(`-${place}`) && visible(thisHolder());
  if (here && hasEnded({ pid: Number(pid), began: began! })) return true;
  const entry = await stat(path).catch(() => undefined);
  return entry !== undefined && Date.now() - entry.mtimeMs > abandonedAfter;
};

/** Removes what writers of `path` that were killed left beside it. Whatever stands in the way of that is no fault of the writing. */
const removeAbandoned = async (path: string): Promise<void> => {
  const names = await readdir(dirname(path)).catch(() => []);
  for (const name of names)
    if (name.startsWith(`.${basename(path)}${marker}`) && (await isAbandoned(join(dirname(path), name))))
      await rm(join(dirname(path), name), { recursive: true, force: true }).catch(() => {});
};

/** Flushes a folder's entries to disk, so that a rename in it survives a loss of power. */
export const syncFolder = async (folder: string): Promise<void> => {
  if (process.platform === "win32") return; // folders cannot be opened there
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

/** Whether a folder is there; what cannot be looked at is none. */
export const isFolder = async (path: string): Promise<boolean> =>
  stat(path).then(
    (entry) => entry.isDirectory(),
    () => false,
  );

const exists = async (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

/** Throws what the file system says where nothing can be made at `path`, for which missing parent folders would be made too. */
const checkParent = async (path: string): Promise<void> => {
  checkPath(path);
  let folder = dirname(resolve(path));
  while (!(await exists(folder))) folder = dirname(folder);
  if (!(await isFolder(folder))) throw Object.assign(new Error("not a folder"), { code: "ENOTDIR" });
  await access(folder, constants.W_OK);
};

/** Makes a folder and its missing parents, one by one: Node's own way calls every fault ENOENT, or does not end. */
const makeAll = async (path: string): Promise<void> => {
  checkPath(path);
  if (await isFolder(path)) return;
  await checkParent(path);
  await makeAll(dirname(resolve(path)));
  await mkdir(path).catch(async (error: unknown) => {
    if (!(await isFolder(path))) throw error; // another process was faster
  });
};

/**
 * Makes a folder, and its parents where they are missing.
 * @throws RequestError or RunError naming it where the file system refuses
 */
export const makeFolder = async (path: string): Promise<void> => {
  try {
    await makeAll(path);
  } catch (error) {
    throw fileError(error, "make the folder", path);
  }
};

/** Largest single write: the system call takes no more than 2 GiB. */
const largestWrite = 2 ** 30;

const writeAll = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
  for (let offset = 0; offset < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, offset, Math.min(bytes.length - offset, largestWrite));
    offset += bytesWritten;
  }
};

/**
 * Writes a file whole or not at all: to a temporary name in the same folder, flushed, then renamed over `path`.
 * Missing parent folders are made; what killed writers of the same path left beside it is removed.
 *
 * @param content the text, the bytes, or pieces of bytes in order (so that large files need no copy in memory)
 * @throws RequestError or RunError naming `path` where the file system refuses
 */
export const writeFileAtomic = async (
  path: string,
  content: string | Uint8Array | Iterable<Uint8Array>,
): Promise<void> => {
  const pieces =
    typeof content === "string" ? [Buffer.from(content)] : ArrayBuffer.isView(content) ? [content] : content;
  const temporary = temporaryName(resolve(path));
  try {
    checkPath(path);
    await makeAll(dirname(temporary));
    await removeAbandoned(resolve(path));
    try {
      const handle = await open(temporary, "wx");
      try {
        for (const piece of pieces) await writeAll(handle, piece);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    await syncFolder(dirname(temporary));
  } catch (error) {
    throw fileError(error, "write", path);
  }
};

/**
 * Refuses a file that could not be written, before the work for it is done; makes nothing.
 * @throws RequestError naming `path`
 */
export const checkWritable = async (path: string): Promise<void> => {
  try {
    if (await isFolder(path)) throw Object.assign(new Error("a folder"), { code: "EISDIR" });
    await checkParent(path);
  } catch (error) {
    throw fileError(error, "write", path);
  }
};

/**
 * Writes a folder whole or not at all: `fill` writes into a temporary folder beside `path`, which is flushed and renamed.
 * A folder that stands at `path` already is replaced; missing parent folders are made.
 *
 * @param fill writes the files into the folder that it is given, none deeper than that folder, each flushed by itself
 *   (as `writeFileAtomic` does)
 * @throws RequestError or RunError naming `path` where the file system refuses
 */
export const writeFolderAtomic = async (path: string, fill: (folder: string) => Promise<void>): Promise<void> => {
  const target = resolve(path);
  const temporary = temporaryName(target);
  try {
    await makeAll(dirname(temporary));
    await removeAbandoned(target);
    await mkdir(temporary);
    try {
      await fill(temporary);
      await syncFolder(temporary);
      const old = (await exists(target)) ? temporaryName(target) : undefined;
      if (old !== undefined) await rename(target, old);
      await rename(temporary, target);
      if (old !== undefined) await rm(old, { recursive: true, force: true });
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw error;
    }
    await syncFolder(dirname(target));
  } catch (error) {
    // A file in it was refused by its temporary name.
    const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
    throw fileError(code === undefined ? error : (error as Error).cause, "write", path);
  }
};

/** Removes a file or folder so that it is seen whole or not at all: renamed first, then deleted. */
export const removeAtomic = async (path: string): Promise<void> => {
  const temporary = temporaryName(resolve(path));
  await rename(path, temporary);
  await rm(temporary, { recursive: true, force: true });
};
