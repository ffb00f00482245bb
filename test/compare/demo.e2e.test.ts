/** `advcl demo` with tiny settings, as the built command: its parts, its table, its report, and that it goes on. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, jest, test } from "@jest/globals";
import { loadClassifier } from "../../src/models/classifier.ts";
import { built } from "../built.ts";
import { faultsIn } from "../warnings.ts";

jest.setTimeout(300_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-demo-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const out = join(folder, "demo");
const tiny =
  "--width 2 --size 16 --limit 48 --labels 32 --test-limit 20 --clusters 2 --teacher-epochs 1 --epochs 1 --batch 16 --finetune-epochs 1 --finetune-batch 16 --attack-steps 1 --attacks clean,pgd2 --workers 0 --target portable --threads 1";
const demo = (...more: string[]) =>
  spawnSync("node", [built("src/cli/main.js"), "demo", "--out", out, ...tiny.split(" "), ...more], {
    encoding: "utf8",
  });

test("tells the whole story: every part, a table of classifiers, a report; done again, nothing is computed", async () => {
  const first = demo("--json");
  expect(faultsIn(first.stderr)).toEqual([]);
  expect(first.status).toBe(0);
  const { classifiers, parts } = JSON.parse(first.stdout.trim().split("\n").at(-1) as string);
  const names = [
    "simclr",
    "clusters",
    "advcl",
    "slf",
    "slf-simclr",
    "standard",
    "aff",
    "aff-simclr",
    "trades",
    "attacks-standard",
    "attacks-aff",
    "export-fp32",
    "export-int8",
  ];
  expect(parts.map(({ name }: { name: string }) => name)).toEqual(names);
  expect(classifiers.map(({ name }: { name: string }) => name)).toEqual(names.slice(3, 9));
  for (const { accuracy, robustAccuracy } of classifiers) expect(robustAccuracy).toBeLessThanOrEqual(accuracy);
  for (const run of ["simclr", "advcl", ...names.slice(3, 9), "attacks-aff", "attacks-standard"])
    expect(existsSync(join(out, run, "report.html"))).toBe(true);
  const exported = await loadClassifier(join(out, "classifier-fp32.onnx"), { mean: [], std: [], warn: () => {} });
  expect(exported.classes).toBe(10);
  const html = readFileSync(join(out, "report.html"), "utf8").replaceAll(/<\/?span>/g, "");
  for (const { about, command } of parts) {
    expect(html).toContain(about);
    expect(html).toContain(command);
  }

  const again = demo();
  expect(again.status).toBe(0);
  expect(again.stderr).not.toContain("advcl pretrain");
  expect(again.stdout).toMatch(/^\| classifier .*SA, % \| RA, %/);
  // A head of the table, its rule, and a row for each classifier with both accuracies and an interval.
  const rows = again.stdout
    .split("\n")
    .filter((line) => /^\| .* \| *[\d.]+ *\| *[\d.]+ *\| [\d.]+ to [\d.]+ *\|$/.test(line));
  expect(rows).toHaveLength(6);
  expect(again.stdout).toContain(`npx advcl serve --from ${join(out, "aff")}`);

  const other = demo("--limit", "64");
  expect([other.status, other.stderr]).toEqual([
    2,
    expect.stringContaining("a demonstration with other settings (limit)"),
  ]);
});
