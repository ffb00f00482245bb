/** The encoders and classifiers that ship: each is begun from by its name, and its card says what it does. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, jest, test } from "@jest/globals";
import { outputName } from "../../graphs/deploy/network.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { random } from "../../src/data/random.ts";
import { runReference } from "../../src/deploy/reference.ts";
import { openSource } from "../../src/deploy/source.ts";
import { createSession } from "../../src/engine/session.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { loadRun } from "../../src/runs/network.ts";
import { shippedFile, shippedNames } from "../../src/runs/shipped.ts";
import { packageRoot } from "../../src/version.ts";
import { built } from "../built.ts";
import { available } from "../needs.ts";

jest.setTimeout(300_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-shipped-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const images = join(packageRoot, "..", "shared", "data", "cifar-10-batches-bin");
const hasData = available("data", existsSync(images));
const names = shippedNames();
const cardOf = (name: string): string => readFileSync(shippedFile(name)!.replace(/safetensors$/, "md"), "utf8");
const advcl = (args: string) => spawnSync("node", [built("src/cli/main.js"), ...args.split(" ")], { encoding: "utf8" });

test("an encoder and a classifier made from it ship", () => {
  expect(names.length).toBeGreaterThanOrEqual(2);
});

describe.each(names)("%s", (name) => {
  const file = shippedFile(name)!;

  test("is small, has a card, and is what its ONNX file computes", async () => {
    const onnx = file.replace(/safetensors$/, "onnx");
    for (const path of [file, onnx]) expect(statSync(path).size).toBeLessThan(4e6);
    expect(cardOf(name)).toMatch(/\*\*Licence\*\*: .*npx advcl pretrain .*\| PGD-20/s);
    const source = await openSource(name, "auto", () => {});
    const { size } = source.network;
    const pixels = new Float32Array(2 * 3 * size ** 2);
    random(0, 0, 0, "images").fillUniform(pixels, 0, 1);
    const image = float32([2, 3, size, size], pixels);
    const what = source.run.tensors.has("fc.weight") ? "classifier" : "encoder";
    const expected = await runReference(source, what, image);
    const session = await createSession(readFileSync(onnx), { threads: 1 });
    const got = (await session.run({ image }))[outputName(what)]!.data as Float32Array;
    await session.release();
    expect(got.length).toBe(expected.length);
    for (const [i, value] of got.entries()) expect(value).toBeCloseTo(expected[i]!, 3);
  });

  test("is finetuned and exported by its name", () => {
    const out = join(folder, name);
    const tuned = advcl(
      `finetune --scheme slf --from ${name} --dataset shapes --limit 32 --test-limit 20 --batch 16 --epochs 1 --threads 1 --workers 0 --out ${out}`,
    );
    expect([tuned.status, tuned.stderr]).toEqual([0, expect.stringContaining(`tensors of the encoder from ${name}`)]);
    const exported = advcl(`export --from ${name} --limit 0 --out ${out}.onnx`);
    expect([exported.status, exported.stderr]).toEqual([0, expect.not.stringMatching(/error/i)]);
    expect(existsSync(`${out}.onnx`)).toBe(true);
  });
});

(hasData ? test : test.skip)("the classifier is as right on CIFAR-10's test images as its card says", async () => {
  const classifiers = [];
  for (const name of names) if ((await loadRun(name, () => {})).tensors.has("fc.weight")) classifiers.push(name);
  expect(classifiers.length).toBeGreaterThan(0);
  for (const name of classifiers) {
    const asked = { dataset: "cifar10" as const, data: images, limit: 1000, attacks: ["clean"] };
    const { attacks } = await evaluate({ ...asked, model: name });
    const said = /\| this classifier +\| ([\d.]+) \(/.exec(cardOf(name))?.[1];
    expect(Number(said)).toBeCloseTo(100 * attacks.clean!.accuracy, 1);
  }
});
