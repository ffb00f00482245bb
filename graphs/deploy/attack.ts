/** One step of a PGD attack (Madry et al. 2018, L-inf) as a model of its own, whose radius and step are inputs. */
import { grad } from "../autodiff/grad.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { input, type Value } from "../onnx/graph.ts";
import { add, cast, clip, greater, less, max, min, mul, softmax, sub } from "../ops/index.ts";

export interface AttackStep {
  /** Where the images are now. */
  readonly x: Value;
  /** Where they were. */
  readonly clean: Value;
  /** int32 [B] classes to lead away from. */
  readonly label: Value;
  readonly eps: Value;
  readonly stepSize: Value;
  /** `next` images, `probabilities` [B,classes] and `loss` at x. */
  readonly outputs: { readonly next: Value; readonly probabilities: Value; readonly loss: Value };
}

/** Images of the shape are pixels in [0, 1]; `logits` gives [B,classes]. A negative step size leads towards the label. */
export const attackStep = (shape: readonly number[], logits: (x: Value) => Value): AttackStep => {
  const image = { dtype: "float32", shape } as const;
  const [x, clean] = [input("x", image), input("clean", image)];
  const label = input("label", { dtype: "int32", shape: [shape[0] as number] });
  const scalar = { dtype: "float32", shape: [] } as const;
  const [eps, stepSize] = [input("eps", scalar), input("step_size", scalar)];
  const at = logits(x);
  const loss = crossEntropy(at, label, "sum");
  const [gradient] = grad(loss, [x]) as [Value];
  // Not Sign: the WebGPU engines leave it to the CPU.
  const up = cast(greater(gradient, 0), { to: "float32" });
  const direction = sub(up, cast(less(gradient, 0), { to: "float32" }));
  const moved = add(x, mul(direction, stepSize));
  const next = clip(min(max(moved, sub(clean, eps)), add(clean, eps)), 0, 1);
  return { x, clean, label, eps, stepSize, outputs: { next, probabilities: softmax(at, { axis: 1 }), loss } };
};
