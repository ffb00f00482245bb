/** docs/reliability.md names a test for each promise: they are there. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { packageRoot } from "../src/version.ts";

const text = readFileSync(join(packageRoot, "docs", "reliability.md"), "utf8");
const named = [...text.matchAll(/`(test\/[^`]+\.test\.ts)`:\s+"([^"]+)"/g)].map(
  ([, file, name]) => [file as string, name as string] as const,
);

test("promises name tests", () => {
  expect(named.length).toBeGreaterThan(20);
  // Nothing else names a test file, but for this one.
  const files = [...text.matchAll(/`test\/[^`]+`/g)].map(([file]) => file);
  expect(files.filter((file) => file !== "`test/reliability.test.ts`")).toHaveLength(named.length);
});

test.each(named)("%s has the test %j", (file, name) => {
  const path = join(packageRoot, file);
  expect(existsSync(path)).toBe(true);
  const source = readFileSync(path, "utf8");
  // As the name of a test, not in a comment: behind the bracket of test or test.each.
  const escaped = name.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  expect(source).toMatch(new RegExp(`\\((?:\\s*//[^\\n]*)?\\s*"${escaped}",\\s`));
});

test("every script that the table of trials names is there", () => {
  const scripts = [...text.matchAll(/^\| `([\w-]+)\.js`/gm)].map(([, name]) => name);
  expect(scripts.length).toBe(5);
  for (const name of scripts)
    expect([name, existsSync(join(packageRoot, "scripts", "reliability", `${name}.ts`))]).toEqual([name, true]);
});
