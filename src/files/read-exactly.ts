import type { FileHandle } from "node:fs/promises";

/** Largest single read: the system call takes no more than 2 GiB. */
const largestRead = 2 ** 30;

/**
 * `length` bytes of an open file from `position` on, in memory of their own.
 * @throws what `cut` makes of the place where the file ended too early
 */
export const readExactly = async (
  handle: FileHandle,
  position: number,
  length: number,
  cut: (at: number) => Error,
): Promise<Uint8Array<ArrayBuffer>> => {
  const bytes = new Uint8Array(length);
  for (let offset = 0; offset < length; ) {
    const { bytesRead } = await handle.read(bytes, offset, Math.min(length - offset, largestRead), position + offset);
    if (bytesRead === 0) throw cut(position + offset);
    offset += bytesRead;
  }
  return bytes;
};
