/** A comparison with its controls: what is not pretrained, and the comparison's own SimCLR run as the teacher. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, jest, test } from "@jest/globals";
import { compare } from "../../src/compare/compare.ts";

jest.setTimeout(300_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-compare-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tiny = {
  ...{ dataset: "shapes" as const, limit: 32, testLimit: 20, size: 16, width: 2, clusters: [2], seeds: [0] },
  ...{ epochs: 1, batch: 16, attackSteps: 1, finetuneEpochs: 1, finetuneBatch: 16, finetuneLimit: 32 },
  ...{ workers: 0, threads: 1, target: "portable" },
};

test("controls stand beside the methods; the run that is compared teaches; radii and maps are in the report", async () => {
  const out = join(folder, "controls");
  const asked = { ...tiny, methods: ["none", "simclr/lr=0.01", "advcl/radius=4"], schemes: ["slf", "aff"], out };
  const { cells } = await compare({ ...asked, radii: [4 / 255, 2 / 255] });
  const told = cells.map(({ variant, scheme }) => `${variant} ${scheme}`);
  // A head on no encoder says nothing.
  const methods = ["simclr/lr=0.01", "advcl/radius=4"].flatMap((name) => [`${name} slf`, `${name} aff`]);
  expect(told).toEqual(["none aff", ...methods]);
  for (const { images, curve, figures } of cells) {
    expect(images).toBe(20);
    expect(curve?.map(({ eps }) => eps)).toEqual([2 / 255, 4 / 255]);
    for (const { accuracy } of curve ?? []) expect(accuracy).toBeLessThanOrEqual(figures.SA!);
  }
  // No further SimCLR run was made for the labels, and nothing for the control.
  expect(existsSync(join(out, "pretrain-simclr-seed0"))).toBe(false);
  expect(existsSync(join(out, "pretrain-none-seed0"))).toBe(false);
  const labels = JSON.parse(readFileSync(join(out, "results", "labels-2-seed0.json"), "utf8"));
  expect(labels.teacher ?? labels.from).toContain("pretrain-simclr_lr-0.01-seed0");
  const fresh = readFileSync(join(out, "finetune-none-shapes-aff-seed0", "config.yaml"), "utf8");
  expect(fresh).toMatch(/from: none/);

  const html = readFileSync(join(out, "report.html"), "utf8");
  expect(html).toContain("Accuracy by radius");
  expect(html).toContain("<h2>Maps of features</h2>");
  expect(html).toMatch(/<h3>advcl\/radius=4<\/h3>/);

  // The same call finds everything done, and more may be asked for.
  const again = await compare({ ...asked, radii: [] });
  expect(again.cells.map(({ figures }) => figures)).toEqual(cells.map(({ figures }) => figures));
});

test("nothing can be compared with nothing by heads alone", async () => {
  const asked = { ...tiny, methods: ["none"], schemes: ["slf"], out: join(folder, "heads") };
  await expect(compare(asked)).rejects.toThrow(/^methods none: slf and alf train a head .* add --schemes aff$/);
  expect(existsSync(asked.out)).toBe(false);
});
