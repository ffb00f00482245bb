import { named, type Value } from "../onnx/graph.ts";
import { mul, normalizeL2, reduceMean, reduceSum } from "../ops/index.ts";

/** Mean over the rows of the cosine between a row of a and that of b, both [B,D]. A scalar. */
export const cosine = (a: Value, b: Value): Value =>
  named("cosine", () =>
    reduceMean(reduceSum(mul(normalizeL2(a), normalizeL2(b)), { axes: [1], keepdims: 0 }), { keepdims: 0 }),
  );
