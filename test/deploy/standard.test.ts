/** What leaves is standard ONNX: no op of domain advcl, which only an engine with kernels can run, in any file of an export. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { input } from "../../graphs/onnx/graph.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { fileName } from "../../graphs/targets/cuda/kernels/kernel.ts";
import { pixelMean } from "../../graphs/targets/cuda/kernels/pixels.ts";
import type { Command } from "../../src/cli/command.ts";
import { exportCommand } from "../../src/cli/commands/export.ts";
import { importCommand } from "../../src/cli/commands/import.ts";
import { writeSafetensors } from "../../src/files/safetensors.ts";
import { Sink } from "../sink.ts";
import { head, randomNetwork } from "./networks.ts";

const { ModelProto, AttributeProto } = onnxProto.onnx;
type Graph = onnxProto.onnx.IGraphProto;

/** Domains of a model's opsets and of its nodes, bodies of control flow and functions included. */
const domainsOf = (bytes: Uint8Array): Set<string> => {
  const model = ModelProto.decode(bytes);
  const found = new Set((model.opsetImport ?? []).map(({ domain }) => domain ?? ""));
  const visit = ({ node = [] }: Graph) => {
    for (const { domain, attribute } of node ?? []) {
      found.add(domain ?? "");
      for (const { type, g } of attribute ?? []) if (type === AttributeProto.AttributeType.GRAPH && g) visit(g);
    }
  };
  visit(model.graph as Graph);
  return found;
};

let folder = "";
const at = (name: string): string => join(folder, name);
const run = async (command: Command, ...args: string[]) => {
  await command.execute([...args, "--json", "--quiet", "--threads", "1"], { stdout: new Sink(), stderr: new Sink() });
};
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "standard-"));
  const { weights } = randomNetwork({ width: 2 });
  for (const [name, value] of head(10, 16)) weights.set(name, value);
  await writeSafetensors(at("weights.safetensors"), weights, { format: "pt" });
  await run(importCommand, "--from", at("weights.safetensors"), "--out", at("run"), "--dataset", "shapes");
});
afterAll(() => rm(folder, { recursive: true }));

test.each([
  ["fp32", ["--precision", "fp32", "--limit", "10"]],
  ["fp16", ["--precision", "fp16", "--limit", "10"]],
  ["int8", ["--precision", "int8", "--limit", "10"]],
  ["encoder", ["--what", "encoder"]],
  ["on-device training", ["--format", "ort-training", "--batch", "2"]],
])("an export as %s", async (name, args) => {
  const out = at(name.replace(/\W/g, "-") + (name === "on-device training" ? "" : ".onnx"));
  await run(exportCommand, "--from", at("run"), ...args, "--out", out);
  const files = out.endsWith(".onnx")
    ? [out]
    : (await readdir(out)).filter((f) => f.endsWith(".onnx")).map((f) => join(out, f));
  expect(files.length).toBeGreaterThan(0);
  for (const file of files) expect([...domainsOf(await readFile(file))]).not.toContain("advcl");
});

test("a kernel is written only where it is asked for, and then shows", () => {
  const y = pixelMean(input("x", { dtype: "float32", shape: [1, 2, 2, 3] }));
  expect(() => buildModel({ y })).toThrow(/was not lowered before writing/);
  expect([...domainsOf(buildModel({ y }, [], { kernels: fileName }).bytes)]).toContain("advcl");
});
