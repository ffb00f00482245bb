/** `npm run docs:site`, as far as it goes after the build: pages, and an index for the search that needs no network. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { built } from "../built.ts";

const out = mkdtempSync(join(tmpdir(), "site-"));
afterAll(() => rmSync(out, { recursive: true }));

test("the site is built from the documents, its links whole, its search on the reader's machine", () => {
  const script = built("scripts/docs/site.js");
  const { status, stderr, stdout } = spawnSync(process.execPath, [script, "--out", out, "--base", "/advcl/"], {
    encoding: "utf8",
  });
  expect([status, stderr]).toEqual([0, expect.not.stringMatching(/error|warn/i)]);
  expect(stdout).toMatch(/: \d+ pages\n$/);
  const home = readFileSync(join(out, "index.html"), "utf8");
  expect(home).toContain('href="/advcl/tutorial.html"');
  const scripts = readdirSync(join(out, "assets", "chunks"));
  const index = scripts.find((name) => name.startsWith("@localSearchIndex")) ?? "";
  expect(readFileSync(join(out, "assets", "chunks", index), "utf8")).toContain("participationratio");
  // Nothing of a page is loaded from elsewhere.
  for (const name of readdirSync(out).filter((file) => file.endsWith(".html")))
    expect(readFileSync(join(out, name), "utf8")).not.toMatch(/<(script|link|img)[^>]*(src|href)="https?:/);
});
