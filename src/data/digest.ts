import { createHash } from "node:crypto";
import type { Dataset } from "./dataset.ts";

/** Bytes of an image's digest. */
export const digestBytes = 8;

/**
 * What tells an image from others, whatever size it is read at: of its name (empty where the dataset has none) and of
 * its bytes as the dataset has them, before decoding and resizing.
 */
export const imageDigest = (name: string, bytes: Uint8Array): Uint8Array =>
  createHash("sha256").update(`${name}\0`).update(bytes).digest().subarray(0, digestBytes);

/** Digests by place in the full official split, [officialCount, 8]; zeros for images that are not here. */
export const officialDigests = ({
  digests,
  index,
  officialCount,
}: Pick<Dataset, "digests" | "index" | "officialCount">): Uint8Array | undefined => {
  if (digests === undefined) return undefined;
  const all = new Uint8Array(officialCount * digestBytes);
  index.forEach((at, i) => {
    all.set(digests.subarray(i * digestBytes, (i + 1) * digestBytes), at * digestBytes);
  });
  return all;
};

/**
 * One text for all images of a dataset, wherever it lies: it changes with any image, their order or their number.
 * Undefined where the dataset carries no digests.
 */
export const datasetFingerprint = ({
  digests,
  index,
  name,
}: Pick<Dataset, "digests" | "index" | "name">): string | undefined =>
  digests &&
  createHash("sha256")
    .update(name)
    .update(new Uint8Array(index.buffer, index.byteOffset, index.byteLength))
    .update(digests)
    .digest("hex")
    .slice(0, 32);
