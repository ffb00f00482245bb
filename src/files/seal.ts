/** Seals: JSON that carries the SHA-256 of its own content, so that what was changed by hand or by a bad disk is not taken for a result. */
import { createHash } from "node:crypto";
import { RequestError } from "../errors.ts";
import { writeFileAtomic } from "./atomic.ts";
import { readTextIfThere } from "./if-there.ts";

/** SHA-256, hexadecimal, of what a value is in JSON. */
export const digestOf = (content: unknown): string =>
  createHash("sha256")
    .update(JSON.stringify(content) ?? "")
    .digest("hex");

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** An object with the digest of its content behind it, as one line of JSON, or indented. */
export const sealed = (content: object, indent?: number): string => {
  // What JSON makes of it is what a reader finds.
  const plain = JSON.parse(JSON.stringify(content)) as object;
  return JSON.stringify({ ...plain, sha256: digestOf(plain) }, null, indent);
};

/** What a seal says of parsed content: it fits, it is missing, or the content was changed. */
export const checkSeal = (
  value: unknown,
): { readonly content: Record<string, unknown>; readonly seal: "fits" | "missing" | "broken" } | undefined => {
  if (!isObject(value)) return undefined;
  const { sha256, ...content } = value;
  if (sha256 === undefined) return { content, seal: "missing" };
  return { content, seal: sha256 === digestOf(content) ? "fits" : "broken" };
};

/** Writes an object with its seal as indented JSON, whole or not at all. */
export const writeSealed = (path: string, content: object): Promise<void> =>
  writeFileAtomic(path, `${sealed(content, 2)}\n`);

/**
 * Reads what `writeSealed` wrote.
 *
 * @param remedy what makes the file again, for the refusal
 * @returns undefined where there is no such file
 * @throws RequestError where it is not JSON, or is not what was written
 */
export const readSealed = async (
  path: string,
  remedy = "make it again with the command that wrote it",
): Promise<Record<string, unknown> | undefined> => {
  const text = await readTextIfThere(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const checked = checkSeal(value);
  if (checked === undefined) throw new RequestError(`${path} is damaged; ${remedy}`);
  if (checked.seal === "missing")
    throw new RequestError(`${path} carries no sha256, by which a change of its figures would be seen; ${remedy}`);
  if (checked.seal === "broken")
    throw new RequestError(
      `${path} was changed after it was written (its sha256 is another's); restore it, or ${remedy}`,
    );
  return checked.content;
};
