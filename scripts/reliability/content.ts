/** What a run left, so that two runs can be compared: all of it but what the clock writes. */
import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { isPartial } from "../../src/files/atomic.ts";

/** Figures of the clock, and what is sealed with them. */
const ofClock = new Set(["seconds", "waitSeconds", "sha256"]);

/** Files of the clock: times of steps, TensorBoard's times, pages that show minutes, and what names machine and commit. */
const clockFiles = /^(timing\.jsonl|report\.html|events\.out\..*|config\.yaml)$/;

const withoutClock = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(withoutClock)
    : typeof value === "object" && value !== null
      ? Object.fromEntries(
          Object.entries(value).flatMap(([key, inner]) => (ofClock.has(key) ? [] : [[key, withoutClock(inner)]])),
        )
      : value;

const digestOf = async (path: string, out: string): Promise<string> => {
  const bytes = await readFile(path);
  const isJson = path.endsWith(".json") && basename(path) !== "state.json";
  // Results name the folder that they lie in.
  const text = () => JSON.stringify(withoutClock(JSON.parse(bytes.toString()))).replaceAll(out, "OUT");
  return createHash("sha256")
    .update(isJson ? text() : bytes)
    .digest("hex");
};

const filesIn = async (path: string): Promise<string[]> => {
  const entry = await stat(path).catch(() => undefined);
  if (entry === undefined) return [];
  if (!entry.isDirectory()) return [path];
  const found = await readdir(path, { recursive: true, withFileTypes: true });
  return found.filter((file) => file.isFile()).map((file) => join(file.parentPath ?? file.path, file.name));
};

/** Whether a name is that of unfinished work at `own` beside it. */
export const isPartialOf = (name: string, own: string): boolean =>
  isPartial(name) && name.slice(1, name.indexOf(".partial-")) === own;

/** Digests by path of what lies at `out` and in `out`.run, a file or a folder, and of unfinished work beside them. */
export const contentOf = async (out: string): Promise<Map<string, string>> => {
  const content = new Map<string, string>();
  for (const [place, label] of [
    [out, "OUT"],
    [`${out}.run`, "OUT.run"],
  ] as const)
    for (const path of await filesIn(place))
      if (!clockFiles.test(basename(path))) content.set(join(label, relative(place, path)), await digestOf(path, out));
  for (const name of await readdir(dirname(out)))
    if ([out, `${out}.run`].some((path) => isPartialOf(name, basename(path)))) content.set(`beside OUT: ${name}`, "");
  return content;
};

/** Paths that only one of two has, or that differ. */
export const differing = (a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): string[] =>
  [...new Set([...a.keys(), ...b.keys()])].filter((path) => a.get(path) !== b.get(path)).sort();
