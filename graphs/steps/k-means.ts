/** The two products that k-means spends its time in, as programs: points against centres. */
import { apply, type Definition, input, type Type, type Value } from "../onnx/graph.ts";
import { buildModel, type Model } from "../onnx/write.ts";
import { cast, concat, gatherElements, gemm, greater, reduceMax, reshape, slice, sub, topK } from "../ops/index.ts";
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

/** The rows of x where `chosen` bool [rows] says so. Its type is x's: how many rows those are shows when it runs. */
const compressDefinition: Definition = {
  name: "Compress",
  domain: "",
  attributes: { axis: "int" },
  infer: ([x]): Type[] => [x as Value],
};

/**
 * The same scores where bounds would spare nothing yet. Input `labels` int32 [rows,1] has the centre of each point; `nearer` int32
 * [rows] is 1 where another one is nearer, and `nearest` int32 [1 + nearer ones] which is the nearest of the first point, then of
 * those: to find the largest of a few rows' scores costs less than of all.
 */
export const nearerCentre = ({ dim, k }: CentresShape): Model => {
  const halves = input(feedName("halves"), { dtype: "float32", shape: [k] });
  const labels = input(feedName("labels"), { dtype: "int32", shape: [ROWS, 1] });
  const all = sub(gemm(points(dim), against({ dim, k }), { transB: 1 }), halves);
  const best = reduceMax(all, { axes: [1], keepdims: 1 });
  const nearer = reshape(greater(best, gatherElements(all, labels, { axis: 1 })), [-1]);
  const chosen = apply(compressDefinition, [all, nearer], { axis: 0 })[0] as Value;
  // onnxruntime's TopK divides by the number of rows.
  const some = concat([slice(all, [{ axis: 0, start: 0, end: 1 }]), chosen], { axis: 0 });
  const nearest = reshape(cast(topK(some, 1).indices, { to: "int32" }), [-1]);
  return buildModel({ nearer: cast(nearer, { to: "int32" }), nearest }, [], {
    dynamic: {
      [feedName("points")]: ["rows"],
      [feedName("labels")]: ["rows"],
      nearer: ["rows"],
      nearest: ["found"],
    },
  });
};

/** `products` float32 [rows,k] of `points` [rows,dim] and `centres` [k,dim]: what k-means++ draws its next centre by. */
export const productsWith = (shape: CentresShape): Model => {
  const products = gemm(points(shape.dim), against(shape), { transB: 1 });
  return buildModel({ products }, [], { dynamic: { [feedName("points")]: ["rows"], products: ["rows"] } });
};
