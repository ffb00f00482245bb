/** A run in one file: what was exported is begun from as the run folder is. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, jest, test } from "@jest/globals";
import { exportModel } from "../../src/deploy/export.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { readSafetensors, writeSafetensors } from "../../src/files/safetensors.ts";
import { loadRun } from "../../src/runs/network.ts";
import { shippedFile, shippedNames } from "../../src/runs/shipped.ts";
import { pageFiles } from "../../src/serve/source.ts";
import { finetune } from "../../src/train/finetune.ts";
import { pretrain } from "../../src/train/pretrain.ts";

jest.setTimeout(300_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-run-file-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

const common = { dataset: "shapes", provider: "cpu", threads: 1, workers: 0 } as const;
const tuning = { ...common, scheme: "slf", limit: 32, testLimit: 20, batch: 16, epochs: 1 } as const;
const silent = (): void => {};

beforeAll(async () => {
  const network = { size: 16, width: 2, method: "advcl" as const, clusters: [], attackSteps: 1 };
  await pretrain({ ...common, ...network, limit: 32, batch: 16, epochs: 1, knnEvery: 0, out: at("run") });
  await exportModel({ from: at("run"), format: "safetensors", layout: "authors", out: at("run.safetensors") });
  await finetune({ ...tuning, from: at("run"), out: at("tuned") });
  await exportModel({ from: at("tuned"), format: "safetensors", out: at("tuned.safetensors") });
});

test("has the run's weights, network and settings, without the places of the machine", async () => {
  const [own, file] = [await loadRun(at("run"), silent), await loadRun(at("run.safetensors"), silent)];
  expect(file.network).toEqual(own.network);
  for (const [name, { data, shape }] of own.tensors) {
    expect([name, file.tensors.get(name)?.shape]).toEqual([name, shape]);
    expect([name, file.tensors.get(name)?.data]).toEqual([name, data]);
  }
  expect(file.config).toMatchObject({ command: "pretrain", versions: own.config.versions });
  expect(file.config.settings).toMatchObject({
    method: "advcl",
    dataset: "shapes",
    radius: own.config.settings.radius,
  });
  expect(readFileSync(at("run.safetensors")).includes(folder)).toBe(false);
});

test("is finetuned, exported and shown as the folder is", async () => {
  const result = await finetune({ ...tuning, from: at("run.safetensors"), out: at("again") });
  const [own, again] = [await loadRun(at("tuned"), silent), await loadRun(at("again"), silent)];
  expect(result.steps).toBe(2);
  expect([...again.tensors].map(([name, { data }]) => [name, data])).toEqual(
    [...own.tensors].map(([name, { data }]) => [name, data]),
  );
  await exportModel({
    ...{ format: "safetensors", layout: "authors" },
    ...{ from: at("run.safetensors"), out: at("second.safetensors") },
  });
  expect(readFileSync(at("second.safetensors"))).toEqual(readFileSync(at("run.safetensors")));
  for (const from of ["run", "run.safetensors"])
    await exportModel({ from: at(from), out: at(`${from}.onnx`), limit: 0 });
  const [a, b] = ["run.onnx", "run.safetensors.onnx"].map((name) => readFileSync(at(name)));
  expect(Math.abs(a!.length - b!.length)).toBeLessThan(200); // they tell another source
  const page = { from: at("tuned.safetensors"), branch: "auto", samples: 10, seed: 0, eps: 8 / 255 };
  expect((await pageFiles({ ...page, dataset: "shapes" } as never, silent)).size).toBeGreaterThan(0);
});

test("a classifier is judged as the folder's, by torchvision's names", async () => {
  expect([...(await readSafetensors(at("tuned.safetensors"))).tensors.keys()]).toContain(
    "layer2.0.downsample.0.weight",
  );
  const asked = {
    dataset: "shapes" as const,
    limit: 40,
    attacks: ["clean", "pgd2"],
    threads: 1,
    provider: "cpu" as const,
  };
  const results = [];
  for (const model of ["tuned", "tuned.safetensors"]) results.push(await evaluate({ ...asked, model: at(model) }));
  expect(results[1]!.attacks).toEqual(results[0]!.attacks);
  expect(results[1]!.classes).toEqual(results[0]!.classes);
});

test("one that ships goes by its name, unless something else lies there", () => {
  expect(shippedNames(folder)).toEqual(expect.arrayContaining(["run", "tuned"]));
  expect(shippedFile("run", folder)).toBe(at("run.safetensors"));
  for (const other of ["package.json", "src", "nothing", "../run", at("run.safetensors")])
    expect([other, shippedFile(other, folder)]).toEqual([other, undefined]);
  expect(shippedNames(at("nowhere"))).toEqual([]);
});

describe("refuses", () => {
  test("weights or a record that were changed", async () => {
    const { tensors, metadata } = await readSafetensors(at("run.safetensors"));
    const conv = tensors.get("conv1.weight")!;
    const moved = Float32Array.from(conv.data as Float32Array, (v, i) => (i === 3 ? v + 1e-6 : v));
    const other = new Map([...tensors, ["conv1.weight", { ...conv, data: moved }] as const]);
    await writeSafetensors(at("moved.safetensors"), other as typeof tensors, metadata);
    const record = { ...metadata, "advcl.run": metadata["advcl.run"]!.replace('"step":2', '"step":3') };
    await writeSafetensors(at("renamed.safetensors"), tensors, record);
    for (const name of ["moved", "renamed"])
      await expect(loadRun(at(`${name}.safetensors`), silent)).rejects.toThrow(
        /was changed after advcl export wrote it; export it anew, or take its weights as they are with advcl import/,
      );
  });

  test("weights that tell of no run, and what is not there", async () => {
    const { tensors } = await readSafetensors(at("run.safetensors"));
    await writeSafetensors(at("plain.safetensors"), tensors);
    await expect(loadRun(at("plain.safetensors"), silent)).rejects.toThrow(/make a run of it with advcl import/);
    writeFileSync(at("short.safetensors"), readFileSync(at("run.safetensors")).subarray(0, 3000));
    await expect(loadRun(at("short.safetensors"), silent)).rejects.toThrow(/short.safetensors/);
    await expect(loadRun(at("nothing"), silent)).rejects.toThrow(
      /is not a run folder: it has no config.yaml; check the path/,
    );
  });
});
