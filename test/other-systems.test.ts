/** What editors and paths of other systems do to files that people touch: CRLF, a byte-order mark, backslashes. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { input } from "../graphs/onnx/graph.ts";
import { relu } from "../graphs/ops/index.ts";
import { explained } from "../src/engine/session.ts";
import { openEvaluationLog } from "../src/evaluate/evaluation-log.ts";
import { encodeConfig, readRunConfig } from "../src/runs/config.ts";
import { metricsFile, readMetrics } from "../src/runs/metrics.ts";
import { openRunFolder } from "../src/runs/run-folder.ts";
import { readConfigFile } from "../src/settings/config-file.ts";
import { pretrain } from "../src/train/pretrain.ts";
import { packageRoot } from "../src/version.ts";

const folder = mkdtempSync(join(tmpdir(), "systems-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A text as Windows' editors may save it. */
const windows = (text: string): string => `\ufeff${text.replaceAll("\n", "\r\n")}`;
const { name, rows } = pretrain.spec;

test("a file for --config means the same with CRLF and a byte-order mark", async () => {
  const text = "# mine\nepochs: 3\nclusters: [2, 10]\ndata: 'images\\mine'\n";
  const [here, there] = [join(folder, "here.yaml"), join(folder, "there.yaml")];
  writeFileSync(here, text);
  writeFileSync(there, windows(text));
  const values = async (path: string) =>
    [...(await readConfigFile(name, rows, path))].map(([key, { value }]) => [key, value]);
  expect(await values(there)).toEqual(await values(here));
  expect(await values(here)).toContainEqual(["data", "images\\mine"]);
  const recipe = join(folder, "recipe.yaml");
  writeFileSync(recipe, windows(readFileSync(join(packageRoot, "recipes", "own-images.yaml"), "utf8")));
  expect(await values(recipe)).toEqual(await values("own-images"));
});

test("config.yaml keeps its seal when only its line ends change", async () => {
  const config = {
    command: "pretrain",
    settings: { data: "C:\\images\\mine", epochs: 3, out: "runs\\a" },
    paths: { data: "C:\\images\\mine" },
    versions: { advcl: "0.1.0" },
    commit: null,
  };
  const text = encodeConfig(config);
  writeFileSync(join(folder, "config.yaml"), windows(text));
  expect(await readRunConfig(folder, "resume")).toEqual(config);
  writeFileSync(join(folder, "config.yaml"), windows(text.replace("epochs: 3", "epochs: 4")));
  await expect(readRunConfig(folder, "resume")).rejects.toThrow("was changed after the run wrote it");
});

test("logs with CRLF are read", async () => {
  const lines = [
    { step: 1, epoch: 1, loss: 2 },
    { step: 2, epoch: 1, loss: 1.5 },
  ];
  const path = join(folder, metricsFile);
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\r\n`).join(""));
  expect(await readMetrics(path)).toEqual(lines);
  const run = join(folder, "evaluation");
  const options = { command: "evaluate", settings: {}, warn: () => {} };
  const record = { stage: "clean", chunk: 0, images: [] };
  const log = { images: { shape: [3, 1, 1] }, digest: "model", keeps: () => false } as never;
  const first = await openRunFolder(run, options);
  openEvaluationLog(first, log).append(record);
  await first.close();
  const finished = join(run, "finished.jsonl");
  writeFileSync(finished, readFileSync(finished, "utf8").replaceAll("\n", "\r\n"));
  const again = await openRunFolder(run, { ...options, resume: true });
  expect([...openEvaluationLog(again, log).finished.values()]).toMatchObject([record]);
  await again.close();
});

test("a node's origin is found in a stack with backslashes", () => {
  const node = relu(input("x", { dtype: "float32", shape: [1] })).node!;
  const stack =
    "Error\n    at relu (C:\\advcl\\graphs\\ops\\x.ts:1:1)\n    at build (C:\\advcl\\graphs\\nn\\resnet.ts:7:3)";
  const model = { nodes: new Map([["n", { ...node, definition: node.definition, origin: { stack } }]]) } as never;
  expect(explained(new Error("Non-zero status code while running Relu node. Name:'n'"), model).message).toContain(
    "made at build (C:\\advcl\\graphs\\nn\\resnet.ts:7:3)",
  );
});
