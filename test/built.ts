import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A file of the built package, for tests that start processes of their own. */
export const built = (path: string): string => {
  const file = fileURLToPath(new URL(`../dist/${path}`, import.meta.url));
  if (!existsSync(file)) throw new Error(`${file} is missing: run npm run build first`);
  return file;
};
