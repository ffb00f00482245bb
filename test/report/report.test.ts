/** Reports: what they hold, and that they load nothing. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable } from "node:stream";
import { afterAll, describe, expect, test } from "@jest/globals";
import { stringify } from "yaml";
import { reportCommand } from "../../src/cli/commands/report.ts";
import { sealed } from "../../src/files/seal.ts";
import { thinned } from "../../src/report/chart.ts";
import { reportOf } from "../../src/report/report.ts";

const root = mkdtempSync(join(tmpdir(), "advcl-report-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A folder of these files. */
const folderOf = (name: string, files: Readonly<Record<string, string>>): string => {
  const folder = join(root, name);
  mkdirSync(folder);
  for (const [file, content] of Object.entries(files)) writeFileSync(join(folder, file), content);
  return folder;
};

const lines = (all: readonly object[]): string => all.map((line) => `${JSON.stringify(line)}\n`).join("");

const config = stringify({
  command: "pretrain",
  settings: { method: "advcl", dataset: "cifar10", depth: "18", width: 8, eps: 8 / 255, data: "<b>&" },
  versions: { advcl: "0.1.0" },
  commit: null,
});

/** Addresses that a page would fetch; the names of SVG's namespaces are none. */
const loads = (html: string): string[] =>
  html.match(/(?:src|href)="(?!data:)[^"]*"|url\([^)]*\)|@import|<script|<link/g) ?? [];

/** Lines of charts: paths that go through several points. */
const curves = (html: string): number => (html.match(/<path d="M[^"]*L[^"]*L[^"]*"/g) ?? []).length;

describe("of a run", () => {
  const metrics = lines([
    { step: 0, epoch: 0, knnAccuracy: 0.1 },
    ...[1, 2, 3, 4].map((step) => ({ step, epoch: 1, loss: 5 - step, lr: 0.1 / step })),
    { step: 4, epoch: 1, knnAccuracy: 0.25 },
    { step: 8, epoch: 2, knnAccuracy: 0.5 },
  ]);

  test("has a curve for each figure, the last figures, the settings, and loads nothing", async () => {
    const timing = lines([{ step: 1, epoch: 1, seconds: 60, dataWait: 60, imagesPerSecond: 7 }]);
    const html = await reportOf(
      folderOf("run", { "config.yaml": config, "metrics.jsonl": metrics, "timing.jsonl": timing }),
    );
    expect(curves(html)).toBe(3);
    for (const text of ["pretrain advcl", "ResNet-18 · width 8", "kNN accuracy, last", "50.00 %", "learning rate"])
      expect(html).toContain(text);
    expect(html).toContain("<b>2.0</b><span>minutes of training</span>");
    expect(html).toContain("<span>eps</span><b>8/255</b>");
    expect(html).toContain("&lt;b&gt;&amp;");
    expect(loads(html)).toEqual([]);
  });

  test("that has no step yet has its settings", async () => {
    const html = await reportOf(folderOf("new", { "config.yaml": config }));
    expect(html).toContain("<h2>Settings</h2>");
    expect(curves(html)).toBe(0);
  });

  test("thins long curves to means", () => {
    const long = Array.from({ length: 1000 }, (_, i) => ({ x: i, y: 2 * i }));
    const short = thinned(long);
    expect(short.length).toBeLessThanOrEqual(120);
    expect(short[0]).toEqual({ x: 4, y: 8 });
    expect(thinned(short)).toBe(short);
  });
});

test("of a comparison has its table and a dot for each run and each mean", async () => {
  const cell = (variant: string, seed: number, SA: number, RA: number) => ({
    ...{ variant, seed, dataset: "shapes", scheme: "slf" },
    figures: { SA, RA },
  });
  const cells = [
    cell("acl", 0, 0.5, 0.2),
    cell("acl", 1, 0.6, 0.2),
    cell("advcl", 0, 0.7, 0.3),
    cell("advcl", 1, 0.7, 0.4),
  ];
  const html = await reportOf(
    folderOf("compared", {
      "table.json": sealed({ rows: [], cells }),
      "compare.json": sealed({ epochs: 4, attackSteps: null }),
    }),
  );
  expect(html).toContain('<td>acl</td><td class="number">55.0 ± 7.1</td><td class="number">20.0 ± 0.0</td>');
  expect((html.match(/<circle/g) ?? []).length).toBe(4 + 2);
  expect(html).toContain("<span>epochs</span><b>4</b>");
  expect(loads(html)).toEqual([]);
});

test("of one method on several datasets has a line and a chart for each, and its ways of finetuning in colours", async () => {
  const cells = ["cifar10", "stl10"].flatMap((dataset) =>
    ["slf", "aff"].map((scheme) => ({ variant: "advcl", seed: 0, dataset, scheme, figures: { SA: 0.5, RA: 0.2 } })),
  );
  const html = await reportOf(folderOf("chain", { "table.json": sealed({ cells }) }));
  for (const dataset of ["cifar10", "stl10"]) {
    expect(html).toContain(`<td>${dataset}</td><td>advcl</td><td class="number">50.0</td>`);
    expect(html).toContain(`<h3>${dataset}</h3>`);
  }
  expect(html).toMatch(/SLF.*AFF.*<h3>/s);
  // All accuracies are equal, and axes have ticks of their own all the same.
  expect(html).toContain(">51.0<");
  expect(html).not.toContain("Budget");
});

test("of an evaluation has bars, intervals and the picture itself", async () => {
  const figures = (accuracy: number) => ({
    accuracy,
    interval: [accuracy - 0.1, accuracy + 0.1],
    right: 1,
    count: 2,
    attacked: 1,
    queries: 4,
  });
  const autoattack = { ...figures(0.25), parts: { "apgd-ce": figures(0.375) } };
  const summary = {
    ...{ model: "m.onnx", digest: "", dataset: "shapes", count: 2, norm: "linf", eps: 8 / 255, seed: 0 },
    ...{ attacks: { clean: figures(0.5), autoattack }, warnings: ["a < b"] },
  };
  const html = await reportOf(
    folderOf("evaluated", {
      "evaluation.json": sealed(summary),
      "attacks.png": "picture",
      "config.yaml": config,
    }),
  );
  // From 0, bars are as long as their accuracies.
  const widths = [...html.matchAll(/<rect[^>]* width="([\d.]+)"/g)].map((match) => Number(match[1]));
  expect(widths.length).toBe(2);
  expect(widths[0]! / widths[1]!).toBeCloseTo(2, 6);
  expect(html).toContain("40.00 to 60.00");
  expect(html).toContain('<td>+ apgd-ce</td><td class="number">37.50</td>');
  expect(html).toContain("L∞ radius 8/255");
  expect(html).toContain("a &lt; b");
  expect(html).toContain(`data:image/png;base64,${Buffer.from("picture").toString("base64")}`);
  expect(loads(html)).toEqual([]);
});

describe("the command", () => {
  const quiet = () => new Writable({ write: (_chunk, _encoding, done) => done() });

  test("writes the page into the folder", async () => {
    const folder = folderOf("written", { "config.yaml": config });
    expect(await reportCommand.execute(["--from", folder], { stdout: quiet(), stderr: quiet() })).toBe(0);
    expect(readFileSync(join(folder, "report.html"), "utf8")).toMatch(/^<!doctype html>/);
  });

  test("refuses a folder of something else, and damaged files", async () => {
    await expect(reportOf(folderOf("empty", {}))).rejects.toThrow(/holds no run, evaluation or comparison/);
    await expect(reportOf(folderOf("damaged", { "table.json": "{" }))).rejects.toThrow(/table.json is damaged/);
    const changed = sealed({ cells: [] }).replace("cells", "cellz");
    await expect(reportOf(folderOf("changed", { "table.json": changed }))).rejects.toThrow(
      /table.json was changed after it was written .* make it again with the command that wrote it/,
    );
    await expect(reportOf(folderOf("bare", { "table.json": JSON.stringify({ cells: [] }) }))).rejects.toThrow(
      /table.json carries no sha256/,
    );
  });
});
