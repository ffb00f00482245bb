/** A batch in parts: the update of the whole batch where images do not see one another, and what differs where they do. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { readRun } from "../../src/runs/run-folder.ts";
import { finetune } from "../../src/train/finetune.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import { relativeError } from "../graphs/run.ts";

let folder: string;
const at = (name: string): string => join(folder, name);
const images = { dataset: "shapes", limit: 16, batch: 8, workers: 0, threads: 1, target: "portable" } as const;
const tiny = { ...images, width: 2, size: 8, clusters: [] as number[], attackSteps: 1, knnEvery: 0, radius: 2 };

/** Every tensor that is trained or moved, at the end of a run. */
const endOf = async (run: string): Promise<ReadonlyMap<string, Tensor>> =>
  (await readRun(run, () => {})).checkpoint.tensors;
const numbers = (tensor: Tensor | undefined): Float32Array => tensor?.data as Float32Array;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "accumulate-"));
  await pretrain({ ...tiny, epochs: 1, out: at("encoder") });
});
afterAll(() => rm(folder, { recursive: true }));

test.each(["slf", "alf"] as const)("%s in parts has the weights of whole batches", async (scheme) => {
  const given = { ...images, scheme, from: at("encoder"), testLimit: 8, epochs: 2, lr: 0.1, attackSteps: 1 };
  await finetune({ ...given, out: at(`${scheme}-whole`) });
  await finetune({ ...given, accumulate: 4, out: at(`${scheme}-parts`) });
  const [whole, parts] = [await endOf(at(`${scheme}-whole`)), await endOf(at(`${scheme}-parts`))];
  for (const name of ["param.fc.weight", "param.fc.bias", "state.momentum.fc.weight"])
    expect(relativeError(numbers(parts.get(name)), numbers(whole.get(name)))).toBeLessThan(1e-5);
});

test("batch norm and negatives of a pretraining see a part: another step, of the same size, and statistics are means over parts", async () => {
  const one = { ...tiny, limit: 8, epochs: 1, lr: 0.01 };
  const trained = [];
  for (const accumulate of [1, 2, 4])
    trained.push(await pretrain({ ...one, accumulate, out: at(`parts-${accumulate}`) }));
  // Of 2·3·b views of b images, fewer negatives are in a part.
  const losses = trained.map(({ metrics }) => metrics.loss as number);
  expect(losses[0]).toBeGreaterThan(losses[1]!);
  expect(losses[1]).toBeGreaterThan(losses[2]!);
  // The first convolution sees images one by one: the mean over all of them does not depend on parts, the variance within does.
  const [whole, parts] = [await endOf(at("parts-1")), await endOf(at("parts-4"))];
  const mean = "state.bn1.bn_list.0.running_mean";
  expect(relativeError(numbers(parts.get(mean)), numbers(whole.get(mean)))).toBeLessThan(1e-5);
});

test("what can't be taken in parts is refused", async () => {
  const out = at("none");
  await expect(pretrain({ ...tiny, epochs: 1, accumulate: 3, out })).rejects.toThrow(/can't be taken in 3 equal parts/);
  await expect(pretrain({ ...tiny, epochs: 1, accumulate: 8, out })).rejects.toThrow(/parts of at least 2/);
  await expect(pretrain({ ...tiny, epochs: 1, accumulate: 2, stepsPerRun: 2, out })).rejects.toThrow(
    /--steps-per-run takes whole batches/,
  );
});
