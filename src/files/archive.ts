import { once } from "node:events";
import { createReadStream } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { createGunzip } from "node:zlib";
import { Parser, type ReadEntry } from "tar";
import { RequestError } from "../errors.ts";
import { Budget, type ReadOptions } from "./budget.ts";
import { fileError } from "./file-error.ts";
import { isHidden } from "./hidden.ts";
import { ifThere } from "./if-there.ts";
import { misfit, sniffFile } from "./sniff.ts";

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

/** What one way of publishing a dataset has: its layout and the files that are wanted of it. */
export interface Version {
  readonly layout: Layout;
  /** File names without folders. */
  readonly files: readonly string[];
}

/** Where a dataset lies. */
export interface Location {
  readonly kind: "folder" | "archive";
  readonly path: string;
  /** What it may hold: of a folder the one version that was found, of an archive those that its name leaves open. */
  readonly versions: readonly Version[];
}

const kindOf = (path: string): Promise<"folder" | "file" | undefined> =>
  ifThere(path, async () => ((await stat(path)).isDirectory() ? "folder" : "file"));

/** Names in a folder; none where it is no folder. */
const namesIn = async (path: string): Promise<ReadonlySet<string>> => {
  const names = (await ifThere(path, () => readdir(path))) ?? [];
  return new Set(names.filter((name) => !isHidden(name)));
};

/** The version that an archive's own name tells, else all of them. */
const versionsOf = (path: string, versions: readonly Version[]): readonly Version[] => {
  const named = versions.filter(({ layout }) => layout.archive === basename(path));
  return named.length > 0 ? named : versions;
};

/**
 * Where a dataset is: `data` is its folder, the parent of that, or the archive itself.
 * @param versions in the order of preference
 * @throws RequestError naming what was looked for
 */
export const locate = async (data: string, versions: readonly Version[]): Promise<Location> => {
  const names = versions.map(({ layout }) => `${layout.folder}, its parent folder or ${layout.archive}`);
  const remedy = `give the folder ${names.join("; or ")}`;
  const kind = await kindOf(data);
  if (kind === undefined) throw new RequestError(`data: ${data} does not exist; ${remedy}.`);
  if (kind === "file") {
    const { kind: content } = await sniffFile(data);
    if (content !== "gzip" && content !== "tar")
      throw misfit(`data: ${data}`, content, "a folder or a .tar.gz file", remedy);
    return { kind: "archive", path: data, versions: versionsOf(data, versions) };
  }
  for (const version of versions)
    for (const folder of [data, join(data, version.layout.folder)]) {
      const there = await namesIn(folder);
      if (version.files.some((file) => there.has(file))) return { kind: "folder", path: folder, versions: [version] };
    }
  for (const version of versions) {
    const path = join(data, version.layout.archive);
    if ((await kindOf(path)) === "file") return { kind: "archive", path, versions: [version] };
  }
  const { layout, files } = versions[0]!;
  throw new RequestError(
    `data: ${layout.title} is not in ${data}, where ${files[0]}, ${layout.folder}/${files[0]} and ${layout.archive} were looked for; ${remedy}.`,
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

const missingFile = (path: string): RequestError =>
  new RequestError(`data: ${path} is missing; download the dataset again or give another folder.`);

type Use<T> = (name: string, member: Member) => Promise<T>;

const readFolder = async <T>(folder: string, files: readonly string[], use: Use<T>): Promise<Map<string, T>> => {
  const results = new Map<string, T>();
  for (const name of files) {
    const path = join(folder, name);
    try {
      const { kind } = await sniffFile(path);
      if (kind === "html" || kind === "git-lfs") throw misfit(`data: ${path}`, kind, "a file of the dataset", "");
      const file = await open(path);
      try {
        results.set(name, await use(name, { path, size: (await file.stat()).size, chunks: chunksOf(file) }));
      } finally {
        await file.close();
      }
    } catch (error) {
      const { code } = ((error as Error).cause ?? error) as NodeJS.ErrnoException;
      if (code === "ENOENT") throw missingFile(path);
      throw fileError(error, "read", path);
    }
  }
  return results;
};

/** Bytes of an archive unpacked, to the end of the stream, where gzip has its checksum. */
async function* unpacked(archive: string, size: number, gzip: boolean, options: ReadOptions): AsyncGenerator<Buffer> {
  const budget = Budget.of(size, options);
  const stream = createReadStream(archive, { highWaterMark: 1 << 20 });
  // A failure of either ends the loop below; without this it would be thrown where nobody waits.
  const bytes = gzip ? stream.pipe(createGunzip({ chunkSize: 1 << 18 })) : stream;
  if (gzip) stream.on("error", (error) => bytes.destroy(error));
  try {
    for await (const chunk of bytes as AsyncIterable<Buffer>) {
      budget.take(chunk.length, `data: ${archive} unpacked`);
      yield chunk;
    }
  } finally {
    stream.destroy();
    bytes.destroy();
  }
}

/** Feeds a tar parser and settles, whatever the archive holds: an error, or the end of what was written to it. */
const drive = async (parser: Parser, chunks: AsyncIterable<Buffer>): Promise<void> => {
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {}); // it may come when nobody waits any more
  parser.on("error", fail);
  const ended = once(parser, "end");
  ended.catch(() => {});
  for await (const chunk of chunks) if (!parser.write(chunk)) await Promise.race([failed, once(parser, "drain")]);
  parser.end();
  await Promise.race([failed, ended]);
};

const readArchive = async <T>(
  archive: string,
  versions: readonly Version[],
  use: Use<T>,
  options: ReadOptions,
): Promise<Map<string, T>> => {
  const { kind, size } = await sniffFile(archive);
  if (kind !== "gzip" && kind !== "tar") throw misfit(`data: ${archive}`, kind, "a .tar.gz file", "download it again");
  const results = new Map<string, T>();
  const names = new Set(versions.flatMap(({ files }) => files));
  const taken = new Map<string, string>();
  let refusal: unknown;
  let reading: Promise<void> = Promise.resolve();
  const take = async (name: string, entry: ReadEntry): Promise<void> => {
    try {
      const path = `${archive}:${entry.path}`;
      if (entry.type !== "File" && entry.type !== "OldFile")
        throw new RequestError(`data: ${path} is no file but a ${entry.type}; download the archive again.`);
      results.set(name, await use(name, { path, size: entry.size, chunks: entry }));
    } catch (cause) {
      refusal ??= cause;
    }
    entry.resume(); // the rest of a file that was not read to its end
  };
  const parser = new Parser({
    strict: true,
    onReadEntry: (entry) => {
      const name = basename(entry.path);
      if (taken.has(name))
        refusal ??= new RequestError(
          `data: ${archive} holds two files ${name} (${taken.get(name)} and ${entry.path}); check that it is the right archive.`,
        );
      if (refusal !== undefined || !names.has(name)) entry.resume();
      else {
        taken.set(name, entry.path);
        reading = take(name, entry);
      }
    },
  });
  try {
    await drive(parser, unpacked(archive, size, kind === "gzip", options));
    await reading;
  } catch (cause) {
    // What is wrong with the stream comes before what was made of its bytes.
    const ours = fileError(cause, "read", archive);
    if (cause instanceof RequestError || ours !== cause) throw ours;
    throw new RequestError(
      `data: ${archive} is not a whole tar.gz file (${(cause as Error).message}); download it again.`,
      { cause },
    );
  }
  if (refusal !== undefined) throw refusal;
  if (versions.some(({ files }) => files.every((name) => results.has(name)))) return results;
  const nearest = versions.find(({ files }) => files.some((name) => results.has(name))) ?? versions[0]!;
  const missing = nearest.files.filter((name) => !results.has(name));
  throw new RequestError(`data: ${archive} holds no ${missing.join(", ")}; check that it is the right archive.`);
};

/**
 * Refuses a place where a file is missing, before any is read; what an archive holds is not known before.
 * @throws RequestError naming the file
 */
export const checkMembers = async ({ kind, path, versions }: Location): Promise<void> => {
  if (kind === "archive") return;
  const there = await namesIn(path);
  for (const name of versions[0]!.files) if (!there.has(name)) throw missingFile(join(path, name));
};

/**
 * Reads files of a published dataset at a place that `locate` found. An archive is read to its end, where its checksum
 * is.
 * @param use reads one file; called one at a time, in the order of the archive where there is one
 * @returns what `use` made of each file
 * @throws RequestError where a file is missing, or the archive is damaged or unpacks to more than the budget
 */
export const readMembers = async <T>(
  { kind, path, versions }: Location,
  use: Use<T>,
  options: ReadOptions = {},
): Promise<Map<string, T>> =>
  kind === "folder" ? readFolder(path, versions[0]!.files, use) : readArchive(path, versions, use, options);

/**
 * All bytes of a member.
 * @param limit of its size
 * @throws RequestError where it is empty or longer, or ends early
 */
export const readWhole = async ({ path, size, chunks }: Member, limit: number): Promise<Uint8Array> => {
  if (size === 0) throw new RequestError(`data: ${path} is empty; download it again.`);
  if (size > limit)
    throw new RequestError(
      `data: ${path} has ${size} bytes but the official file at most ${limit}; check that it is the right file.`,
    );
  const bytes = new Uint8Array(size);
  let filled = 0;
  for await (const chunk of chunks) {
    if (filled + chunk.length > size) throw new RequestError(`data: ${path} grew while it was read; read it again.`);
    bytes.set(chunk, filled);
    filled += chunk.length;
  }
  if (filled < size)
    throw new RequestError(`data: ${path} ended after ${filled} of its ${size} bytes; download it again.`);
  return bytes;
};

/**
 * How many records of `length` bytes a member has.
 * @param maximum records of the whole official file
 * @throws RequestError where the file is empty, cut off, or longer than the official one
 */
export const countRecords = (
  { path, size }: Pick<Member, "path" | "size">,
  length: number,
  maximum: number,
): number => {
  if (size === 0) throw new RequestError(`data: ${path} is empty; download it again.`);
  if (size % length !== 0)
    throw new RequestError(
      `data: ${path} is cut off: its ${size} bytes are not a multiple of the ${length} bytes of a record; download it again.`,
    );
  if (size / length > maximum)
    throw new RequestError(
      `data: ${path} holds ${size / length} records but the official file has ${maximum}; check that it is the right file.`,
    );
  return size / length;
};

/**
 * Reads all records of `length` bytes.
 * @param use is given the records in order; the bytes are only valid during the call
 * @throws RequestError where the file ends early
 */
export const readRecords = async (
  member: Member,
  length: number,
  use: (record: Uint8Array, j: number) => void,
): Promise<void> => {
  const { path, size, chunks } = member;
  const record = new Uint8Array(length);
  let filled = 0;
  let j = 0;
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + length - filled);
      record.set(part, filled);
      filled += part.length;
      at += part.length;
      if (filled === length) {
        use(record, j++);
        filled = 0;
      }
    }
  }
  if (j * length !== size)
    throw new RequestError(`data: ${path} ended after ${j} of its ${size / length} records; download it again.`);
};
