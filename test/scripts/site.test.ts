/** The documentation's site: where its links lead, and that a dead one is found. (site.e2e.test.ts builds it.) */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { deadLinks } from "../../scripts/docs/dead-links.ts";
import { sitePages } from "../../scripts/docs/site-pages.ts";

test("every document is a page, and links lead to pages and files of the site", () => {
  const { groups, files } = sitePages();
  const pages = groups.flatMap((group) => group.pages);
  const addresses = new Set(pages.map(({ address }) => `/${address === "index" ? "" : address}`));
  expect(addresses.size).toBe(pages.length);
  expect([...addresses]).toEqual(expect.arrayContaining(["/", "/tutorial", "/recipes", "/settings", "/changelog"]));
  const [home] = pages;
  expect(home?.text).toContain("](/benchmarks#the-demonstration)");
  expect(home?.text).toContain("](/files/docs/attacked.png)");
  expect(files).toEqual(expect.arrayContaining(["docs/attacked.png", "examples/advcl.mjs"]));
  for (const { text, source } of pages)
    for (const [, target = ""] of text.replace(/^```[\s\S]*?^```$/gm, "").matchAll(/\]\((\/[^)#]*)/g))
      expect([source, target, addresses.has(target) || files.includes(target.replace("/files/", ""))]).toEqual([
        source,
        target,
        true,
      ]);
});

test("a link to a page or heading that is not there is found", () => {
  const folder = mkdtempSync(join(tmpdir(), "site-"));
  const page = (name: string, body: string) => writeFileSync(join(folder, name), `<main>${body}</main>`);
  page("index.html", '<a href="/x/a.html#there"></a><a href="/x/b.html"></a><a href="/x/a.html#gone"></a>');
  page(
    "a.html",
    '<h2 id="there"></h2><a href="/x/"></a><a href="#there"></a><a href="#nowhere"></a><a href="https://a.b"></a>',
  );
  expect(deadLinks(folder, "/x/").sort()).toEqual([
    "a.html: #nowhere",
    "index.html: /x/a.html#gone",
    "index.html: /x/b.html",
  ]);
  rmSync(folder, { recursive: true });
});
