/**
 * Makes a site of the documentation: README, docs, recipes and changelog as pages with a sidebar and a search that needs no
 * network. Every link is checked, to its heading too.
 *
 *   npm run build && node dist/scripts/docs/site.js [--out artifacts/site] [--base /] [--serve]
 *
 * `npm run docs:site` is the same. Any server of files serves the folder, and --serve does on port 4173; --base is for a site that
 * is not at the root of its host.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { RequestError, RunError } from "../../src/errors.ts";
import { packageRoot, version } from "../../src/version.ts";
import { readFlags } from "../flags.ts";
import { deadLinks } from "./dead-links.ts";
import { type Site, sitePages } from "./site-pages.ts";

const { values } = readFlags(import.meta.url, {
  options: {
    out: { type: "string", default: join(packageRoot, "artifacts", "site") },
    base: { type: "string", default: "/" },
    serve: { type: "boolean", default: false },
  },
});

/** What VitePress is told: the sidebar, the search on this machine. */
const configOf = ({ groups }: Site, out: string) => ({
  title: "advcl",
  description: "Adversarially robust self-supervised training on stock ONNX Runtime",
  base: values.base,
  outDir: out,
  head: [["link", { rel: "icon", href: "data:," }]],
  cacheDir: join(packageRoot, "artifacts", "site-cache"),
  themeConfig: {
    search: { provider: "local" },
    outline: [2, 3],
    nav: [{ text: `version ${version()}`, link: "/changelog" }],
    sidebar: groups.map(({ heading, pages }) => ({
      text: heading,
      items: pages.map(({ title, address }) => ({ text: title, link: address === "index" ? "/" : `/${address}` })),
    })),
  },
});

/** Writes pages, files and config where VitePress reads them. */
const stage = (folder: string, site: Site, out: string): void => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, ".vitepress"), { recursive: true });
  for (const { address, text } of site.groups.flatMap(({ pages }) => pages))
    writeFileSync(join(folder, `${address}.md`), text);
  for (const file of site.files) {
    const place = join(folder, "public", "files", file);
    mkdirSync(dirname(place), { recursive: true });
    cpSync(join(packageRoot, file), place);
  }
  writeFileSync(
    join(folder, ".vitepress", "config.mjs"),
    `export default ${JSON.stringify(configOf(site, out), null, 2)};\n`,
  );
};

/** Runs VitePress, which is a development dependency. */
const vitepress = (...args: string[]): void => {
  const program = join(packageRoot, "node_modules", "vitepress", "bin", "vitepress.js");
  if (!existsSync(program)) throw new RequestError("VitePress is not installed; run npm install in the checkout");
  const { status } = spawnSync(process.execPath, [program, ...args], { stdio: "inherit", cwd: packageRoot });
  if (status !== 0) throw new RunError(`VitePress failed (exit code ${status}); what it says stands above`);
};

const { out, base } = values;
const source = join(packageRoot, "artifacts", "site-source");
stage(source, sitePages(), out);
vitepress("build", source);
const dead = deadLinks(out, base);
if (dead.length > 0) throw new RunError(`links that lead nowhere: ${dead.join(", ")}`);
rmSync(join(packageRoot, "artifacts", "site-cache"), { recursive: true, force: true });
console.log(`${out}: ${readdirSync(out).filter((name) => name.endsWith(".html")).length} pages`);
if (values.serve) vitepress("preview", source);
