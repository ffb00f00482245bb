import { totalmem } from "node:os";
import { RequestError } from "../errors.ts";

/** Bytes of memory that this process may use: of its container where that is bounded, else of the machine. */
const memory = (): number => {
  const constrained = process.constrainedMemory?.() ?? 0;
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
};

/**
 * Shared memory for images [count, 3, height, width].
 * @throws RequestError where they are more than the machine's memory
 */
export const allocateImages = (count: number, height: number, width: number): Uint8Array => {
  const bytes = count * 3 * height * width;
  const there = memory();
  const gigabytes = (n: number): string => (n / 2 ** 30).toFixed(1);
  if (!(bytes <= there))
    throw new RequestError(
      `${count} images of ${height}×${width} take ${gigabytes(bytes)} GiB, more than the ${gigabytes(there)} GiB of memory; lower --limit or --size.`,
    );
  return new Uint8Array(new SharedArrayBuffer(bytes));
};
