import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { apiReference } from "../scripts/docs/api.ts";
import { built } from "./built.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "library-"));
/** The JavaScript in a document. */
const codeOf = (document: string): string =>
  /```js\n(.*?)```/s.exec(readFileSync(join(root, document), "utf8"))?.[1] ?? "";
const at = (name: string): string => join(folder, name);
beforeAll(() => {
  built("src/index.js");
  mkdirSync(at("node_modules"));
  symlinkSync(root, at("node_modules/advcl"));
  symlinkSync(join(root, "node_modules/@types"), at("node_modules/@types"));
  copyFileSync(join(root, "test/fixtures/harden/small.onnx"), at("classifier.onnx"));
  const example = codeOf("docs/library.md");
  writeFileSync(at("example.mts"), example);
  writeFileSync(at("example.mjs"), example);
});
afterAll(() => rmSync(folder, { recursive: true }));

test("the example of docs/library.md runs by the package's name", () => {
  const stdout = execFileSync(process.execPath, ["example.mjs"], { cwd: folder, encoding: "utf8" });
  expect(stdout).toBe("[ 8, 10 ]\n");
  expect(statSync(at("attack.onnx")).size).toBeGreaterThan(100_000);
});

test("AdvCL trains, is finetuned, attacked and exported through the library alone", () => {
  const example = readFileSync(join(root, "examples/advcl.mjs"), "utf8");
  expect(codeOf("README.md")).toBe(example);
  expect(example.trimEnd().split("\n").length).toBeLessThanOrEqual(30);
  writeFileSync(at("advcl.mjs"), example);
  const stdout = execFileSync(process.execPath, ["advcl.mjs"], { cwd: folder, encoding: "utf8" });
  const { loss, clean, pgd10, out } = JSON.parse(stdout);
  expect(loss).toBeGreaterThan(0);
  expect([clean.count, pgd10.count, out]).toEqual([100, 100, "run/classifier.onnx"]);
  expect(pgd10.right).toBeLessThanOrEqual(clean.right);
  expect(statSync(at("run/classifier.onnx")).size).toBeGreaterThan(100_000);
});

test("docs/api.md is what the library exports (node dist/scripts/docs/api-reference.js)", () => {
  built("src/index.d.ts");
  const reference = apiReference();
  expect(readFileSync(join(root, "docs/api.md"), "utf8")).toBe(reference);
  expect(reference).toContain("const pretrain: (settings, options?: VerbOptions) => Promise<PretrainResult>;");
});

test("and its types are known", () => {
  const check = (): ReturnType<typeof spawnSync> => {
    const flags =
      "--noEmit --strict --skipLibCheck false --exactOptionalPropertyTypes --module nodenext --target es2023 --types node example.mts";
    return spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), ...flags.split(" ")], {
      cwd: folder,
      encoding: "utf8",
    });
  };
  expect(check()).toMatchObject({ status: 0, stdout: "" });
  writeFileSync(at("example.mts"), readFileSync(at("example.mts"), "utf8").replace("8 / 255", '"8/255"'));
  expect(check().stdout).toMatch(/error TS2345: Argument of type 'string'/);
});
