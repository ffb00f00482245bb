/** What holds the house in order: how long files may be, what lies in the root of src, and that the linter's own rules bite. */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";

const root = fileURLToPath(new URL("..", import.meta.url));
const longest = 350;

/** Tables: long because there is much of the same. */
const tables = ["graphs/targets/cpu/costs.ts"];
const lines = (file: string): number => readFileSync(join(root, file), "utf8").trimEnd().split("\n").length;

test("no file of src and graphs is longer than it may be", () => {
  const files = ["src", "graphs"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => `${folder}/${name}`),
  );
  expect(files.length).toBeGreaterThan(100);
  const long = files.filter((file) => !tables.includes(file)).map((file) => ({ file, lines: lines(file) }));
  expect(long.filter((row) => row.lines > longest)).toEqual([]);
});

test("the root of src holds the library's entry and what every room uses", () => {
  expect(readdirSync(join(root, "src"), { withFileTypes: true }).flatMap((f) => (f.isFile() ? [f.name] : []))).toEqual([
    "errors.ts",
    "index.ts",
    "version.ts",
  ]);
});

/** Files that break one rule each, as they would lie in this project. */
const planted: readonly { readonly rule: string; readonly file: string; readonly text: string }[] = [
  {
    rule: "suspicious/noImportCycles",
    file: "src/a.ts",
    text: 'import { b } from "./b.ts";\nexport const a = () => b;\n',
  },
  {
    rule: "suspicious/noImportCycles",
    file: "src/b.ts",
    text: 'import { a } from "./a.ts";\nexport const b = () => a;\n',
  },
  { rule: "style/noRestrictedImports", file: "src/train/c.ts", text: 'export { x } from "../cli/x.ts";\n' },
  {
    rule: "style/noRestrictedImports",
    file: "src/train/d.ts",
    text: 'import type { X } from "../cli/x.ts";\nexport type Y = X;\n',
  },
  { rule: "style/noRestrictedImports", file: "scripts/parity/e.ts", text: 'export { x } from "../../src/cli/x.ts";\n' },
  { rule: "style/noRestrictedImports", file: "graphs/ops/f.ts", text: 'export { e } from "../../src/errors.ts";\n' },
  { rule: "style/noRestrictedImports", file: "graphs/g.ts", text: 'export { readFile } from "node:fs/promises";\n' },
  {
    rule: "complexity/noExcessiveLinesPerFunction",
    file: "src/h.ts",
    text: `export const h = (x: number[]): void => {\n${"  x.push(1);\n".repeat(61)}};\n`,
  },
  {
    rule: "style/useConsistentMemberAccessibility",
    file: "src/j.ts",
    text: "export class J {\n  private readonly x = 1;\n  y = this.x;\n}\n",
  },
  { rule: "plugin", file: "src/k.ts", text: "export const k = (x: number[]): number => x[0] as number;\n" },
];

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "advcl-house-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

test("the linter finds a circle of imports, an import of the command line, an impure graph and the like", () => {
  for (const name of ["biome.json", "lint"]) cpSync(join(root, name), join(folder, name), { recursive: true });
  const allowed = {
    "src/cli/x.ts": "export type X = number;\nexport const x = 1;\n",
    "src/cli/y.ts": 'export { x } from "./x.ts";\n',
  };
  const files = { ...allowed, ...Object.fromEntries(planted.map(({ file, text }) => [file, text])) };
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), text);
  }
  const biome = createRequire(import.meta.url).resolve("@biomejs/biome/bin/biome");
  const flags = ["lint", "--vcs-enabled=false", "--reporter=github", "."];
  const { stdout } = spawnSync(process.execPath, [biome, ...flags], { cwd: folder, encoding: "utf8" });
  const found = [...stdout.matchAll(/^::error title=(?:lint\/)?([^,]+),file=([^,]+),/gm)].map(
    ([, rule, file = ""]) => ({
      rule,
      file: file.slice(file.indexOf(folder) + folder.length + 1),
    }),
  );
  const sorted = (rows: readonly { rule: string | undefined; file: string }[]) =>
    rows.map(({ rule, file }) => `${file} ${rule}`).sort();
  expect(sorted(found)).toEqual(sorted(planted));
});
