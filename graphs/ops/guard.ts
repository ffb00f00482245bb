/** What keeps gradients usable. */
import type { Value } from "../onnx/graph.ts";
import { less } from "./compare.ts";
import { defineOp, type Op } from "./define.ts";
import { abs, where } from "./elementwise.ts";

/** float32's largest number. */
const LARGEST = 3.4028234663852886e38;

/** The value; of the gradient that comes back, what is NaN or infinite is 0: what is left of it still leads somewhere. */
export const finiteGradient: Op<[x: Value]> = defineOp<[x: Value]>("finiteGradient", {
  infer: ([x]) => x,
  lower: ([x]) => x,
  vjp: ({ cotangent: dy }) => [where(less(abs(dy), LARGEST), dy, 0)],
  gradcheck: [{ inputs: [{ shape: [2, 3], low: -1, high: 1 }], step: 1 }],
});
