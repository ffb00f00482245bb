import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { trainableInitializers } from "../../graphs/import/trainable.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { float32, type Tensor, tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { hardenStep } from "../../graphs/steps/harden.ts";
import { hardenCommand } from "../../src/cli/commands/harden.ts";
import { createSession } from "../../src/engine/session.ts";
import { loadClassifier } from "../../src/models/classifier.ts";
import { trainable } from "../../src/train/harden/model.ts";
import { patchWeights } from "../../src/train/harden/patch.ts";
import { built } from "../built.ts";
import { evaluate, randomNumbers, randomTensor, relativeError } from "../graphs/run.ts";
import { killedAfter } from "../killed.ts";
import { Sink } from "../sink.ts";

/** Made by scripts/fixtures/small_classifier.py: a small network trained on `shapes` in PyTorch, normalisation inside. */
const small = fileURLToPath(new URL("../fixtures/harden/small.onnx", import.meta.url));

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "harden-"));
});
afterAll(() => rm(folder, { recursive: true }));

const run = async (...args: string[]) => {
  const [stdout, stderr] = [new Sink(), new Sink()];
  await hardenCommand.execute(["--from", small, "--threads", "1", "--json", "--quiet", ...args], { stdout, stderr });
  return { ...JSON.parse(stdout.text), stderr: stderr.text };
};

const decoded = async (path: string) => onnxProto.onnx.ModelProto.decode(await readFile(path));

describe("the weights of a file", () => {
  test("are those of its layers, not the statistics of its batch norms nor the normalisation of its images", async () => {
    const file = parseModel(await readFile(small));
    const names = trainableInitializers(file);
    const expected = [0, 4, 8].map((i) => `body.${i}.weight`);
    for (const i of [1, 5, 9]) expected.push(`body.${i}.weight`, `body.${i}.bias`);
    expect([...names].sort()).toEqual([...expected, "fc.bias", "fc.weight"].sort());
    expect([...file.initializers.keys()]).toEqual(expect.arrayContaining(["body.1.running_mean", "mean", "std"]));
  });

  test("are written over where they lie, and every other byte stays", async () => {
    const before = await readFile(small);
    const { initializers } = parseModel(before);
    const bias = initializers.get("fc.bias") as Tensor;
    const other = float32(
      bias.shape,
      Array.from({ length: bias.data.length }, (_, i) => i - 0.5),
    );
    const after = patchWeights(before, new Map([["fc.bias", other]]), { hardened: "yes" });
    expect(after.subarray(0, before.length).filter((byte, i) => byte !== before[i]).length).toBeLessThanOrEqual(
      4 * other.data.length,
    );
    const read = parseModel(after);
    expect(read.initializers.get("fc.bias")?.data).toEqual(other.data);
    expect(read.initializers.get("fc.weight")).toEqual(initializers.get("fc.weight"));
    expect(read.metadata.hardened).toBe("yes");
    expect(patchWeights(before, new Map([["fc.bias", bias]]), {})).toEqual(before);
    expect(() => patchWeights(before, new Map([["none", bias]]), {})).toThrow(
      /the weight none is not stored as float32/,
    );
  });
});

test("the strength of a step scales its attack: at a half it is that of half the radius, at 0 there is none", async () => {
  const model = trainable(await loadClassifier(small, { warn: () => {} }), 8);
  const random = randomNumbers(3);
  const shape = [8, 3, 32, 32];
  const [clean, start] = [randomTensor(random, shape, 0, 1), randomTensor(random, shape, -4 / 255, 4 / 255)];
  const label = tensor(
    "int32",
    [8],
    Int32Array.from({ length: 8 }, (_, i) => i),
  );
  const loss = async (eps: number, strength: number, noise: Tensor) => {
    const attack = { attackSteps: 3, eps, stepSize: eps / 2 };
    const options = { ...attack, objective: "pgd", beta: 1, batch: 8, momentum: 0, weightDecay: 0 } as const;
    const { outputs, store } = hardenStep({ ...options, image: [3, 32, 32] }, model.classify);
    const feeds: Record<string, Tensor> = Object.fromEntries(
      [...store.states.values()].map(({ path, type }) => [`state.${path}`, zeros("float32", type.shape)]),
    );
    for (const [name, value] of model.weights) feeds[`param.${name}`] = value;
    const given = { clean, label, start: noise, lr: float32([], [0]), strength: float32([], [strength]) };
    for (const [name, value] of Object.entries(given)) feeds[`input.${name}`] = value;
    return Number((await evaluate({ loss: outputs["metric.loss"] as Value }, feeds)).loss?.data[0]);
  };
  const halved = float32(
    shape,
    (start.data as Float32Array).map((v) => v / 2),
  );
  const still = zeros("float32", shape);
  const [none, half, whole] = [
    await loss(8 / 255, 0, start),
    await loss(8 / 255, 0.5, start),
    await loss(8 / 255, 1, start),
  ];
  expect(none).toBeCloseTo(await loss(0, 1, still), 5);
  expect(half).toBeCloseTo(await loss(4 / 255, 1, halved), 5);
  expect(half).toBeGreaterThan(none);
  expect(whole).toBeGreaterThan(half);
});

test("clipping scales a step's gradients together to the largest norm, and leaves shorter ones", async () => {
  const model = trainable(await loadClassifier(small, { warn: () => {} }), 4);
  const clean = randomTensor(randomNumbers(5), [4, 3, 32, 32], 0, 1);
  const given = { clean, start: zeros("float32", [4, 3, 32, 32]), lr: float32([], [1]), strength: float32([], [0]) };
  const label = tensor("int32", [4], Int32Array.of(1, 2, 3, 4));
  const moved = async (clip: number): Promise<Float64Array> => {
    const attack = {
      attackSteps: 1,
      eps: 0,
      stepSize: 0,
      objective: "pgd",
      beta: 1,
      momentum: 0,
      weightDecay: 0,
    } as const;
    const { outputs, store } = hardenStep({ ...attack, batch: 4, image: [3, 32, 32], clip }, model.classify);
    const feeds: Record<string, Tensor> = {};
    for (const { path, type } of store.states.values()) feeds[`state.${path}`] = zeros("float32", type.shape);
    for (const [name, value] of model.weights) feeds[`param.${name}`] = value;
    for (const [name, value] of Object.entries({ ...given, label })) feeds[`input.${name}`] = value;
    const results = await evaluate(outputs, feeds);
    return Float64Array.from(
      [...model.weights].flatMap(([name, { data }]) => {
        const next = results[`next.param.${name}`]?.data as Float32Array;
        return Array.from(data as Float32Array, (v, i) => v - next[i]!);
      }),
    );
  };
  const norm = (values: Float64Array): number => Math.hypot(...values);
  const whole = await moved(0);
  const clipped = await moved(0.25);
  expect(norm(whole)).toBeGreaterThan(0.5);
  expect(norm(clipped)).toBeCloseTo(0.25, 4);
  const scale = 0.25 / norm(whole);
  expect(
    relativeError(
      clipped,
      whole.map((v) => v * scale),
    ),
  ).toBeLessThan(1e-4);
  expect(await moved(1e6)).toEqual(whole);
});

describe("advcl harden", () => {
  test.each(["trades", "pgd-at"])(
    "by %s makes a classifier from elsewhere more robust and keeps its names, inputs and outputs",
    async (objective) => {
      const out = join(folder, `${objective}.onnx`);
      const data = ["--dataset", "shapes", "--limit", "384", "--test-limit", "60", "--no-augment"];
      const attack = ["--eps", "8/255", "--step-size", "4/255", "--attack-steps", "3", "--test-steps", "5"];
      const budget = ["--epochs", "2", "--batch", "32", "--lr", "0.03"]; // a high rate for 24 steps
      const result = await run("--out", out, "--objective", objective, ...data, ...attack, ...budget);
      expect(result.before.accuracy).toBeGreaterThan(0.9);
      expect(result.before.robustAccuracy).toBeLessThan(0.5);
      expect(result.after.robustAccuracy).toBeGreaterThan(result.before.robustAccuracy + 0.1);
      expect(result.after.accuracy).toBeGreaterThan(0.6);
      const [old, made] = await Promise.all([decoded(small), decoded(out)]);
      const outline = ({ graph, opsetImport, irVersion }: onnxProto.onnx.ModelProto) => ({
        input: graph?.input,
        output: graph?.output,
        node: graph?.node,
        names: graph?.initializer?.map(({ name, dims, dataType }) => [name, dims, dataType]),
        opsetImport,
        irVersion,
      });
      expect(outline(made)).toEqual(outline(old));
      const session = await createSession(await readFile(out));
      const { scores } = await session.run({ pixels: float32([3, 3, 32, 32], new Float32Array(3 * 3072)) });
      expect(scores?.shape).toEqual([3, 10]);
      await session.release();
    },
  );

  test("says in one sentence that a model is no better than chance, before and after", async () => {
    const args = ["--dataset", "shapes", "--test-limit", "60", "--test-steps", "1", "--attack-steps", "1"];
    const budget = ["--limit", "128", "--batch", "32", "--epochs", "1"];
    const wild = await run("--out", join(folder, "wild.onnx"), ...args, ...budget, "--lr", "30");
    expect(wild.stderr).toMatch(/wild\.onnx is no better than chance \(\d+\.\d\d %\).*lower --lr \(it was 30\)/);
    expect(wild.stderr.match(/no better than chance/g)).toHaveLength(1);
    const blind = await run("--out", join(folder, "blind.onnx"), ...args, ...budget, "--mean", "50,50,50");
    expect(blind.stderr).toMatch(
      /small\.onnx is no better than chance on clean images .*with neither --mean nor --std it is right for/,
    );
  });

  test("killed and resumed it writes the same bytes", async () => {
    const args = [
      "harden",
      "--from",
      small,
      "--dataset",
      "shapes",
      "--limit",
      "96",
      "--test-limit",
      "10",
      "--threads",
      "1",
    ];
    args.push("--attack-steps", "1", "--test-steps", "1", "--batch", "32", "--epochs", "10");
    const to = (name: string) => join(folder, `${name}.onnx`);
    const finish = (name: string, ...more: string[]) =>
      spawnSync("node", [built("src/cli/main.js"), ...args, "--out", to(name), ...more], { encoding: "utf8" });
    expect(finish("straight").status).toBe(0);
    const code = await killedAfter([...args, "--out", to("stopped")], join(folder, "stopped.onnx.run"), 3, "SIGKILL");
    expect(code).not.toBe(0);
    expect(existsSync(to("stopped"))).toBe(false);
    expect(finish("stopped").stderr).toMatch(/stopped\.onnx\.run holds a run of harden already/);
    expect(finish("stopped", "--resume").status).toBe(0);
    expect(await readFile(to("stopped"))).toEqual(await readFile(to("straight")));
  });

  test("refuses what it cannot do, in one sentence", async () => {
    const out = join(folder, "none.onnx");
    await expect(run("--out", out, "--data", join(folder, "nothing"))).rejects.toThrow(/nothing/);
    const foreign = join(folder, "not.onnx");
    await writeFile(foreign, "not a model");
    await expect(run("--from", foreign, "--out", out, "--dataset", "shapes")).rejects.toThrow(/not an ONNX model/);
    await expect(run("--from", join(folder, "gone.onnx"), "--out", out, "--dataset", "shapes")).rejects.toThrow(
      /does not exist/,
    );
    const shapes = ["--dataset", "shapes"];
    await expect(run("--from", folder, "--out", out, ...shapes)).rejects.toThrow("write one with advcl export");
    const copy = join(folder, "copy.onnx");
    await writeFile(copy, await readFile(small));
    await expect(run("--from", copy, "--out", copy, ...shapes)).rejects.toThrow("--out is the file of --from");
    await expect(run("--out", folder, ...shapes)).rejects.toThrow("it is a folder; name a file");
  });
});
