import type { FileHandle } from "node:fs/promises";
import { inflateRawSync } from "node:zlib";
import type { Budget } from "./budget.ts";
import { crc32 } from "./crc32.ts";
import { readExactly } from "./read-exactly.ts";

/**
 * Members of zip archives (PKWARE's APPNOTE.TXT 6.3), stored or deflated, with 64-bit sizes, read one at a time and
 * each against its CRC-32. The central directory decides, and each member's own header must agree with it.
 */
export interface Zip {
  /** In the order of the directory. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** Bytes of a member unpacked, as the directory says; undefined where there is none. */
  size(name: string): number | undefined;
  /**
   * Reads a member.
   * @throws Error that says what is wrong with it
   */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
}

interface Entry {
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  readonly packed: number;
  readonly unpacked: number;
  readonly offset: number;
}

interface Directory {
  readonly offset: number;
  readonly bytes: number;
  readonly count: number;
}

const endLength = 22;
const longestComment = 0xffff;
const locatorLength = 20;
const wideEndLength = 56;
const wide32 = 0xffffffff;

const cut = (at: number): Error => new Error(`it ended at byte ${at} while being read`);

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const number64 = (view: DataView, at: number): number => {
  const value = Number(view.getBigUint64(at, true));
  if (!Number.isSafeInteger(value)) throw new Error("its directory gives a size beyond any file");
  return value;
};

/** Where the directory lies: from the record at the very end of the file, and its 64-bit companion where there is one. */
const findDirectory = async (handle: FileHandle, size: number): Promise<Directory> => {
  const length = Math.min(size, endLength + longestComment + locatorLength);
  const start = size - length;
  const tail = await readExactly(handle, start, length, cut);
  const view = viewOf(tail);
  for (let at = length - endLength; at >= 0; at--) {
    if (view.getUint32(at, true) !== 0x06054b50 || at + endLength + view.getUint16(at + 20, true) !== length) continue;
    if (view.getUint16(at + 4, true) !== 0 || view.getUint16(at + 6, true) !== 0)
      throw new Error("it is one of several parts");
    const narrow = {
      count: view.getUint16(at + 10, true),
      bytes: view.getUint32(at + 12, true),
      offset: view.getUint32(at + 16, true),
    };
    if (view.getUint16(at + 8, true) !== narrow.count) throw new Error("its directory is damaged");
    const locator = at - locatorLength;
    if (locator < 0 || view.getUint32(locator, true) !== 0x07064b50) {
      if (narrow.offset + narrow.bytes !== start + at) throw new Error("its directory is not where its end says");
      return narrow;
    }
    return wideDirectory(handle, number64(view, locator + 8), start + locator, narrow);
  }
  throw new Error("it is cut short: the directory at its end is missing");
};

const wideDirectory = async (
  handle: FileHandle,
  position: number,
  locator: number,
  narrow: Directory,
): Promise<Directory> => {
  if (position + wideEndLength > locator) throw new Error("its directory is not where its end says");
  const view = viewOf(await readExactly(handle, position, wideEndLength, cut));
  const [count, bytes, offset] = [number64(view, 32), number64(view, 40), number64(view, 48)];
  const agrees = (small: number, large: number, most: number): boolean => small === most || small === large;
  const sane =
    view.getUint32(0, true) === 0x06064b50 &&
    number64(view, 24) === count &&
    agrees(narrow.count, count, 0xffff) &&
    agrees(narrow.bytes, bytes, wide32) &&
    agrees(narrow.offset, offset, wide32) &&
    offset + bytes === position;
  if (!sane) throw new Error("its directory is damaged");
  return { count, bytes, offset };
};

const headerLength = 46;

/** Sizes and place out of the 64-bit extra field, in the order of those that did not fit into the entry itself. */
const widen = (extra: DataView, fields: readonly number[]): number[] => {
  if (!fields.includes(wide32)) return [...fields];
  for (let at = 0; at + 4 <= extra.byteLength; ) {
    const length = extra.getUint16(at + 2, true);
    if (at + 4 + length > extra.byteLength) break;
    if (extra.getUint16(at, true) === 1) {
      let from = at + 4;
      return fields.map((value) => {
        if (value !== wide32) return value;
        if (from + 8 > at + 4 + length) throw new Error("its directory lacks a 64-bit size");
        from += 8;
        return number64(extra, from - 8);
      });
    }
    at += 4 + length;
  }
  throw new Error("its directory lacks a 64-bit size");
};

const parseDirectory = (bytes: Uint8Array, count: number): Entry[] => {
  const view = viewOf(bytes);
  const entries: Entry[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + headerLength > bytes.length || view.getUint32(at, true) !== 0x02014b50)
      throw new Error(`its directory is damaged at entry ${i}`);
    const [names, extras, comments] = [28, 30, 32].map((o) => view.getUint16(at + o, true)) as [number, number, number];
    const end = at + headerLength + names + extras + comments;
    if (end > bytes.length) throw new Error(`its directory is damaged at entry ${i}`);
    const name = Buffer.from(bytes.subarray(at + headerLength, at + headerLength + names)).toString();
    if ((view.getUint16(at + 8, true) & 1) !== 0) throw new Error(`its member ${name} is encrypted`);
    const extraAt = bytes.byteOffset + at + headerLength + names;
    const [unpacked, packed, offset] = widen(
      new DataView(bytes.buffer, extraAt, extras),
      [24, 20, 42].map((o) => view.getUint32(at + o, true)),
    ) as [number, number, number];
    entries.push({
      name,
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      packed,
      unpacked,
      offset,
    });
    at = end;
  }
  if (at !== bytes.length) throw new Error("its directory is longer than its entries");
  return entries;
};

const unpack = (entry: Entry, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> => {
  if (entry.method === 0) return bytes;
  const { buffer, engine } = inflateRawSync(bytes, {
    maxOutputLength: Math.max(1, entry.unpacked),
    info: true,
  } as object) as unknown as { buffer: Buffer<ArrayBuffer>; engine: { bytesWritten: number } };
  if (engine.bytesWritten !== bytes.length) throw new Error(`its member ${entry.name} is followed by other bytes`);
  // Memory of its own, aligned for any type.
  return new Uint8Array(buffer);
};

const readEntry = async (
  handle: FileHandle,
  entry: Entry,
  end: number,
  budget: Budget,
): Promise<Uint8Array<ArrayBuffer>> => {
  const { name, method, packed, unpacked, offset } = entry;
  if (method !== 0 && method !== 8) throw new Error(`its member ${name} is packed by method ${method}`);
  if (method === 0 && packed !== unpacked) throw new Error(`its member ${name} has two sizes`);
  const localLength = 30;
  if (offset + localLength > end) throw new Error(`its member ${name} lies outside the file`);
  const local = viewOf(await readExactly(handle, offset, localLength, cut));
  const names = local.getUint16(26, true);
  const begin = offset + localLength + names + local.getUint16(28, true);
  if (local.getUint32(0, true) !== 0x04034b50 || begin + packed > end)
    throw new Error(`its member ${name} lies outside the file`);
  const own = Buffer.from(await readExactly(handle, offset + localLength, names, cut)).toString();
  if (own !== name || local.getUint16(8, true) !== method)
    throw new Error(`its member ${name} has another name or method where it lies`);
  budget.take(unpacked, `its member ${name}`);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = unpack(entry, await readExactly(handle, begin, packed, cut));
  } catch (cause) {
    throw new Error(`its member ${name} does not unpack: it is damaged`, { cause });
  }
  if (bytes.length !== unpacked || crc32(bytes) !== entry.crc)
    throw new Error(`its member ${name} does not match its checksum: it is damaged`);
  return bytes;
};

/**
 * Opens a zip archive for reading.
 * @param budget what members unpack to is taken from it
 * @throws Error that says what is wrong with it, to be put behind the file's name
 */
export const openZip = async (handle: FileHandle, size: number, budget: Budget): Promise<Zip> => {
  if (size < endLength) throw new Error("it is cut short");
  const { offset, bytes, count } = await findDirectory(handle, size);
  const list = parseDirectory(await readExactly(handle, offset, bytes, cut), count);
  const entries = new Map(list.map((entry) => [entry.name, entry]));
  if (entries.size < list.length) throw new Error("two of its members have the same name");
  // Members that overlap would be read over and over.
  if (list.reduce((sum, { packed }) => sum + packed, 0) > size) throw new Error("its members overlap");
  return {
    names: list.map(({ name }) => name),
    has: (name) => entries.has(name),
    size: (name) => entries.get(name)?.unpacked,
    read: (name) => {
      const entry = entries.get(name);
      if (entry === undefined) throw new Error(`it has no member ${name}`);
      return readEntry(handle, entry, offset, budget);
    },
  };
};
