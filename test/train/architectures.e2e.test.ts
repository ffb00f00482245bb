/** Pretraining, finetuning, evaluation and export of the encoders beside ResNet, as a user goes through them. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { exportModel } from "../../src/deploy/export.ts";
import { importWeights } from "../../src/deploy/import.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { loadRun } from "../../src/runs/network.ts";
import { finetune } from "../../src/train/finetune.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import { quietReporter } from "../../src/verbs/reporter.ts";

let folder: string;
const at = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "architectures-"));
});
afterAll(() => rm(folder, { recursive: true }));

const images = { dataset: "shapes", limit: 16, batch: 8, epochs: 1, workers: 0, threads: 1 } as const;
const silent = () => {};

test.each([
  { arch: "wide-resnet", depth: "10", name: "block1.layer.0.convShortcut.weight" },
  { arch: "preact-resnet", depth: "18", name: "layer2.0.shortcut.0.weight" },
] as const)("$arch, from pretraining to exports", async ({ arch, depth, name }) => {
  const [run, tuned] = [at(arch), at(`${arch}-slf`)];
  const network = { arch, depth, width: 4, size: 16 } as const;
  const given = { ...images, ...network, clusters: [], attackSteps: 1, knnEvery: 1, out: run };
  const trained = await pretrain({ ...given, radius: 3 });
  expect(trained.steps).toBe(2);
  expect(Number.isFinite(trained.metrics.loss)).toBe(true);
  expect((await loadRun(run, silent)).network).toMatchObject({ arch, depth: Number(depth), width: 4, stem: "cifar" });
  const classified = await finetune({ ...images, scheme: "slf", from: run, testLimit: 16, out: tuned });
  expect(classified.testImages).toBe(16);
  const onnx = at(`${arch}.onnx`);
  await exportModel({ from: tuned, out: onnx, limit: 0 });
  const asked = { attacks: ["clean", "pgd2"], limit: 16, threads: 1 };
  const [ofRun, ofFile] = [await evaluate({ ...asked, model: tuned }), await evaluate({ ...asked, model: onnx })];
  expect(ofRun.attacks.clean?.accuracy).toBe(classified.accuracy);
  expect(ofFile.attacks).toEqual(ofRun.attacks);
  const weights = at(`${arch}.safetensors`);
  await exportModel({ from: run, out: weights, format: "safetensors", layout: "torchvision" });
  expect([...(await readSafetensors(weights)).tensors.keys()]).toContain(name);
  expect(await importWeights({ from: weights, out: at(`${arch}-back`) })).toMatchObject({ arch, width: 4 });
});

test.each([
  ["preact-resnet", false],
  ["preact-resnet-back", true],
] as const)(
  "a head no better than chance on %s: the hint speaks of the import where there was one",
  async (from, imported) => {
    const said: string[] = [];
    const reporter = { ...quietReporter, warn: (message: string) => said.push(message) };
    const untrained = { ...images, scheme: "slf", from: at(from), testLimit: 16, lr: 0 } as const;
    await finetune({ ...untrained, out: at(`${from}-untrained`) }, { reporter });
    const hint = said.find((message) => message.includes("is no better than chance on test images")) ?? "";
    expect(hint).not.toBe("");
    expect(hint.includes("the encoder was imported: check that advcl import got the --mean and --std")).toBe(imported);
  },
);

test("what an architecture does not have is refused", async () => {
  const asked = { ...images, size: 16, clusters: [], out: at("none") };
  await expect(pretrain({ ...asked, arch: "wide-resnet", depth: "18" })).rejects.toThrow(
    /--depth is 18 but wide-resnet has 10, 16, 22, 28, 34, 40, 70; choose one/,
  );
  await expect(pretrain({ ...asked, arch: "preact-resnet", stem: "imagenet" })).rejects.toThrow(
    /--stem imagenet is of resnet; leave it out with --arch preact-resnet/,
  );
  await expect(finetune({ ...images, scheme: "slf", from: at("wide-resnet"), arch: "resnet" })).rejects.toThrow(
    /--arch is the encoder's own/,
  );
});
