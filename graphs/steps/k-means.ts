/** The two products that k-means spends its time in, as programs: points against centres. */
import type { Value } from "../onnx/graph.ts";
import { input } from "../onnx/graph.ts";
import { buildModel, type Model } from "../onnx/write.ts";
import { argMin, cast, gemm } from "../ops/index.ts";

export interface CentresShape {
  /** Components of a point. */
  readonly dim: number;
  /** Centres. */
  readonly k: number;
}

/** Rows of the models below are free; this is what they are built with. */
const ROWS = 4096;

const points = (dim: number): Value => input("input.points", { dtype: "float32", shape: [ROWS, dim] });
const against = ({ k, dim }: CentresShape): Value => input("input.centres", { dtype: "float32", shape: [k, dim] });

/**
 * The nearest centre of each point: `nearest` int32 [rows] = argmin over c of ‖c‖² - 2·x·c, which is ‖x - c‖² less what
 * all centres share. Inputs `points` [rows,dim], `centres` [k,dim], `squares` [k] = ‖c‖².
 */
export const nearestCentres = (shape: CentresShape): Model => {
  const squares = input("input.squares", { dtype: "float32", shape: [shape.k] });
  const scores = gemm(points(shape.dim), against(shape), squares, { alpha: -2, transB: 1 });
  const nearest = cast(argMin(scores, { axis: 1, keepdims: 0 }), { to: "int32" });
  return buildModel({ nearest }, [], { dynamic: { "input.points": ["rows"], nearest: ["rows"] } });
};

/** `products` float32 [rows,k] of `points` [rows,dim] and `centres` [k,dim]: what k-means++ draws its next centre by. */
export const productsWith = (shape: CentresShape): Model => {
  const products = gemm(points(shape.dim), against(shape), { transB: 1 });
  return buildModel({ products }, [], { dynamic: { "input.points": ["rows"], products: ["rows"] } });
};
