/** `advcl pretrain --from`: training that goes on from another run's encoder. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { writePseudoLabels } from "../../src/data/pseudo-labels.ts";
import { exportModel } from "../../src/deploy/export.ts";
import { readRun } from "../../src/runs/run-folder.ts";
import { built } from "../built.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-start-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tiny =
  "pretrain --dataset shapes --limit 16 --batch 16 --attack-steps 1 --lr 0 --ema 0 --epochs 1 --knn-every 0 --workers 0 --threads 1";
const run = (out: string, ...words: string[]) =>
  spawnSync(
    "node",
    [
      built("src/cli/main.js"),
      ...tiny.split(" "),
      ...(words.includes("--clusters") ? [] : ["--no-clusters"]),
      "--out",
      join(folder, out),
      ...words,
    ],
    {
      encoding: "utf8",
    },
  );
const tensorsOf = async (out: string): Promise<ReadonlyMap<string, Tensor>> =>
  (await readRun(join(folder, out), () => {})).checkpoint.tensors as ReadonlyMap<string, Tensor>;
const source = join(folder, "source");

beforeAll(() => {
  const { status, stderr } = run("source", "--method", "simclr", "--width", "2", "--size", "16", "--seed", "5");
  expect([status, stderr]).toEqual([0, expect.any(String)]);
});

// A rate of 0 leaves weights as they were: what a run ends with is what it began with.
test("the same method: encoder and heads, at images of another size", async () => {
  const { status, stderr } = run("same", "--from", source, "--method", "simclr", "--size", "24");
  expect([status, stderr]).toEqual([
    0,
    expect.stringMatching(/begins with 100 tensors of the encoder of .*source and 10 parameters of its heads/),
  ]);
  const [before, after] = [await tensorsOf("source"), await tensorsOf("same")];
  const weights = [...before].filter(([name]) => name.startsWith("param."));
  expect(weights.length).toBe(70);
  for (const [name, { data }] of weights) expect([name, after.get(name)?.data]).toEqual([name, data]);
});

test("AdvCL from an encoder without branches: every branch begins with its batch norm, heads at random", async () => {
  const { status, stderr } = run("branches", "--from", source, "--size", "16");
  expect([status, stderr]).toEqual([0, expect.stringMatching(/; head_proj begin at random/)]);
  const [before, after] = [await tensorsOf("source"), await tensorsOf("branches")];
  expect(after.get("param.layer1.0.conv1.weight")?.data).toEqual(before.get("param.layer1.0.conv1.weight")?.data);
  for (const branch of [0, 1])
    expect(after.get(`param.layer1.0.bn1.bn_list.${branch}.weight`)?.data).toEqual(
      before.get("param.layer1.0.bn1.weight")?.data,
    );
  expect(after.get("param.head_proj.fc1.weight")?.data).not.toEqual(before.get("param.head_proj.fc1.weight")?.data);
});

test("AdvCL goes on from AdvCL with the branches that it was trained with, and no others", async () => {
  const { status, stderr } = run("further", "--from", join(folder, "branches"), "--size", "24");
  expect([status, stderr]).toEqual([0, expect.stringContaining("parameters of its heads")]);
  const [before, after] = [await tensorsOf("branches"), await tensorsOf("further")];
  const names = [...before.keys()].filter((name) => name.startsWith("param."));
  expect(names.filter((name) => name.includes("bn_list.1.")).length).toBeGreaterThan(0);
  for (const name of names) expect([name, after.get(name)?.data]).toEqual([name, before.get(name)?.data]);
  const labels = join(folder, "labels.safetensors");
  await writePseudoLabels(labels, { ks: [2], labels: () => Int32Array.from({ length: 2000 }, (_, i) => i % 2) });
  const args = ["--from", join(folder, "branches"), "--size", "16", "--clusters", "2", "--pseudo-labels", labels];
  const clustered = run("clustered", ...args);
  expect([clustered.status, clustered.stderr]).toEqual([
    2,
    expect.stringContaining("was trained without the branch pgd_ce; make a file"),
  ]);
});

test("its file does as well, and a run goes on when what it began with is gone", async () => {
  const file = join(folder, "encoder.safetensors");
  await exportModel({ from: source, what: "encoder", format: "safetensors", layout: "torchvision", out: file });
  const first = run("from-file", "--from", file, "--method", "simclr", "--size", "16");
  expect([first.status, first.stderr]).toEqual([0, expect.stringMatching(/begins with 100 tensors/)]);
  rmSync(file);
  const more = run("from-file", "--resume", "--epochs", "2", "--override");
  expect([more.status, more.stderr]).toEqual([0, expect.not.stringContaining("begins with")]);
});

test("another network is refused", () => {
  const wide = run("wide", "--from", source, "--width", "4", "--size", "16");
  expect([wide.status, wide.stderr]).toEqual([2, expect.stringMatching(/--width is 4 and the encoder of .* has 2/)]);
  const acl = run("acl", "--method", "acl", "--width", "2", "--size", "16");
  expect(acl.status).toBe(0);
  const other = run("other", "--from", join(folder, "acl"), "--size", "16");
  expect([other.status, other.stderr]).toEqual([2, expect.stringContaining("has the batch-norm branches")]);
  const nothing = run("nothing", "--from", join(folder, "nowhere"), "--size", "16");
  expect([nothing.status, nothing.stderr]).toEqual([2, expect.stringContaining("nowhere")]);
});
