/** Losses that attacks raise and that do not vanish where a classifier is sure: margins of the logits. */
import { GraphError } from "../onnx/error.ts";
import { named, type Value } from "../onnx/graph.ts";
import {
  add,
  div,
  greater,
  mul,
  neg,
  oneHot,
  reduceMax,
  reduceSum,
  reshape,
  slice,
  sub,
  topK,
  where,
} from "../ops/index.ts";

/** Keeps the ratio finite where all logits are equal. */
const TINY = 1e-12;

/** Below every logit. */
const LOWEST = -3.4e38;

/** Integer classes [B] as ones and zeros of the logits' shape [B,classes]. */
const hits = (logits: Value, classes: Value): Value => oneHot(classes, logits.dim(1), logits.dtype as "float32");

/** The logit of one class of each image: logits [B,classes], integer classes [B], to [B]. */
const logitOf = (logits: Value, classes: Value): Value =>
  reduceSum(mul(logits, hits(logits, classes)), { axes: [1], keepdims: 0 });

/** The largest logit of the other classes, [B]. */
const largestBut = (logits: Value, classes: Value): Value =>
  reduceMax(where(greater(hits(logits, classes), 0), LOWEST, logits), { axes: [1], keepdims: 0 });

/** The k largest logits, each [B]. */
const largest = (logits: Value, k: number): readonly Value[] => {
  const { values } = topK(logits, k, 1);
  return Array.from({ length: k }, (_, i) => reshape(slice(values, [{ axis: 1, start: i, end: i + 1 }]), [-1]));
};

const needs = (logits: Value, classes: number, loss: string): void => {
  if (logits.dim(1) < classes)
    throw new GraphError("shape", `the loss needs ${classes} classes, the model has ${logits.dim(1)}`, { op: loss });
};

/** Margin by which a target leads the label: z_t - z_y, [B]. Positive where the target wins. */
export const margin = (logits: Value, labels: Value, targets: Value): Value =>
  named("margin", () => sub(logitOf(logits, targets), logitOf(logits, labels)));

/**
 * Difference of logits ratio (Croce & Hein 2020, "Reliable evaluation…", eq. 6): -(z_y - max_{i≠y} z_i)/(z_π1 - z_π3),
 * where π sorts the logits in falling order. [B]; invariant to shift and scale of the logits. Needs three classes.
 */
export const dlr = (logits: Value, labels: Value): Value =>
  named("dlr", () => {
    needs(logits, 3, "dlr");
    const [z1, , z3] = largest(logits, 3) as [Value, Value, Value];
    return neg(div(sub(logitOf(logits, labels), largestBut(logits, labels)), add(sub(z1, z3), TINY)));
  });

/** The targeted form (eq. 7): -(z_y - z_t)/(z_π1 - (z_π3 + z_π4)/2), [B]. Needs four classes. */
export const targetedDlr = (logits: Value, labels: Value, targets: Value): Value =>
  named("targeted_dlr", () => {
    needs(logits, 4, "targetedDlr");
    const [z1, , z3, z4] = largest(logits, 4) as [Value, Value, Value, Value];
    return div(margin(logits, labels, targets), add(sub(z1, mul(add(z3, z4), 0.5)), TINY));
  });
