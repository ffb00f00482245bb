import { once } from "node:events";
import { createReadStream } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { Parser, type ReadEntry } from "tar";
import { RequestError } from "../errors.ts";

/** A file being read, from a folder or out of a tar archive. */
export interface Member {
  /** What to call it in messages. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly chunks: AsyncIterable<Uint8Array>;
}

/** How a dataset is published. */
export interface Layout {
  /** For messages, such as "CIFAR-10". */
  readonly title: string;
  /** The folder inside the archive. */
  readonly folder: string;
  readonly archive: string;
}

type Location = { readonly kind: "folder" | "archive"; readonly path: string };

const kindOf = async (path: string): Promise<"folder" | "file" | undefined> => {
  try {
    return (await stat(path)).isDirectory() ? "folder" : "file";
  } catch {
    return undefined;
  }
};

const locate = async (data: string, layout: Layout, files: readonly string[]): Promise<Location> => {
  const kind = await kindOf(data);
  if (kind === undefined)
    throw new RequestError(
      `data: ${data} does not exist; give the folder ${layout.folder}, its parent folder or ${layout.archive}.`,
    );
  if (kind === "file") {
    if (/\.(tar|tar\.gz|tgz)$/.test(data)) return { kind: "archive", path: data };
    throw new RequestError(
      `data: ${data} is neither a folder nor a .tar.gz file; give the folder ${layout.folder}, its parent folder or ${layout.archive}.`,
    );
  }
  for (const folder of [data, join(data, layout.folder)]) {
    const there = new Set(await readdir(folder).catch(() => []));
    if (files.some((file) => there.has(file))) return { kind: "folder", path: folder };
  }
  if ((await kindOf(join(data, layout.archive))) === "file")
    return { kind: "archive", path: join(data, layout.archive) };
  throw new RequestError(
    `data: ${layout.title} is not in ${data}, where ${files[0]}, ${layout.folder}/${files[0]} and ${layout.archive} were looked for; give the folder that holds one of them.`,
  );
};

async function* chunksOf(file: FileHandle): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(1 << 20); // refilled: each chunk is used up before the next is asked for
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
  }
}

const readFolder = async <T>(
  folder: string,
  files: readonly string[],
  use: (name: string, member: Member) => Promise<T>,
): Promise<Map<string, T>> => {
  const results = new Map<string, T>();
  for (const name of files) {
    const path = join(folder, name);
    const file = await open(path).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code !== "ENOENT")
        throw new RequestError(`data: ${path} cannot be read (${cause.message}).`, { cause });
      throw new RequestError(`data: ${path} is missing; download the dataset again or give another folder.`);
    });
    try {
      results.set(name, await use(name, { path, size: (await file.stat()).size, chunks: chunksOf(file) }));
    } finally {
      await file.close();
    }
  }
  return results;
};

const readArchive = async <T>(
  archive: string,
  files: readonly string[],
  use: (name: string, member: Member) => Promise<T>,
): Promise<Map<string, T>> => {
  const results = new Map<string, T>();
  const wanted = new Set(files);
  let failure: unknown;
  let reading: Promise<void> = Promise.resolve();
  const take = async (name: string, entry: ReadEntry): Promise<void> => {
    try {
      results.set(name, await use(name, { path: `${archive}:${entry.path}`, size: entry.size, chunks: entry }));
    } catch (cause) {
      failure ??= cause;
    }
    entry.resume(); // the rest of a file that was not read to its end
  };
  const parser = new Parser({
    strict: true,
    onReadEntry: (entry) => {
      const name = basename(entry.path);
      if (!wanted.delete(name)) entry.resume();
      else reading = take(name, entry);
    },
  });
  parser.on("error", (cause: Error) => {
    failure ??= new RequestError(`data: ${archive} is not a whole tar.gz file (${cause.message}); download it again.`, {
      cause,
    });
  });
  const stream = createReadStream(archive, { highWaterMark: 1 << 20 });
  try {
    for await (const chunk of stream) {
      if (!parser.write(chunk)) await once(parser, "drain");
      if (failure !== undefined || results.size === files.length) break;
    }
    if (failure === undefined && results.size < files.length) {
      const ended = once(parser, "end");
      parser.end();
      await ended;
      await reading;
    }
  } catch (cause) {
    failure ??= cause;
  } finally {
    stream.destroy();
  }
  if (failure !== undefined) throw failure;
  const missing = files.filter((name) => !results.has(name));
  if (missing.length > 0)
    throw new RequestError(`data: ${archive} holds no ${missing.join(", ")}; give the dataset's binary version.`);
  return results;
};

/**
 * Reads files of a published dataset, wherever `data` points: its folder, the parent of that, or the archive itself.
 * @param files file names without folders
 * @param use reads one file; called one at a time, in the order of the archive where there is one
 * @returns what `use` made of each file
 * @throws RequestError where a file is missing or the archive is damaged
 */
export const readMembers = async <T>(
  data: string,
  layout: Layout,
  files: readonly string[],
  use: (name: string, member: Member) => Promise<T>,
): Promise<Map<string, T>> => {
  const { kind, path } = await locate(data, layout, files);
  return kind === "folder" ? readFolder(path, files, use) : readArchive(path, files, use);
};

/**
 * Reads up to `limit` records of `length` bytes.
 * @param maximum records of the whole official file
 * @param use is given the records in order; the bytes are only valid during the call
 * @throws RequestError where the file is empty, cut off, or longer than the official one
 */
export const readRecords = async (
  member: Member,
  length: number,
  maximum: number,
  limit: number,
  start: (count: number) => void,
  use: (record: Uint8Array, j: number) => void,
): Promise<void> => {
  const { path, size } = member;
  if (size === 0) throw new RequestError(`data: ${path} is empty; download it again.`);
  if (size % length !== 0)
    throw new RequestError(
      `data: ${path} is cut off: its ${size} bytes are not a multiple of the ${length} bytes of a record; download it again.`,
    );
  if (size / length > maximum)
    throw new RequestError(
      `data: ${path} holds ${size / length} records but the official file has ${maximum}; check that it is the right file.`,
    );
  const count = Math.min(size / length, limit);
  start(count);
  const record = new Uint8Array(length);
  let filled = 0;
  let j = 0;
  for await (const chunk of member.chunks) {
    for (let at = 0; at < chunk.length && j < count; ) {
      const part = chunk.subarray(at, at + length - filled);
      record.set(part, filled);
      filled += part.length;
      at += part.length;
      if (filled === length) {
        use(record, j++);
        filled = 0;
      }
    }
    if (j === count) return;
  }
  throw new RequestError(`data: ${path} ended after ${j} of its ${count} records; download it again.`);
};
