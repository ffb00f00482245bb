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
import { hues } from "../../src/report/portrait.ts";
import { reportOf, reportOfSeveral } from "../../src/report/report.ts";

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
    expect(html).toContain("<span>of them waiting for data</span><b>60.0 (50.0 %)</b>");
    // Accuracies from 0 to 100 %, though they go from 10 to 50 %.
    expect(html).toMatch(/>0 %<.*>100 %</s);
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

describe("of a run with a portrait", () => {
  const portrait = {
    gallery: {
      columns: [
        { title: "clean", note: "as in the dataset" },
        { title: "view1", note: "of the first epoch" },
      ],
      rows: [{ label: "cat < dog", pictures: ["AAAA", "BBBB"] }],
    },
    map: {
      points: [
        [0, 0],
        [1, 0],
        [0, 2],
      ],
      source: "Features of 3 images",
      groups: [
        { source: "by class", names: ["cat", "dog"], of: [0, 1, 0] },
        { source: "by cluster", names: ["cluster 0"], of: [0, -1, 0] },
      ],
    },
  };

  test("shows its pictures and a dot for each image in each colouring, and loads nothing", async () => {
    const html = await reportOf(folderOf("portrayed", { "config.yaml": config, "portrait.json": sealed(portrait) }));
    expect(html).toContain('<img alt="cat &lt; dog, view1" src="data:image/png;base64,BBBB">');
    const [, byClass = "", byCluster = ""] = html.split("<h3>by c");
    const fills = (part: string) => [...part.matchAll(/<circle[^>]* fill="([^"]+)"/g)].map((match) => match[1]);
    const [cat, dog] = hues(2);
    expect(fills(byClass)).toEqual([cat, dog, cat]);
    expect(byClass).toContain(`<i style="background:${dog}"></i>dog`);
    expect(fills(byCluster)).toEqual([hues(1)[0], "#8888", hues(1)[0]]);
    expect(byCluster).toContain("</i>none</li>");
    expect(loads(html)).toEqual([]);
  });

  test("that is damaged is refused by name", async () => {
    const folder = folderOf("misportrayed", { "config.yaml": config, "portrait.json": sealed({ gallery: [] }) });
    await expect(reportOf(folder)).rejects.toThrow(/portrait.json is damaged/);
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

test("of a comparison has the interval of its test images, accuracy by radius, and a map for each encoder", async () => {
  const cells = ["acl", "none"].flatMap((variant) =>
    [0, 1].map((seed) => ({
      ...{ variant, seed, dataset: "shapes", scheme: "aff", images: 100 },
      figures: { SA: seed === 0 ? 0.4 : 0.6, RA: 0.2 },
      curve: [{ eps: 4 / 255, accuracy: seed === 0 ? 0.3 : 0.4 }],
    })),
  );
  const folder = folderOf("curved", { "table.json": sealed({ rows: [], cells }) });
  const points = [0, 1, 2, 3].map((i) => [i, i % 2]);
  const groups = [{ source: "by class", names: ["cat", "dog"], of: [0, 1, 0, 1] }];
  const portrait = { gallery: { columns: [], rows: [] }, map: { points, source: "4 images", groups } };
  const encoder = join(folder, "pretrain-acl-seed0");
  mkdirSync(encoder);
  writeFileSync(join(encoder, "portrait.json"), sealed(portrait));
  const html = await reportOf(folder);
  // Wilson's interval of 50 of 100.
  expect(html).toContain("50.0 ± 14.1 (40.4 to 59.6)");
  expect(html).toContain("for the 100 test images");
  const [, curves = ""] = html.split("<h2>Accuracy by radius</h2>");
  // Each contender has its line, with a point at 0 and one at the radius.
  expect((curves.split("<h2>")[0]!.match(/<circle/g) ?? []).length).toBe(2 * 2);
  const [, maps = ""] = html.split("<h2>Maps of features</h2>");
  expect(maps).toContain("<h3>acl</h3>");
  expect(maps).not.toContain("<h3>none</h3>");
  expect((maps.match(/<circle/g) ?? []).length).toBe(4);
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
  // Whatever the accuracies, both charts have the axes from 0 to 100 %.
  expect(html.match(/>100<\/text>/g)?.length).toBe(4);
  expect(html.match(/>0<\/text>/g)?.length).toBe(4);
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

/** An evaluation of images that an attack brings down to this accuracy. */
const evaluationOf = (accuracy: number, more: object = {}) => {
  const figures = { accuracy, interval: [accuracy - 0.1, accuracy + 0.1], right: 1, count: 2, attacked: 1, queries: 4 };
  return sealed({
    ...{ model: "m.onnx", dataset: "shapes", count: 2, norm: "linf", eps: 8 / 255, seed: 0, warnings: [] },
    ...{ classes: ["cat", "dog"], attacks: { clean: { ...figures, accuracy: 0.75 }, pgd20: figures }, ...more },
  });
};

describe("of an evaluation with its images", () => {
  const image = (label: number, prediction: number, brokenBy: string | null, attacked?: number) => ({
    ...{ index: 0, label, prediction, brokenBy },
    attacks: attacked === undefined ? {} : { pgd20: { broken: brokenBy !== null, prediction: attacked } },
  });
  // Of three cats one stays right, one becomes a dog under attack, one is a dog already; the dog becomes no class at all.
  const images = lines([image(0, 0, null, 0), image(0, 0, "pgd20", 1), image(0, 1, "clean"), image(1, 1, "pgd20", -1)]);

  test("has classes with their accuracies, and what is taken for what", async () => {
    const html = await reportOf(folderOf("imaged", { "evaluation.json": evaluationOf(0.25), "images.jsonl": images }));
    const section = (title: string) => (html.split(`<h2>${title}`)[1] ?? "").split("<h2>")[0]!;
    const classes = section("Classes");
    expect(classes).toContain("full under pgd20");
    const widths = [...classes.matchAll(/<rect[^>]* width="([\d.]+)"/g)].map((match) => Number(match[1]));
    // Clean 2/3 and 1, then under attack 1/3 and 0.
    expect(widths.map((width) => width / widths[1]!)).toEqual([2 / 3, 1, 1 / 3, 0].map((x) => expect.closeTo(x, 6)));
    const [, clean = "", attacked = ""] = section("What is taken for what").split("<h3>");
    const counts = (part: string) =>
      [...(part.split('aria-label="text"')[1] ?? "").matchAll(/>(\d+)<\/text>/g)].map((match) => Number(match[1]));
    expect(counts(clean)).toEqual([2, 1, 1]);
    expect(counts(attacked)).toEqual([1, 2, 1]);
    expect(clean).not.toContain("no class");
    expect(attacked).toContain("no class");
    expect(loads(html)).toEqual([]);
  });

  test("of many classes shows the weakest, and confusions as a table", async () => {
    const many = Array.from({ length: 30 }, (_, k) => image(k, k === 7 ? 8 : k, k === 7 ? "clean" : null, k));
    const html = await reportOf(
      folderOf("many", { "evaluation.json": evaluationOf(0.25), "images.jsonl": lines(many) }),
    );
    expect(html).toContain("<h2>The 20 weakest of 30 classes</h2>");
    expect(html).toContain('<td>class 7</td><td>class 8</td><td class="number">1</td><td class="number">100.0</td>');
  });

  test("that are damaged is refused by name", async () => {
    const folder = folderOf("misimaged", { "evaluation.json": evaluationOf(0.25), "images.jsonl": '{"label":0}\n' });
    await expect(reportOf(folder)).rejects.toThrow(/images.jsonl is damaged/);
  });
});

describe("of several folders", () => {
  const run = (name: string, lr: number, losses: readonly number[]) =>
    folderOf(name, {
      "config.yaml": stringify({
        ...{ command: "pretrain", versions: {}, commit: null },
        settings: { method: "advcl", lr, eps: 8 / 255 },
      }),
      "metrics.jsonl": lines(losses.map((loss, i) => ({ step: i + 1, epoch: 1, loss }))),
    });
  const evaluated = (name: string, accuracy: number) =>
    folderOf(name, {
      "config.yaml": stringify({ command: "evaluate", settings: { model: name }, versions: {}, commit: null }),
      "evaluation.json": evaluationOf(accuracy),
    });

  test("lays runs side by side: last figures, curves on shared axes, settings that differ and no others", async () => {
    const html = await reportOfSeveral([run("slow", 0.01, [3, 2.5, 2.25]), run("fast", 0.1, [3, 2, 1, 0.5, 0.25])]);
    expect(html).toContain('<th></th><th class="number">slow</th><th class="number">fast</th>');
    expect(html).toContain('<td>loss, last</td><td class="number">2.25</td><td class="number">0.25</td>');
    expect(html).toContain('<td>lr</td><td class="number">0.01</td><td class="number">0.1</td>');
    expect(html).not.toContain("<td>eps</td>");
    expect(curves(html)).toBe(2);
    // Both lines begin at the first step: the same place of the axis.
    const starts = [...html.matchAll(/<path d="M([\d.]+),[\d.]+L[^"]*L[^"]*"/g)].map((match) => match[1]);
    expect(starts.length).toBe(2);
    expect(new Set(starts).size).toBe(1);
    expect(loads(html)).toEqual([]);
  });

  test("lays evaluations side by side with their intervals", async () => {
    const html = await reportOfSeveral([evaluated("weak", 0.25), evaluated("strong", 0.5)]);
    expect(html).toContain("25.00 % (15.00 to 35.00)");
    expect(html).toContain("50.00 % (40.00 to 60.00)");
    const [, bars = ""] = html.split("<h3>pgd20</h3>");
    const widths = [...bars.matchAll(/<rect[^>]* width="([\d.]+)"/g)].map((match) => Number(match[1]));
    expect(widths[1]! / widths[0]!).toBeCloseTo(2, 6);
    expect(html).not.toContain("These evaluations differ");
  });

  test("refuses a folder of something else by its name", async () => {
    const other = folderOf("other", { "table.json": "{}" });
    await expect(reportOfSeveral([run("one", 0.1, [1, 2]), other])).rejects.toThrow(/other holds no run/);
  });

  test("are told by words of the command line; of two with one name both have their paths", async () => {
    const [a, b] = [run("x", 0.1, [1, 2]), run("y", 0.1, [1, 3])];
    mkdirSync(join(b, "x"));
    writeFileSync(join(b, "x", "config.yaml"), readFileSync(join(a, "config.yaml")));
    const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
    expect(await reportCommand.execute([a, join(b, "x")], { stdout: silent, stderr: silent })).toBe(0);
    // Between folders a path may be broken.
    const html = readFileSync(join(a, "side-by-side.html"), "utf8").replaceAll("/<wbr>", "/");
    expect(html).toContain(`>${a}</th>`);
    expect(html).toContain(`>${join(b, "x")}</th>`);
  });
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
