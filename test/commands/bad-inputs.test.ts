/** Every command gets the same bad inputs: each says the same of them, in a sentence of its own with what to do. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import sharp from "sharp";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { cluster } from "../../src/cluster/cluster.ts";
import { exportModel } from "../../src/deploy/export.ts";
import { importWeights } from "../../src/deploy/import.ts";
import { RequestError } from "../../src/errors.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { writeSafetensors } from "../../src/files/safetensors.ts";
import { networkRecord } from "../../src/runs/network.ts";
import { openRunFolder } from "../../src/runs/run-folder.ts";
import { serve } from "../../src/serve/serve.ts";
import { finetune } from "../../src/train/finetune.ts";
import { harden } from "../../src/train/harden.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import { quietReporter } from "../../src/verbs/reporter.ts";
import { head, randomNetwork } from "../deploy/networks.ts";
import { changed, fileOf, logitsOf } from "../models/files.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-bad-inputs-"));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const classes = ["ant", "bee", "cow", "dog", "elk"];

const pictures = async (place: string, names: readonly string[]): Promise<void> => {
  for (const [i, name] of names.entries()) {
    mkdirSync(at(join(place, name)), { recursive: true });
    for (let k = 0; k < 2; k++)
      await sharp({ create: { width: 8, height: 8, channels: 3, background: { r: 40 * i, g: 90 * k, b: 7 } } })
        .png()
        .toFile(at(join(place, name, `${k}.png`)));
  }
};

beforeAll(async () => {
  const plain = fileOf((x) => ({ logits: logitsOf(x) }), { metadata: { classes: JSON.stringify(classes) } });
  writeFileSync(at("model.onnx"), plain);
  const nan = changed(plain, ({ graph }) => {
    const kernel = graph?.initializer?.find(({ dims }) => dims?.length === 4);
    const floats = new Float32Array(Uint8Array.from(kernel?.rawData ?? []).buffer);
    floats[5] = Number.NaN;
    if (kernel) kernel.rawData = new Uint8Array(floats.buffer);
  });
  writeFileSync(at("nan.onnx"), nan);
  writeFileSync(at("page.html"), "<!DOCTYPE html><html><body>not found</body></html>");
  writeFileSync(at("pointer"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n");
  writeFileSync(at("empty"), "");
  writeFileSync(at("words"), "some words");
  mkdirSync(at("nothing"));
  const { network, weights } = randomNetwork({ width: 4, size: 8, branches: undefined, evaluatedBranch: "normal" });
  for (const [name, value] of head(5, 32)) weights.set(name, value);
  await writeSafetensors(at("weights.safetensors"), Object.fromEntries(weights));
  const spoilt = new Map(weights).set("conv1.weight", float32([4, 3, 3, 3], new Float32Array(108).fill(Number.NaN)));
  await writeSafetensors(at("nan.safetensors"), Object.fromEntries(spoilt));
  for (const [name, held] of Object.entries({ run: weights, nanRun: spoilt })) {
    const run = await openRunFolder(at(name), {
      command: "finetune",
      settings: { dataset: "folder", data: at("five") },
      warn: () => {},
    });
    const tensors = [...held].map(([path, value]) => [/running/.test(path) ? `state.${path}` : `param.${path}`, value]);
    const state = { network: networkRecord(network), classes, scheme: "slf" };
    await run.save({ epoch: 1, step: 1, state, tensors: new Map(tensors as [string, Tensor][]) });
    await run.close();
  }
  await pictures("five/train", classes);
  await pictures("five/test", classes);
  await pictures("others/train", ["up", "down", "left", "right", "back"]);
  await pictures("others/test", ["up", "down", "left", "right", "back"]);
  await pictures("bare", ["."]);
});

type Settings = Readonly<Record<string, unknown>>;
type Run = (settings: Settings) => Promise<unknown>;
const warnings: string[] = [];
const options = {
  reporter: { ...quietReporter, warn: (message: string) => void warnings.push(message) },
};
const images = () => ({ dataset: "folder", data: at("five") });
let outs = 0;
const out = (suffix = "") => ({ out: at(`out${outs++}${suffix}`) });

/** Each command with what it needs to work; `from` is its model, run or file. */
const commands: Readonly<Record<string, Run>> = {
  evaluate: ({ from = at("model.onnx"), ...given }) =>
    evaluate({ ...images(), attacks: ["clean"], threads: 1, model: from, ...given } as never, options),
  harden: (given) =>
    harden(
      { from: at("model.onnx"), ...images(), batch: 4, epochs: 1, threads: 1, ...out(".onnx"), ...given } as never,
      options,
    ),
  cluster: ({ from = at("model.onnx"), ...given }) =>
    cluster(
      { ...images(), clusters: [2], threads: 1, ...out(".safetensors"), teacher: from, ...given } as never,
      options,
    ),
  serve: (given) => serve({ from: at("model.onnx"), ...images(), threads: 1, ...out(), ...given } as never, options),
  export: (given) =>
    exportModel({ from: at("run"), ...images(), threads: 1, ...out(".onnx"), ...given } as never, options),
  import: (given) => importWeights({ from: at("weights.safetensors"), size: 8, ...out(), ...given } as never, options),
  finetune: (given) =>
    finetune(
      {
        from: at("run"),
        scheme: "slf",
        ...images(),
        batch: 4,
        epochs: 1,
        workers: 0,
        threads: 1,
        ...out(),
        ...given,
      } as never,
      options,
    ),
  pretrain: (given) =>
    pretrain(
      {
        method: "simclr",
        ...images(),
        width: 4,
        batch: 4,
        epochs: 1,
        workers: 0,
        threads: 1,
        ...out(),
        ...given,
      } as never,
      options,
    ),
};
const takeModels = ["evaluate", "harden", "cluster", "serve"];
const takeRuns = ["evaluate", "cluster", "serve", "export", "finetune"];
const takeImages = ["evaluate", "harden", "cluster", "serve", "export", "finetune", "pretrain"];

/** An input, the commands that must refuse it, and what they say. */
const refused: readonly (readonly [string, readonly string[], () => Settings, RegExp])[] = [
  [
    "an HTML page",
    takeModels,
    () => ({ from: at("page.html") }),
    /page\.html is an HTML page, not an ONNX model; the download/,
  ],
  ["a Git LFS pointer", takeModels, () => ({ from: at("pointer") }), /Git LFS pointer.*git lfs pull/],
  ["an empty file", takeModels, () => ({ from: at("empty") }), /is empty, not an ONNX model/],
  ["a text", takeModels, () => ({ from: at("words") }), /is a text, not an ONNX model; export the model with/],
  ["a missing file", takeModels, () => ({ from: at("gone") }), /gone: it does not exist; check the path/],
  ["weights with NaN", takeModels, () => ({ from: at("nan.onnx") }), /holds NaN in .*; give an earlier checkpoint/],
  [
    "a checkpoint",
    takeModels,
    () => ({ from: at("weights.safetensors") }),
    /weights\.safetensors is .*, not an ONNX model;/,
  ],
  ["files", ["import"], () => ({ from: at("page.html") }), /is an HTML page, not a file of weights/],
  ["pointers", ["import"], () => ({ from: at("pointer") }), /Git LFS pointer.*git lfs pull/],
  ["a checkpoint with NaN", ["import"], () => ({ from: at("nan.safetensors") }), /conv1\.weight.*(NaN|not finite)/],
  [
    "a run with NaN",
    takeRuns,
    () => ({ from: at("nanRun") }),
    /conv1\.weight holds NaN in .*nanRun.*; give an earlier/,
  ],
  ["a folder that is no run", takeRuns, () => ({ from: at("nothing") }), /nothing is not a run folder/],
  [
    "a model for a run",
    ["export", "finetune"],
    () => ({ from: at("model.onnx") }),
    /is an ONNX model, not a run folder; give the folder that it was exported from/,
  ],
  [
    "weights for a run",
    ["export", "finetune"],
    () => ({ from: at("weights.safetensors") }),
    /not a run folder; make a run of it with advcl import/,
  ],
  [
    "a page for a run",
    ["export", "finetune"],
    () => ({ from: at("page.html") }),
    /is a file, not a run folder; give the --out folder/,
  ],
  ["images that are not there", takeImages, () => ({ data: at("gone") }), /gone: it does not exist; check the path/],
  [
    "a folder without images",
    takeImages,
    () => ({ data: at("nothing") }),
    /has no images for split (test|train); give another/,
  ],
  [
    "images of other classes",
    ["evaluate", "harden", "export"],
    () => ({ data: at("others") }),
    /has no class named .*--match-classes position/,
  ],
  ["images without labels", ["evaluate", "harden", "finetune"], () => ({ data: at("bare"), batch: 2 }), /no labels/],
  ["a mean of two numbers", takeModels, () => ({ mean: [0, 1] }), /mean.*(1 or 3|one for each of the three channels)/],
];

describe.each(refused)("%s", (_, names, given, message) => {
  test.each(names)("%s", async (name) => {
    const running = (commands[name] as Run)(given());
    await expect(running).rejects.toBeInstanceOf(RequestError);
    await expect(running).rejects.toThrow(message);
    await expect(running).rejects.not.toThrow(/undefined|onnxruntime|internal|NaN %|\[object/);
  });
});

/** What is warned of before anything else is looked at, so that images that are missing don't hide it. */
const warned: readonly (readonly [string, readonly string[], Settings, RegExp])[] = [
  [
    "a mean of 0 to 255",
    takeModels,
    { mean: [123.675], std: [58.4] },
    /--mean 123\.675 is of pixels from 0 to 255.*did you mean --mean 0\.485/,
  ],
  [
    "a radius of 1",
    ["harden", "finetune", "pretrain"],
    { eps: 1 },
    /eps is 1 and pixels lie in \[0, 1\].*--eps 1\/255/,
  ],
  ["a radius of 8", ["evaluate"], { eps: [2 / 255, 8] }, /eps is 8 and pixels lie in \[0, 1\].*--eps 8\/255/],
];

describe.each(warned)("%s is warned of", (_, names, given, message) => {
  test.each(names)("%s", async (name) => {
    warnings.length = 0;
    await expect((commands[name] as Run)({ ...given, data: at("gone") })).rejects.toThrow(
      /gone: it does not exist; check the path/,
    );
    expect(warnings).toContainEqual(expect.stringMatching(message));
  });
});

test("images without labels: an export says that it measures nothing", async () => {
  warnings.length = 0;
  const { accuracies } = (await (commands.export as Run)({ data: at("bare") })) as { accuracies: object };
  expect(accuracies).toEqual({});
  expect(warnings).toContainEqual(expect.stringMatching(/accuracy is not measured: .* no labels/));
});

test("a run is evaluated on its own images where none are asked for, and that is said", async () => {
  const logged: string[] = [];
  const reporter = { ...options.reporter, log: (message: string) => void logged.push(message) };
  const own = await evaluate({ model: at("run"), attacks: ["clean"], threads: 1 }, { reporter });
  expect(logged).toContainEqual("images of folder, which run was trained on; --dataset takes others");
  expect([own.dataset, own.count]).toEqual(["folder", 10]);
  const asked = await evaluate({ model: at("run"), ...images(), attacks: ["clean"], threads: 1 } as never, options);
  expect(own.attacks).toEqual(asked.attacks);
});
