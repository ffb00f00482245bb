/** Checks a built site as a reader would: every link of every page. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseHTML } from "linkedom";

/**
 * Links of the pages in a folder that lead to no file, or to no heading of it.
 * @param base address of the folder
 */
export const deadLinks = (out: string, base: string): string[] => {
  const ids = new Map<string, Set<string>>();
  const names = readdirSync(out).filter((name) => name.endsWith(".html"));
  const documents = names.map((name) => {
    const { document } = parseHTML(readFileSync(join(out, name), "utf8"));
    ids.set(name, new Set([...document.querySelectorAll("[id]")].map((element) => element.getAttribute("id") ?? "")));
    return { name, document };
  });
  return documents.flatMap(({ name, document }) =>
    [...document.querySelectorAll("main a[href], aside a[href]")].flatMap((link) => {
      const href = link.getAttribute("href") ?? "";
      if (/^[a-z]+:/.test(href)) return [];
      const [path = "", anchor = ""] = href.split("#");
      const file = path === "" ? name : path.slice(base.length) || "index.html";
      const dead = !existsSync(join(out, file)) || (anchor !== "" && !ids.get(file)?.has(decodeURIComponent(anchor)));
      return dead ? [`${name}: ${href}`] : [];
    }),
  );
};
