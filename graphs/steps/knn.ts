import { Store } from "../nn/scope.ts";
import {
  argMax,
  div,
  exp,
  gather,
  matMul,
  matrixTranspose,
  mul,
  normalizeL2,
  oneHot,
  reduceSum,
  reshape,
  topK,
} from "../ops/index.ts";
import type { Step } from "./step.ts";

export interface KnnOptions {
  /** Neighbours that vote. */
  readonly neighbours: number;
  /** Weight of a neighbour: exp(cosine / temperature). */
  readonly temperature: number;
  readonly classes: number;
}

/**
 * Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, section 3.4). Inputs: `bank` [N,D] with
 * `bank_label` int32 [N], `query` [B,D]; output `prediction` int64 [B].
 */
export const knnStep = (
  { bank, batch, features }: { bank: number; batch: number; features: number },
  { neighbours, temperature, classes }: KnnOptions,
): Step => {
  const store = new Store();
  const known = store.input("bank", { dtype: "float32", shape: [bank, features] });
  const labels = store.input("bank_label", { dtype: "int32", shape: [bank] });
  const query = store.input("query", { dtype: "float32", shape: [batch, features] });
  const similarity = matMul(normalizeL2(query), matrixTranspose(normalizeL2(known)));
  const k = Math.min(neighbours, bank);
  const { values, indices } = topK(similarity, k);
  const votes = reshape(oneHot(reshape(gather(labels, indices), [batch * k]), classes), [batch, k, classes]);
  const weights = reshape(exp(div(values, temperature)), [batch, k, 1]);
  const score = reduceSum(mul(votes, weights), { axes: [1], keepdims: 0 });
  return { store, outputs: { prediction: argMax(score, { axis: 1, keepdims: 0 }) } };
};
