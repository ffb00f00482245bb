import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "@jest/globals";
import type * as training from "onnxruntime-training-web/training";
import { deployed, deployedWeights } from "../../graphs/deploy/network.ts";
import { crossEntropy } from "../../graphs/losses/cross-entropy.ts";
import { featureSize } from "../../graphs/nn/encoder.ts";
import { input, inputName, type Value } from "../../graphs/onnx/graph.ts";
import { float32, sizeOf, type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { sgd } from "../../graphs/optim/sgd.ts";
import { compile, update } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { loadDataset } from "../../src/data/dataset.ts";
import { freshHead, trainingFiles } from "../../src/deploy/training.ts";
import { createSession } from "../../src/engine/session.ts";
import { imageBatch } from "../../src/models/images.ts";
import { relativeError } from "../graphs/run.ts";
import { randomNetwork } from "./networks.ts";

const engine = async (): Promise<typeof training> => {
  const dist = dirname(createRequire(import.meta.url).resolve("onnxruntime-training-web"));
  const loaded = (await import(pathToFileURL(join(dist, "ort.training.wasm.min.mjs")).href)) as typeof training;
  loaded.env.wasm.numThreads = 1;
  return loaded;
};

const batch = 10;

const prepare = async (trains: "head" | "all") => {
  const { network, weights } = randomNetwork({ width: 4, size: 16 });
  const options = { ...network, classes: 10 };
  const folded = deployedWeights({ ...options, what: "encoder" }, weights, 1);
  const given = new Map([...folded, ...freshHead(10, featureSize(network), 3)]);
  const files = trainingFiles({ ...options, batch, trains, momentum: 0.9, weightDecay: 1e-4 }, given, 3, {
    source: "test",
  });
  const images = await loadDataset({ name: "shapes", split: "train", size: 16, limit: batch });
  const ort = await engine();
  const session = await ort.TrainingSession.create({
    checkpointState: files.checkpoint,
    trainModel: files.trainingModel,
    evalModel: files.evalModel,
  });
  const image = imageBatch(images, 0, batch);
  const feeds = (lr: number) => ({
    image: new ort.Tensor("float32", image.data, image.shape),
    label: new ort.Tensor("int64", BigInt64Array.from(images.labels as Int32Array, BigInt), [batch]),
    lr: new ort.Tensor("float32", Float32Array.of(lr), []),
  });
  return { session, feeds, files, given, options: { ...options, batch, trains, momentum: 0.9, weightDecay: 1e-4 } };
};
type Prepared = Awaited<ReturnType<typeof prepare>>;

/** The same training on onnxruntime-node: a step whose results are fed back. */
const reference = async ({ options, given, feeds }: Prepared, lrs: readonly number[]) => {
  const { store, image, outputs } = deployed({ ...options, what: "classifier" });
  const label = input("label", { dtype: "int64", shape: [batch] });
  const loss = crossEntropy(outputs.logits as Value, label);
  const trains = (path: string) => options.trains === "all" || path.startsWith("fc.");
  const { outputs: next } = update(store, loss, sgd(options), trains);
  const session = await createSession(compile({ outputs: { ...next, loss } }, portable));
  const held = new Map<string, Tensor>();
  for (const { path, type } of store.parameters.values())
    held.set(`param.${path}`, given.get(path) ?? zeros("float32", type.shape));
  for (const { path, type } of store.states.values()) held.set(`state.${path}`, zeros("float32", type.shape));
  const losses: number[] = [];
  for (const lr of lrs) {
    const { image: x, label: y } = feeds(lr);
    const own = (t: { data: unknown; dims: readonly number[]; type: string }) =>
      ({ dtype: t.type, shape: t.dims, data: t.data }) as Tensor;
    const fed = { [inputName(image)]: own(x), label: own(y) };
    const results = await session.run({ ...fed, ...Object.fromEntries(held), "input.lr": float32([], [lr]) });
    losses.push(Number(results.loss?.data[0]));
    for (const [name, value] of Object.entries(results))
      if (name !== "loss") held.set(name.slice("next.".length), value);
  }
  await session.release();
  return { losses, held };
};

/** What a session holds, by name. */
const stateOf = async ({ session, files }: Prepared): Promise<Map<string, Float32Array>> => {
  const all = (await session.getContiguousParameters(false)).data as Float32Array;
  const { tensors } = files.manifest as { tensors: { name: string; shape: number[] }[] };
  let at = 0;
  const state = new Map(
    tensors.map(({ name, shape }) => {
      const size = sizeOf(shape);
      at += size;
      return [name, all.subarray(at - size, at)];
    }),
  );
  expect(at).toBe(all.length);
  return state;
};

describe("on-device training", () => {
  test.each([
    ["head", [0.1, 0.1, 0.05, 0.2]],
    ["all", [0.05, 0.01, 0.05]],
  ] as const)("of %s takes the steps of onnxruntime-node, by the learning rates it is given", async (trains, lrs) => {
    const prepared = await prepare(trains);
    const { session, feeds, given } = prepared;
    const expected = await reference(prepared, lrs);
    const losses: number[] = [];
    for (const lr of lrs) {
      const { loss, updated } = await session.runTrainStep(feeds(lr));
      losses.push(Number(loss?.data[0]));
      expect(Array.from(updated?.data as Uint8Array).every(Boolean)).toBe(true);
    }
    expect(relativeError(losses, expected.losses)).toBeLessThan(1e-5);
    const state = await stateOf(prepared);
    const errors = [...expected.held].map(([name, { data }]) => ({
      name,
      error: relativeError(state.get(name.replace(/^(param|state)\./, "")) as Float32Array, data as Float32Array),
    }));
    // NaN passes no comparison.
    expect(errors.filter(({ error }) => !(error < 1e-4))).toEqual([]);
    expect(errors.length).toBeGreaterThan(0);
    const moved = (state.get("conv1.weight") as Float32Array).some((v, i) => v !== given.get("conv1.weight")?.data[i]);
    expect(moved).toBe(trains === "all");
    const still = (await session.runEvalStep(feeds(0))).loss?.data[0];
    expect((await session.runEvalStep(feeds(0))).loss?.data[0]).toBe(still);
    expect(still).not.toBe(losses.at(-1));
    await session.release();
  });

  test("a linear probe learns", async () => {
    const { session, feeds } = await prepare("head");
    const losses: number[] = [];
    for (let i = 0; i < 60; i++) losses.push(Number((await session.runTrainStep(feeds(0.5))).loss?.data[0]));
    expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.5);
    await session.release();
  });
});
