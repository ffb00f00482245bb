/** The pages of the documentation's site: README, docs, recipes and changelog, with links as they are there. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";
import { packageRoot } from "../../src/version.ts";

/** A page of the site. */
export interface SitePage {
  /** Its file in the repository, with slashes. */
  readonly source: string;
  /** Its address without ending; `index` is the first page. */
  readonly address: string;
  readonly title: string;
  readonly text: string;
}

export interface Site {
  /** Headings of the sidebar with the addresses under them. */
  readonly groups: readonly { readonly heading: string; readonly pages: readonly SitePage[] }[];
  /** Files that pages link to or show, in the repository: they lie under `files/`. */
  readonly files: readonly string[];
}

/** Which page stands where; a document that is not here fails the build. */
const order = {
  Start: ["README.md", "docs/tutorial.md", "recipes/README.md"],
  Using: [
    "encoders",
    "methods",
    "plugins",
    "library",
    "ci",
    "reports",
    "formats",
    "runtimes",
    "gpu",
    "clusters",
    "reliability",
  ],
  Encoders: ["artifacts/encoders/cifar10-advcl.md", "artifacts/encoders/cifar10-robust.md"],
  Reference: ["settings", "api", "CHANGELOG.md"],
  Inside: ["architecture", "contributing", "kernels", "benchmarks", "benchmarks-gpu"],
} as const;

const sourceOf = (name: string): string => (name.endsWith(".md") ? name : `docs/${name}.md`);

const addressOf = (source: string): string => {
  if (source === "README.md") return "index";
  if (source === "recipes/README.md") return "recipes";
  return posix.basename(source, ".md").toLowerCase();
};

/** A document with its links turned to the site's addresses; those to other files are told. */
const turned = (source: string, known: ReadonlySet<string>, files: Set<string>): string => {
  const link = (whole: string, target: string, anchor = ""): string => {
    const file = posix.join(posix.dirname(source), target);
    if (known.has(file)) return `](/${addressOf(file) === "index" ? "" : addressOf(file)}${anchor})`;
    if (!existsSync(join(packageRoot, file)))
      throw new Error(`${source} links to ${target}, which is not there: ${whole}`);
    // A folder is no page: its README is.
    if (known.has(posix.join(file, "README.md"))) return `](/${addressOf(posix.join(file, "README.md"))}${anchor})`;
    files.add(file);
    return `](/files/${file})`;
  };
  // Fences stay as they are.
  return readFileSync(join(packageRoot, source), "utf8")
    .split(/^(```[\s\S]*?^```)$/m)
    .map((part, i) =>
      i % 2 === 1
        ? part
        : part.replace(/\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)/g, (whole, target, anchor) =>
            link(whole, target, anchor),
          ),
    )
    .join("");
};

/**
 * The pages as they stand in the repository.
 * @throws Error where a link leads nowhere, or a document has no place in the site
 */
export const sitePages = (): Site => {
  const sources = Object.values(order).flatMap((names) => names.map(sourceOf));
  const known = new Set(sources);
  const lost = readdirSync(join(packageRoot, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`)
    .filter((source) => !known.has(source));
  if (lost.length > 0)
    throw new Error(`${lost.join(", ")} has no place in the site; give it one in scripts/docs/site-pages.ts`);
  const files = new Set<string>();
  const pageOf = (source: string): SitePage => {
    const text = turned(source, known, files);
    const [, title = source] = /^# (.*)$/m.exec(text) ?? [];
    return { source, address: addressOf(source), title, text };
  };
  const groups = Object.entries(order).map(([heading, names]) => ({
    heading,
    pages: names.map((name) => pageOf(sourceOf(name))),
  }));
  return { groups, files: [...files].sort() };
};
