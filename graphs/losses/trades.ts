import { named, type Value } from "../onnx/graph.ts";
import { add, exp, logSoftmax, mul, reduceMean, reduceSum, sub } from "../ops/index.ts";
import { crossEntropy, type LossReduction } from "./cross-entropy.ts";

/**
 * KL(softmax(p) ‖ softmax(q)) of logits [B,classes]: Σ over classes of p·(log p - log q). A scalar over the batch, or [B]
 * for "none".
 */
export const klDivergence = (p: Value, q: Value, reduction: LossReduction = "mean"): Value =>
  named("kl_divergence", () => {
    const logP = logSoftmax(p, { axis: 1 });
    const each = reduceSum(mul(exp(logP), sub(logP, logSoftmax(q, { axis: 1 }))), { axes: [1], keepdims: 0 });
    if (reduction === "none") return each;
    return reduction === "sum" ? reduceSum(each, { keepdims: 0 }) : reduceMean(each, { keepdims: 0 });
  });

/**
 * TRADES (Zhang et al., ICML 2019, eq. 5): CE(natural, labels) + beta · KL(softmax(natural) ‖ softmax(robust)), means over
 * the batch; gradients flow into both logits.
 * @param learned what is learnt from the natural images, a scalar
 */
export const trades = (
  natural: Value,
  robust: Value,
  labels: Value,
  beta: number,
  learned: (logits: Value, labels: Value) => Value = crossEntropy,
) => {
  const ce = learned(natural, labels);
  const kl = klDivergence(natural, robust);
  return { loss: add(ce, mul(kl, beta)), ce, kl };
};
