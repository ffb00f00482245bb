/** Damage to files, and what becomes of it in a reader. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Random } from "../../src/data/random.ts";
import { isOurs } from "../../src/errors.ts";

/** What a format can notice by itself: any change, changes of its headers only, or none that leaves it well-formed. */
export type Checksum = "whole" | "headers" | "none";

/** A reader and a sound file for it. */
export interface Subject {
  readonly name: string;
  readonly checksum: Checksum;
  /** The file that is damaged, from the folder that is its own. */
  readonly file: string;
  /** What the reader makes of the folder, as a text that differs where the content does. */
  readonly read: (folder: string) => Promise<string>;
}

/** What came of a damaged file. */
export type Outcome = "refused" | "same" | "other" | "fault";

export interface Verdict {
  readonly outcome: Outcome;
  /** Of a refusal or a fault. */
  readonly message: string;
}

/** Numbers that lengths and counts go wrong at, as 1, 2, 4 or 8 bytes. */
const edges = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** A damaged copy: a bit turned, a byte or number replaced, a part cut out, repeated, blanked or filled in. */
export const mutate = (sound: Uint8Array, r: Random): Uint8Array => {
  const bytes = new Uint8Array(sound); // a Buffer's slices are views
  const at = r.int(bytes.length);
  const end = Math.min(bytes.length, at + 1 + r.int(1 + r.int(64)));
  const out = bytes.slice();
  const joined = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
  switch (r.int(9)) {
    case 0:
    case 1:
      out[at]! ^= 1 << r.int(8);
      return out;
    case 2:
      out[at] = r.int(256);
      return out;
    case 3: {
      const value = Buffer.alloc(8);
      value.writeBigUInt64LE(edges[r.int(edges.length)]!);
      const width = 1 << r.int(4);
      out.set(value.subarray(0, Math.min(width, bytes.length - at)), at);
      return out;
    }
    case 4:
      return bytes.slice(0, at);
    case 5:
      return joined(bytes.subarray(0, at), bytes.subarray(end));
    case 6:
      return joined(bytes.subarray(0, end), bytes.subarray(at));
    case 7:
      return out.fill(0, at, end);
    default:
      return joined(
        bytes.subarray(0, at),
        Uint8Array.from({ length: 1 + r.int(16) }, () => r.int(256)),
        bytes.subarray(at),
      );
  }
};

/** A reader that takes so long over a file of a few kilobytes is out of proportion. */
const slow = 10_000;

/** Lays `bytes` in the place of a subject's file and reads it. */
export const judge = async (root: string, subject: Subject, sound: string, bytes: Uint8Array): Promise<Verdict> => {
  const folder = join(root, subject.name);
  await writeFile(join(folder, subject.file), bytes);
  const began = performance.now();
  let verdict: Verdict;
  let timer: NodeJS.Timeout | undefined;
  const never = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("it never settles")), slow);
  });
  try {
    const content = await Promise.race([subject.read(folder), never]);
    verdict = { outcome: content === sound ? "same" : "other", message: "" };
    if (verdict.outcome === "other" && subject.checksum === "whole")
      verdict = { outcome: "fault", message: "other content in spite of a checksum" };
  } catch (error) {
    const { name, message, stack } = error as Error;
    const isSentence = isOurs(error) && !/internal:/.test(message) && name !== "RunError";
    verdict = isSentence ? { outcome: "refused", message } : { outcome: "fault", message: stack ?? String(error) };
  } finally {
    clearTimeout(timer);
  }
  const took = performance.now() - began;
  return took < slow ? verdict : { outcome: "fault", message: `it took ${(took / 1000).toFixed(1)} s` };
};
