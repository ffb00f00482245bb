import type { Slot, Store } from "../nn/scope.ts";
import { named, type Value } from "../onnx/graph.ts";
import { add, mul, sub } from "../ops/index.ts";

export interface SgdOptions {
  readonly momentum: number;
  readonly weightDecay: number;
}

/**
 * An optimizer turns a parameter and its gradient into the next parameter; what it remembers is state of the store.
 * `lr` is a float32 scalar.
 */
export type Optimizer = (store: Store, parameter: Slot, gradient: Value, lr: Value) => Value;

/** Stochastic gradient descent as torch.optim.SGD: m ← momentum·m + (g + decay·w), w ← w - lr·m. */
export const sgd =
  ({ momentum, weightDecay }: SgdOptions): Optimizer =>
  (store, { path, type, value }, gradient, lr) =>
    named(`sgd/${path}`, () => {
      const decayed = weightDecay === 0 ? gradient : add(gradient, mul(value, weightDecay));
      const at = `momentum.${path}`;
      const velocity = store.state(at, type, { kind: "constant", value: 0 });
      const next = add(mul(velocity, momentum), decayed);
      store.update(at, next);
      return sub(value, mul(next, lr));
    });
