/** The two products that k-means spends its time in, as programs: points against centres. */
import type { Value } from "../onnx/graph.ts";
import { input } from "../onnx/graph.ts";
import { buildModel, type Model } from "../onnx/write.ts";
import { cast, gemm, reduceMax, reshape, sub, topK } from "../ops/index.ts";
import { feedName } from "./names.ts";

export interface CentresShape {
  /** Components of a point. */
  readonly dim: number;
  /** Centres. */
  readonly k: number;
}

/** Rows of the models below are free; this is what they are built with. */
const ROWS = 4096;

const points = (dim: number): Value => input(feedName("points"), { dtype: "float32", shape: [ROWS, dim] });
const against = ({ k, dim }: CentresShape): Value => input(feedName("centres"), { dtype: "float32", shape: [k, dim] });

/**
 * Points against groups of centres. Scores are x·c - ‖c‖²/2 = (‖x‖² - ‖x - c‖²)/2: the largest is of the nearest centre.
 * `scores` float32 and `nearest` int32 [rows,2] are of the two nearest, `best` float32 [rows,groups] of the nearest of each
 * group. Inputs `points` [rows,dim], `centres` [groups·size,dim], `halves` [groups·size] = ‖c‖²/2, which are subtracted
 * after the product: as Gemm's third operand they cost onnxruntime four times as much.
 */
export const nearestCentres = ({ dim, groups, size }: { dim: number; groups: number; size: number }): Model => {
  const k = groups * size;
  const halves = input(feedName("halves"), { dtype: "float32", shape: [k] });
  const all = sub(gemm(points(dim), against({ dim, k }), { transB: 1 }), halves);
  const { values: scores, indices } = topK(all, 2);
  const best = reduceMax(reshape(all, [-1, groups, size]), { axes: [2], keepdims: 0 });
  return buildModel({ scores, nearest: cast(indices, { to: "int32" }), best }, [], {
    dynamic: { [feedName("points")]: ["rows"], scores: ["rows"], nearest: ["rows"], best: ["rows"] },
  });
};

/** The same scores, of which `nearest` int32 [rows] is the largest of all centres: where bounds would spare nothing yet. */
export const nearestCentre = ({ dim, k }: CentresShape): Model => {
  const halves = input(feedName("halves"), { dtype: "float32", shape: [k] });
  const all = sub(gemm(points(dim), against({ dim, k }), { transB: 1 }), halves);
  const nearest = reshape(cast(topK(all, 1).indices, { to: "int32" }), [-1]);
  return buildModel({ nearest }, [], { dynamic: { [feedName("points")]: ["rows"], nearest: ["rows"] } });
};

/** `products` float32 [rows,k] of `points` [rows,dim] and `centres` [k,dim]: what k-means++ draws its next centre by. */
export const productsWith = (shape: CentresShape): Model => {
  const products = gemm(points(shape.dim), against(shape), { transB: 1 });
  return buildModel({ products }, [], { dynamic: { [feedName("points")]: ["rows"], products: ["rows"] } });
};
