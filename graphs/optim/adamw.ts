import { named, scalar } from "../onnx/graph.ts";
import { add, div, mul, pow, sqrt, sub } from "../ops/index.ts";
import type { Optimizer } from "./sgd.ts";

export interface AdamWOptions {
  readonly weightDecay: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
}

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW:
 * w ← w·(1 - lr·decay); m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; w ← w - lr·m̂ / (√v̂ + ε) with m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ).
 */
export const adamW =
  ({ weightDecay, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 }: AdamWOptions): Optimizer =>
  (store, { path, type, value }, gradient, lr) =>
    named(`adamw/${path}`, () => {
      const kept = (name: string, shape = type.shape) =>
        store.state(name, { dtype: "float32", shape }, { kind: "constant", value: 0 });
      // β₁ᵗ, β₂ᵗ serve all parameters: the first that is updated moves the count of steps.
      const counted = store.states.get("adam.step");
      const before = kept("adam.step", []);
      if (counted === undefined) store.update("adam.step", add(before, 1));
      const t = store.latest("adam.step");
      const [first, second] = [`adam.m.${path}`, `adam.v.${path}`];
      const m = add(mul(kept(first), beta1), mul(gradient, 1 - beta1));
      const v = add(mul(kept(second), beta2), mul(mul(gradient, gradient), 1 - beta2));
      store.update(first, m);
      store.update(second, v);
      const corrected = (x: typeof m, beta: number) => div(x, sub(scalar(1), pow(scalar(beta), t)));
      const decayed = mul(value, sub(scalar(1), mul(lr, weightDecay)));
      return sub(decayed, mul(lr, div(corrected(m, beta1), add(sqrt(corrected(v, beta2)), epsilon))));
    });
