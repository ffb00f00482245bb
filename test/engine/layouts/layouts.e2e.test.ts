/** A machine is timed by its user: bench keeps what it found, doctor shows it, and a training takes it and says so in its run. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { bench, type LayoutFigures } from "../../../src/bench/bench.ts";
import { blockSize } from "../../../src/engine/block.ts";
import { doctor } from "../../../src/engine/doctor.ts";
import { readRunConfig } from "../../../src/runs/config.ts";
import { pretrain } from "../../../src/train/pretrain.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-layouts-"));
const { XDG_CACHE_HOME } = process.env;
afterAll(() => {
  if (XDG_CACHE_HOME === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = XDG_CACHE_HOME;
  rmSync(folder, { recursive: true, force: true });
});

const block = await blockSize();
(block === undefined ? test.skip : test)("timed, shown, taken and recorded", async () => {
  process.env.XDG_CACHE_HOME = folder;
  const threads = 2;
  const figures = (await bench({ what: "layouts", threads, provider: "cpu" })) as LayoutFigures;
  expect(figures.rows.length).toBeGreaterThanOrEqual(2);
  for (const { blocks, pixels } of figures.rows) expect(Math.min(blocks, pixels)).toBeGreaterThan(0);
  const { layouts } = await doctor({ threads });
  expect(layouts.target).toBe(figures.target);
  expect(layouts.reason).toMatch(/^timed here on \d{4}-\d\d-\d\d \(.*layouts\.json\)$/);
  const out = join(folder, "run");
  const short = {
    dataset: "shapes",
    limit: 16,
    size: 16,
    width: 4,
    batch: 8,
    epochs: 1,
    attackSteps: 1,
  } as const;
  await pretrain({ ...short, clusters: [], provider: "cpu", threads, workers: 0, out });
  expect((await readRunConfig(out))?.target).toBe(figures.target);
});
