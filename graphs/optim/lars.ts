import { named } from "../onnx/graph.ts";
import { add, div, equal, mul, or, reduceL2, reshape, sub, where } from "../ops/index.ts";
import type { Optimizer, SgdOptions } from "./sgd.ts";

/** Share of a weight's norm by which a step of rate 1 may move it. */
const TRUST = 0.001;

/**
 * Layer-wise adaptive rates (You et al. 2017), as SimCLR's and ACL's code have it: every parameter is adapted and decayed,
 * biases and batch norm too.
 * rate = lr · 0.001·‖w‖ / (‖g‖ + decay·‖w‖), or lr where a norm is 0; m ← momentum·m + rate·(g + decay·w); w ← w - m.
 */
export const lars =
  ({ momentum, weightDecay }: SgdOptions): Optimizer =>
  (store, { path, type, value }, gradient, lr) =>
    named(`lars/${path}`, () => {
      const norm = (x: typeof value) => reshape(reduceL2(x, { keepdims: 0 }), []);
      const [w, g] = [norm(value), norm(gradient)];
      const still = or(equal(w, 0), equal(g, 0));
      const local = where(still, 1, div(mul(w, TRUST), where(still, 1, add(g, mul(w, weightDecay)))));
      const decayed = weightDecay === 0 ? gradient : add(gradient, mul(value, weightDecay));
      const at = `momentum.${path}`;
      const velocity = store.state(at, type, { kind: "constant", value: 0 });
      const next = add(mul(velocity, momentum), mul(decayed, mul(local, lr)));
      store.update(at, next);
      return sub(value, next);
    });
