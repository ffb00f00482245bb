import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { tensor } from "../../graphs/onnx/tensor.ts";
import type { Command } from "../../src/cli/command.ts";
import { exportCommand } from "../../src/cli/commands/export.ts";
import { finetuneCommand } from "../../src/cli/commands/finetune.ts";
import { importCommand } from "../../src/cli/commands/import.ts";
import { writeSafetensors } from "../../src/files/safetensors.ts";
import { pageFiles } from "../../src/serve/source.ts";
import { built } from "../built.ts";
import { portably } from "../evaluate/models.ts";
import { Sink } from "../sink.ts";
import { head, randomNetwork } from "./networks.ts";

let folder = "";
const at = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "export-"));
  const { weights } = randomNetwork({ width: 2 });
  for (const [name, value] of head(10, 16)) weights.set(name, value);
  for (const name of [...weights.keys()])
    if (name.endsWith("running_mean"))
      weights.set(name.replace("running_mean", "num_batches_tracked"), tensor("int64", [], BigInt64Array.of(7n)));
  await writeSafetensors(at("weights.safetensors"), weights, { format: "pt" });
  await run(importCommand, "--from", at("weights.safetensors"), "--out", at("run"), "--dataset", "shapes");
});
afterAll(() => rm(folder, { recursive: true }));

const run = async (command: Command, ...args: string[]) => {
  const [stdout, stderr] = [new Sink(), new Sink()];
  await command.execute([...args, "--json", "--quiet", "--threads", "1"], { stdout, stderr });
  return JSON.parse(stdout.text);
};
const tiny = "--limit 16 --test-limit 16 --epochs 1 --batch 8 --workers 0".split(" ");
const exported = (...args: string[]) => run(exportCommand, "--from", at("run"), ...args);

describe("import and export", () => {
  test("weights that came in go out with the same bytes", async () => {
    await exported("--format", "safetensors", "--out", at("back.safetensors"));
    expect(await readFile(at("back.safetensors"))).toEqual(await readFile(at("weights.safetensors")));
  });

  test("a classifier tells what it is, and how right it is in its precision and in float32", async () => {
    const result = await exported("--out", at("model.onnx"), "--precision", "fp16", "--limit", "10");
    expect(result).toMatchObject({ what: "classifier", precision: "fp16", branch: "pgd" });
    expect(Object.keys(result.accuracies)).toEqual(["clean fp32", "pgd20 fp32", "clean fp16", "pgd20 fp16"]);
    const { metadata, opset } = parseModel(await readFile(at("model.onnx")));
    expect(opset).toBe(17);
    expect(metadata).toMatchObject({ what: "classifier", dataset: "shapes", branch: "pgd", precision: "fp16" });
    expect(JSON.parse(metadata.classes as string)).toHaveLength(10);
    expect(JSON.parse(metadata.accuracies as string)).toEqual(result.accuracies);
    expect(JSON.parse(metadata.preprocessing as string)).toMatchObject({ size: 32, range: [0, 1] });
  });

  test("on-device training comes as a folder", async () => {
    await exported(
      "--format",
      "ort-training",
      "--out",
      at("device"),
      "--trains",
      "all",
      "--classes",
      "3",
      "--batch",
      "2",
    );
    expect((await readdir(at("device"))).sort()).toEqual(
      ["checkpoint", "eval_model.onnx", "manifest.json", "training_model.onnx"].sort(),
    );
    const manifest = JSON.parse(await readFile(join(at("device"), "manifest.json"), "utf8"));
    expect(manifest).toMatchObject({ trains: "all", batch: 2, inputs: ["image", "label", "lr"] });
    expect((await readFile(join(at("device"), "checkpoint"))).subarray(4, 8).toString()).toBe("ODTC");
  });

  test("on-device training replaces its own folder, never one that holds other things, nor a file", async () => {
    const device = (out: string) => exported("--format", "ort-training", "--batch", "1", "--out", at(out));
    await device("again");
    await device("again");
    await mkdir(at("mine"));
    await writeFile(at("mine/thesis.tex"), "years");
    await expect(device("mine")).rejects.toThrow("other things in it (thesis.tex), which would be lost");
    await expect(device("mine/thesis.tex")).rejects.toThrow("thesis.tex: a part of the path is a file, not a folder");
    expect(await readFile(at("mine/thesis.tex"), "utf8")).toBe("years");
  });

  test("what is finetuned holds one branch, and goes out in names that come in again", async () => {
    await run(
      finetuneCommand,
      "--scheme",
      "slf",
      "--from",
      at("run"),
      "--dataset",
      "shapes",
      ...tiny,
      "--out",
      at("tuned"),
    );
    await run(exportCommand, "--from", at("tuned"), "--limit", "0", "--out", at("tuned.onnx"));
    const { metadata } = parseModel(await readFile(at("tuned.onnx")));
    // The last batch's accuracy is no accuracy of the classifier, and isn't called one.
    expect(Object.keys(JSON.parse(metadata.metrics as string)).sort()).toEqual(["loss", "trainAccuracy"]);
    const weights = ["--from", at("tuned"), "--format", "safetensors", "--out", at("tuned.safetensors")];
    expect(await run(exportCommand, ...weights)).toMatchObject({ layout: "torchvision" });
    const back = await run(importCommand, "--from", at("tuned.safetensors"), "--out", at("tuned-again"));
    expect(back).toMatchObject({ classes: 10 });
    expect(back.branches).toBeUndefined();
    expect(await exported("--format", "safetensors", "--out", at("whole.safetensors"))).toMatchObject({
      layout: "authors",
    });
  });

  test("a normalisation and names that were imported go into what is made of the run", async () => {
    const names = "a,b,c,d,e,f,g,h,i,j";
    const given = ["--mean", "0.5", "--std", "0.25,0.5,0.25", "--class-names", names, "--dataset", "shapes"];
    const imported = await run(importCommand, "--from", at("weights.safetensors"), "--out", at("named"), ...given);
    const normalisation = { mean: [0.5, 0.5, 0.5], std: [0.25, 0.5, 0.25] };
    expect(imported).toMatchObject({ normalisation, prefix: "", leftOut: {}, classes: 10 });
    const model = ["--from", at("named"), "--out", at("named.onnx"), "--limit", "4"];
    await expect(run(exportCommand, ...model)).rejects.toThrow(/named has no class named .*--match-classes position/);
    await run(exportCommand, ...model, "--match-classes", "position");
    const { metadata } = parseModel(await readFile(at("named.onnx")));
    expect(JSON.parse(metadata.classes as string)).toEqual(names.split(","));
    expect(JSON.parse(metadata.preprocessing as string)).toMatchObject({ normalisation });
    const tuning = ["--scheme", "slf", "--from", at("named"), "--dataset", "shapes", ...tiny];
    await expect(run(finetuneCommand, ...tuning, "--keep-head", "--out", at("kept"))).rejects.toThrow(
      /the head of --from tells a; b; c.* apart, in this order, and the images have .*leave --keep-head out/,
    );
    await run(finetuneCommand, ...tuning, "--out", at("normal"));
    const weights = ["--from", at("normal"), "--format", "safetensors", "--layout", "authors"];
    await run(exportCommand, ...weights, "--out", at("normal.safetensors"));
    const again = await run(importCommand, "--from", at("normal.safetensors"), "--out", at("normal-again"));
    expect(again).toMatchObject({ normalisation, classes: 10, leftOut: {} });
    await expect(
      run(importCommand, "--from", at("weights.safetensors"), "--out", at("few"), "--class-names", "a,b"),
    ).rejects.toThrow(/--class-names has 2 names but the classifier .* has 10 classes/);
  });

  test("what cannot be is refused in one sentence", async () => {
    const out = ["--out", at("no.onnx")];
    await expect(exported(...out, "--branch", "left")).rejects.toThrow(/--branch is left but .* normal, pgd, pgd_ce/);
    await expect(exported(...out, "--what", "projector")).rejects.toThrow(/holds no projector/);
    await expect(exported("--out", folder)).rejects.toThrow("it is a folder; name a file");
    await expect(run(exportCommand, "--from", folder, ...out)).rejects.toThrow(/is not a run folder/);
    await expect(
      run(importCommand, "--from", at("weights.safetensors"), "--out", at("other"), "--branch", "left"),
    ).rejects.toThrow(/--branch is left/);
  });
});

describe("the page of an ONNX file from elsewhere", () => {
  const small = fileURLToPath(new URL("../fixtures/harden/small.onnx", import.meta.url));
  const request = {
    from: small,
    branch: "auto",
    dataset: "shapes",
    data: undefined,
    samples: 12,
    classNames: undefined,
    mean: undefined,
    std: undefined,
    eps: 4 / 255,
    seed: 0,
    size: undefined,
  } as const;

  test("cuts its head off and shows images of every class", async () => {
    built("page/index.html");
    const warnings: string[] = [];
    const files = await pageFiles(request, (warning) => warnings.push(warning), { loadEvaluation: portably });
    expect(warnings).toEqual([]);
    const about = JSON.parse(Buffer.from(files.get("page.json") as Uint8Array).toString());
    expect(about).toMatchObject({ title: "small.onnx", size: 32, features: 576, slots: 10 });
    expect(new Set(about.samples).size).toBe(10);
    expect([...parseModel(files.get("attack.onnx") as Uint8Array).outputs].sort()).toEqual([
      "loss",
      "next",
      "probabilities",
    ]);
  });

  test("says so where it tells the images to try apart no better than chance", async () => {
    built("page/index.html");
    const warnings: string[] = [];
    const blind = { ...request, mean: [0, 0, 0], std: [1e6, 1e6, 1e6] };
    await pageFiles(blind, (warning) => warnings.push(warning), { loadEvaluation: portably });
    expect(warnings).toEqual([
      expect.stringMatching(/small\.onnx is no better than chance .*with neither --mean nor --std it is right for/),
    ]);
  });

  test("wants as many names as it has classes", async () => {
    await expect(pageFiles({ ...request, classNames: ["a", "b"] }, () => {})).rejects.toThrow(
      /--class-names has 2 names but the model has 10 classes/,
    );
  });
});
