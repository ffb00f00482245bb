/** A-InfoNCE's forms of the contrastive loss (Yu et al., ECCV 2022): hard negatives, and an inferior positive pair. */
import { constant, named, scalar, type Value } from "../onnx/graph.ts";
import { float32 } from "../onnx/tensor.ts";
import {
  add,
  div,
  exp,
  greater,
  log,
  matMul,
  matrixTranspose,
  max,
  mul,
  neg,
  reduceLogSumExp,
  reduceMax,
  reduceSum,
  stopGradient,
  sub,
  where,
} from "../ops/index.ts";
import type { ContrastiveOptions } from "./contrastive.ts";

/** A pair of views that are positives of each other of less worth: [B,B]-blocks of both directions. */
export interface InferiorPair {
  readonly views: readonly [adversarial: number, clean: number];
  /** d: the share of the clean view as anchor; a scalar. */
  readonly share: Value;
  readonly weight: number;
}

export interface AsymmetricOptions extends Pick<ContrastiveOptions, "temperature" | "baseTemperature"> {
  /** τ, the share of negatives that are taken to be positives; undefined: all negatives weigh the same. */
  readonly tau?: number | undefined;
  readonly inferior?: InferiorPair | undefined;
}

/** 1 where the rule holds for row i and column j of [rows,rows], else 0. */
const cells = (rows: number, holds: (i: number, j: number) => boolean): Value =>
  constant(
    float32(
      [rows, rows],
      Array.from({ length: rows * rows }, (_, at) => Number(holds(Math.floor(at / rows), at % rows))),
    ),
  );

/**
 * log-probabilities of the pairs, [rows,rows] (those of an image's own views count). With s the cosines over the temperature:
 *   plain           s - logΣ exp(s) over all others of the row
 *   hard negatives  log(e / (p + N)) with e = exp(s - max s); p the mean of the positives' e, n = (B-1)·views,
 *                   N = max((Σ e·e / mean(e) - τ·n·p) / (1-τ), n·exp(-1/t)) over the negatives (their form with β = 1)
 * @param second the columns: z, or z without a gradient
 */
const logProbabilities = (z: Value, second: Value, views: number, { temperature, tau }: AsymmetricOptions): Value => {
  const rows = z.dim(0);
  const similarity = div(matMul(z, matrixTranspose(second)), temperature);
  const sums = (x: Value) => reduceSum(x, { axes: [1], keepdims: 1 });
  if (tau === undefined) {
    const itself = greater(
      cells(rows, (i, j) => i === j),
      0,
    );
    return sub(similarity, reduceLogSumExp(where(itself, -1e9, similarity), { axes: [1], keepdims: 1 }));
  }
  const image = (row: number) => Math.floor(row / views);
  const shifted = sub(similarity, stopGradient(reduceMax(similarity, { axes: [1], keepdims: 1 })));
  const e = exp(shifted);
  const positives = mul(
    e,
    cells(rows, (i, j) => i !== j && image(i) === image(j)),
  );
  const negatives = mul(
    e,
    cells(rows, (i, j) => image(i) !== image(j)),
  );
  const p = div(sums(positives), views - 1);
  const count = rows - views;
  const weighted = div(sums(mul(negatives, negatives)), div(sums(negatives), count));
  const unbiased = div(sub(weighted, mul(p, tau * count)), 1 - tau);
  return sub(shifted, log(add(p, max(unbiased, count * Math.exp(-1 / temperature)))));
};

/**
 * The contrastive loss over several views with A-InfoNCE's asymmetry; without either form it is `contrastive`. An inferior
 * pair (adversarial a, clean c) counts in both of its cells weight · (d · L'[c,a] + (1-d) · L'[a,c]), where in L' no gradient
 * flows through the second factor of a similarity.
 *
 * z: unit rows [B·views,D] with view v of image b in row b·views + v. Returns a scalar.
 */
export const asymmetricContrastive = (z: Value, views: number, options: AsymmetricOptions): Value =>
  named("asymmetric_contrastive", () => {
    const { temperature, baseTemperature, inferior } = options;
    const rows = z.dim(0);
    const image = (row: number) => Math.floor(row / views);
    const [a, c] = inferior?.views ?? [-1, -1];
    const isCell = (i: number, j: number, from: number, to: number) =>
      image(i) === image(j) && i % views === from && j % views === to;
    const ordinary = cells(
      rows,
      (i, j) => image(i) === image(j) && i !== j && !isCell(i, j, a, c) && !isCell(i, j, c, a),
    );
    const over = (l: Value, mask: Value) => reduceSum(mul(l, mask), { keepdims: 0 });
    let total = over(logProbabilities(z, z, views, options), ordinary);
    if (inferior !== undefined) {
      const l = logProbabilities(z, stopGradient(z), views, options);
      const towards = (from: number, to: number) =>
        over(
          l,
          cells(rows, (i, j) => isCell(i, j, from, to)),
        );
      const pair = add(mul(towards(c, a), inferior.share), mul(towards(a, c), sub(scalar(1), inferior.share)));
      total = add(total, mul(pair, 2 * inferior.weight));
    }
    return neg(mul(total, temperature / baseTemperature / (views - 1) / rows));
  });
