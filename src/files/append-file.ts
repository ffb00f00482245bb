import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { checkPath, fileError } from "./file-error.ts";

/** What writers of logs use of one; ranks that write nothing have their own. */
export type Log = Pick<AppendFile, "size" | "append" | "sync" | "close">;

/**
 * A log on disk that only grows, cut back to a known length when a run resumes. Writes are synchronous, so lines keep
 * their order and a killed process loses nothing that was written.
 */
export class AppendFile {
  readonly path: string;
  readonly #fd: number;
  #size: number;

  /**
   * Opens or makes the file.
   *
   * @param length bytes to keep of what it holds, down to the last whole record, lest a torn one spoil the next
   * @throws RequestError or RunError naming the file where the file system refuses
   */
  constructor(path: string, length: number) {
    this.path = path;
    try {
      checkPath(path);
      mkdirSync(dirname(path), { recursive: true });
      this.#fd = openSync(path, "a");
      this.#size = fstatSync(this.#fd).size;
      this.#cut(length);
      this.#cut(wholePart(path));
    } catch (error) {
      throw fileError(error, "write", path);
    }
  }

  #cut(length: number): void {
    if (this.#size <= length) return;
    ftruncateSync(this.#fd, length);
    this.#size = length;
  }

  /** Length in bytes. */
  get size(): number {
    return this.#size;
  }

  append(content: string | Uint8Array): void {
    const bytes = typeof content === "string" ? Buffer.from(content) : content;
    try {
      for (let offset = 0; offset < bytes.length; ) offset += writeSync(this.#fd, bytes, offset);
    } catch (error) {
      throw fileError(error, "write", this.path);
    }
    this.#size += bytes.length;
  }

  /** Flushes to disk. */
  sync(): void {
    try {
      fsyncSync(this.#fd);
    } catch (error) {
      throw fileError(error, "write", this.path);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Length in bytes of the whole lines of a text file; 0 where it is missing. */
export const wholeLines = (path: string): number => {
  if (!existsSync(path)) return 0;
  try {
    return readFileSync(path).lastIndexOf("\n") + 1;
  } catch (error) {
    throw fileError(error, "read", path);
  }
};

/** Length in bytes of the whole records of a TFRecord file: 8 bytes of length, 4 of its checksum, the data, 4 of theirs. */
const wholeRecords = (path: string): number => {
  const bytes = readFileSync(path);
  let at = 0;
  while (at + 16 <= bytes.length) {
    const end = at + 16 + Number(bytes.readBigUInt64LE(at));
    if (end > bytes.length) break;
    at = end;
  }
  return at;
};

/** What tells the whole records of a log: of lines, or of TensorBoard's events. */
const wholePart = (path: string): number => (path.endsWith(".jsonl") ? wholeLines(path) : wholeRecords(path));
