/** Documents: those that programs make, and where they lead. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "@jest/globals";
import { settingsReference } from "../scripts/docs/reference.ts";
import { packageRoot } from "../src/version.ts";

/** Words of a document: what has a letter or a digit; rules and bars of tables have none. */
const words = (text: string): string[] => text.split(/\s+/).filter((token) => /[\p{L}\p{N}]/u.test(token));

test("docs/settings.md is what the schemas say (node dist/scripts/docs/settings-reference.js)", () => {
  expect(readFileSync(join(packageRoot, "docs/settings.md"), "utf8")).toBe(settingsReference());
});

test("the README can be read at one go", () => {
  expect(words(readFileSync(join(packageRoot, "README.md"), "utf8")).length).toBeLessThanOrEqual(900);
});

test("links between documents lead to what is there", () => {
  const documents = [
    "README.md",
    "recipes/README.md",
    ...readdirSync(join(packageRoot, "docs")).map((name) => `docs/${name}`),
  ];
  const pages = documents.filter((name) => name.endsWith(".md"));
  expect(pages.length).toBeGreaterThan(10);
  const broken = pages.flatMap((page) =>
    [...readFileSync(join(packageRoot, page), "utf8").matchAll(/\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)/g)]
      .map(([, target]) => target!)
      .filter((target) => !existsSync(join(packageRoot, dirname(page), target)))
      .map((target) => `${page}: ${target}`),
  );
  expect(broken).toEqual([]);
});
