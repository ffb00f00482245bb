import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { knnStep } from "../../graphs/steps/knn.ts";
import type { Dataset } from "../data/dataset.ts";
import { alone, type Collective, isMine } from "../distributed/collective.ts";
import type { Engine } from "../engine/engine.ts";
import { imageBatch } from "../models/images.ts";
import { featureStep, featuresOf, type Network, weightFeeds } from "../runs/network.ts";

/** 200 neighbours vote in a bank of 10,000 images or more, fewer in a smaller one: a fiftieth of it. */
const votersOf = (bank: number): number => Math.min(200, Math.ceil(bank / 50));
const temperature = 0.1;
const queryBatch = 256;

/** Turns images into features; made once, used with new weights each time. */
export interface FeatureExtractor {
  /**
   * Evaluation-mode features [N,D] of every image, un-augmented. `weights` are by PyTorch name.
   * @param ranks processes that each compute a part of the batches; every one gets all features
   */
  extract(dataset: Dataset, weights: ReadonlyMap<string, Tensor>, ranks?: Collective): Promise<Tensor<"float32">>;
  release(): Promise<void>;
}

export const createExtractor = async (
  engine: Engine,
  network: Network,
  branch: string,
  batch = 100,
): Promise<FeatureExtractor> => {
  const step = featureStep(network, branch, batch);
  const { session } = await engine.load(step);
  const width = featuresOf(network);
  return {
    extract: async (dataset, weights, ranks = alone) => {
      const feeds = weightFeeds(step.store, weights, "the weights");
      const all = new Float32Array(dataset.count * width);
      for (let from = 0; from < dataset.count; from += batch) {
        if (!isMine(ranks, from / batch)) continue;
        const results = await session.run({ ...feeds, "input.image": imageBatch(dataset, from, batch) });
        const rows = Math.min(batch, dataset.count - from);
        const features = results.features as Tensor<"float32">;
        all.set(features.data.subarray(0, rows * width), from * width);
      }
      // Each number is one rank's, and zeros of the others.
      await ranks.sum(all);
      return tensor("float32", [dataset.count, width], all);
    },
    release: () => session.release(),
  };
};

/** Share of the queries whose nearest neighbours in the bank vote for their true class (cosine, temperature 0.1). */
export const knnAccuracy = async (
  engine: Engine,
  bank: { readonly features: Tensor<"float32">; readonly labels: Int32Array },
  query: { readonly features: Tensor<"float32">; readonly labels: Int32Array },
  classes: number,
  ranks: Collective = alone,
): Promise<number> => {
  const [count = 0, width = 0] = query.features.shape;
  const step = knnStep(
    { bank: bank.labels.length, batch: queryBatch, features: width },
    { neighbours: votersOf(bank.labels.length), temperature, classes },
  );
  const { session } = await engine.load(step);
  const fixed = {
    "input.bank": bank.features,
    "input.bank_label": tensor("int32", [bank.labels.length], bank.labels),
  };
  const right = new Float32Array(1);
  for (let from = 0; from < count; from += queryBatch) {
    if (!isMine(ranks, from / queryBatch)) continue;
    const rows = Math.min(queryBatch, count - from);
    const padded = new Float32Array(queryBatch * width);
    padded.set(query.features.data.subarray(from * width, (from + rows) * width));
    const { prediction } = await session.run({
      ...fixed,
      "input.query": tensor("float32", [queryBatch, width], padded),
    });
    for (let i = 0; i < rows; i++) if (Number(prediction?.data[i]) === query.labels[from + i]) right[0]!++;
  }
  await session.release();
  await ranks.sum(right);
  return right[0]! / count;
};
