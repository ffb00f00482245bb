import { named, type Value } from "../onnx/graph.ts";
import { mul, oneHot, reduceLogSumExp, reduceMean, reduceSum, sub } from "../ops/index.ts";

export type LossReduction = "sum" | "mean" | "none";

/**
 * Cross-entropy of logits [B,classes] with integer labels [B]: logΣexp(logits) - logits[label]. A scalar, or [B] for "none".
 */
export const crossEntropy = (logits: Value, labels: Value, reduction: LossReduction = "mean"): Value =>
  named("cross_entropy", () => {
    const hit = oneHot(labels, logits.dim(1), logits.dtype as "float32");
    const own = reduceSum(mul(logits, hit), { axes: [1], keepdims: 0 });
    const each = sub(reduceLogSumExp(logits, { axes: [1], keepdims: 0 }), own);
    if (reduction === "none") return each;
    return reduction === "sum" ? reduceSum(each, { keepdims: 0 }) : reduceMean(each, { keepdims: 0 });
  });
