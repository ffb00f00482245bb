import type { Value } from "../onnx/graph.ts";
import { argMax, cast, equal, reduceMean } from "../ops/index.ts";

/** The class of the largest of the logits [B,classes], int32 [B]. */
export const predictions = (logits: Value): Value => cast(argMax(logits, { axis: 1, keepdims: 0 }), { to: "int32" });

/** Share of the images whose largest logit is their label's, a scalar. Labels int32 [B]. */
export const accuracy = (logits: Value, labels: Value): Value =>
  reduceMean(cast(equal(predictions(logits), labels), { to: "float32" }), { keepdims: 0 });
