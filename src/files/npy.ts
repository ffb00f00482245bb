/** Reads numpy's .npy files of bytes: what CIFAR-10-C is published as. */
import { type FileHandle, open } from "node:fs/promises";
import { RequestError } from "../errors.ts";
import { fileError } from "./file-error.ts";

export interface Npy {
  readonly shape: readonly number[];
  /** Reads rows (entries of the first axis) `begin` to `end`. */
  rows(begin: number, end: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

const MAGIC = "\x93NUMPY";
const LONGEST_HEADER = 2 ** 16;

const fault = (path: string, what: string): RequestError =>
  new RequestError(`${path} is not a .npy file of bytes: ${what}; check the download`);

const readAt = async (handle: FileHandle, length: number, position: number, path: string): Promise<Buffer> => {
  const bytes = Buffer.alloc(length);
  for (let offset = 0; offset < length; ) {
    const { bytesRead } = await handle.read(bytes, offset, length - offset, position + offset);
    if (bytesRead === 0) throw fault(path, "it is cut short");
    offset += bytesRead;
  }
  return bytes;
};

/**
 * Opens a file of uint8 (or int64 labels, of which the lowest bytes are read) in C order.
 * @throws RequestError naming the file where it is missing or something else
 */
export const openNpy = async (path: string): Promise<Npy> => {
  let handle: FileHandle | undefined;
  try {
    const file = await open(path, "r");
    handle = file;
    const { size } = await file.stat();
    if (size < 12) throw fault(path, "it is too short");
    const start = await readAt(file, 12, 0, path);
    if (start.toString("latin1", 0, 6) !== MAGIC) throw fault(path, "it does not begin as one");
    const wide = (start[6] as number) > 1;
    const length = wide ? start.readUInt32LE(8) : start.readUInt16LE(8);
    const begin = wide ? 12 : 10;
    if (length > LONGEST_HEADER || begin + length > size) throw fault(path, "its header is cut short");
    const header = (await readAt(file, length, begin, path)).toString("latin1");
    const type = /'descr'\s*:\s*'[|<]?(u1|i8|i4)'/.exec(header)?.[1];
    const shape = /'shape'\s*:\s*\(([\d\s,]*)\)/
      .exec(header)?.[1]
      ?.split(",")
      .map((d) => d.trim())
      .filter((d) => d !== "")
      .map(Number);
    if (type === undefined || shape === undefined || shape.length === 0 || /'fortran_order'\s*:\s*True/.test(header))
      throw fault(path, "its type or order is another");
    const width = type === "u1" ? 1 : type === "i4" ? 4 : 8;
    const row = shape.slice(1).reduce((n, d) => n * d, 1);
    const data = begin + length;
    if (data + (shape[0] as number) * row * width > size) throw fault(path, "it is cut short");
    return {
      shape,
      rows: async (from, to) => {
        const bytes = await readAt(file, (to - from) * row * width, data + from * row * width, path);
        if (width === 1) return bytes;
        return Uint8Array.from({ length: (to - from) * row }, (_, i) => bytes[i * width] as number);
      },
      close: () => file.close(),
    };
  } catch (error) {
    await handle?.close();
    throw fileError(error, "read", path);
  }
};
