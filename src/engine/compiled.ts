import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { RunError } from "../errors.ts";

/** Compiled code for a thread: of this folder or, when this runs from its source (tests), in dist. */
export const compiledFile = (path: string): URL => {
  const source = import.meta.url.endsWith(".ts");
  const file = new URL(source ? `../../dist/src/${path}` : `../${path}`, import.meta.url);
  if (!existsSync(fileURLToPath(file)))
    throw new RunError("threads need compiled code: run `npm run build`, or set workers to 0 and threads to 1");
  return file;
};
