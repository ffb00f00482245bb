/** Every command of docs/tutorial.md, in its order, on a folder of images that is drawn here; settings are reduced, nothing else. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import sharp from "sharp";
import { loadDataset } from "../src/data/dataset.ts";
import { packageRoot } from "../src/version.ts";
import { built } from "./built.ts";

const folder = mkdtempSync(join(tmpdir(), "tutorial-"));
afterAll(() => rmSync(folder, { recursive: true }));

const text = readFileSync(join(packageRoot, "docs/tutorial.md"), "utf8");
const blocks = (language: string): readonly string[] =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "gms"))].map(([, code]) => code!);

/** Later flags win over those of the page. */
const reduced: Readonly<Record<string, string>> = {
  pretrain:
    "--width 2 --size 16 --radius 4 --batch 8 --epochs 1 --attack-steps 0 --knn-every 1 --workers 0 --threads 2",
  cluster: "--restarts 1 --threads 2",
  finetune: "--batch 8 --epochs 1 --attack-steps 1 --workers 0 --threads 2 --no-evaluate",
  evaluate: "--limit 6 --iterations 2 --queries 5 --threads 2",
  export: "--calibration-images 8 --limit 4 --threads 2",
  doctor: "",
  serve: "",
};
/** The page's own flags, those that make a network or its clusters large reduced. */
const changed = (args: readonly string[]): readonly string[] =>
  args.map((arg, i) =>
    args[i - 1] === "--clusters" ? "2,3" : args[i - 1] === "--width" ? "2" : args[i - 1] === "--size" ? "16" : arg,
  );

const commands = blocks("sh")
  .flatMap((code) => code.split("\n"))
  .filter((line) => line !== "");

beforeAll(async () => {
  const { images, labels, count } = await loadDataset({ name: "shapes", split: "train", size: 40, limit: 30 });
  for (let i = 0; i < count; i++) {
    const label = labels![i]!;
    if (label > 2) continue;
    const place = join(folder, "images", ["cat", "dog", "owl"][label]!);
    mkdirSync(place, { recursive: true });
    const plane = 40 * 40;
    const pixels = Buffer.alloc(3 * plane);
    for (let p = 0; p < 3 * plane; p++) pixels[p] = images[3 * plane * i + (p % 3) * plane + Math.floor(p / 3)]!;
    const picture = sharp(pixels, { raw: { width: 40, height: 40, channels: 3 } });
    for (const copy of [0, 1, 2, 3])
      await picture
        .clone()
        .modulate({ brightness: 0.8 + 0.1 * copy })
        .toFile(join(place, `${i}-${copy}.png`));
  }
  writeFileSync(join(folder, "images/cat/broken.jpg"), "no image at all");
  await sharp({ create: { width: 64, height: 48, channels: 3, background: "red" } }).toFile(join(folder, "photo.jpg"));
  mkdirSync(join(folder, "node_modules"));
  for (const name of ["onnxruntime-node", "onnxruntime-common", "sharp"])
    symlinkSync(join(packageRoot, "node_modules", name), join(folder, "node_modules", name));
});

test("the commands of the page run in their order", () => {
  expect(commands.length).toBeGreaterThan(10);
  for (const command of commands) {
    const [npx, advcl, verb = "", ...args] = command.split(" ");
    expect([npx, advcl, Object.keys(reduced)]).toEqual(["npx", "advcl", expect.arrayContaining([verb])]);
    const extra = reduced[verb]!.split(" ").filter((arg) => arg !== "");
    const given = [...changed(args), ...extra];
    const { status, stderr } = spawnSync(process.execPath, [built("src/cli/main.js"), verb, ...given], {
      cwd: folder,
      encoding: "utf8",
    });
    expect({ command, status, stderr: status === 0 ? "" : stderr }).toEqual({ command, status: 0, stderr: "" });
    if (verb === "pretrain" && !args.includes("--show-config"))
      expect(stderr).toMatch(/warning: 1 of \d+ images of images is left out as broken: images\/cat\/broken\.jpg/);
  }
});

test("its program reads the exported file", () => {
  writeFileSync(join(folder, "classify.mjs"), blocks("js").join("\n"));
  const { stdout, stderr } = spawnSync(process.execPath, ["classify.mjs"], { cwd: folder, encoding: "utf8" });
  expect([stderr, Number(stdout)]).toEqual(["", expect.any(Number)]);
  expect([0, 1, 2]).toContain(Number(stdout));
});
