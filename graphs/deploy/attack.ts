/** One step of a PGD attack (Madry et al. 2018, L-inf) as a model of its own, whose radius and step are inputs. */
import { pgdUpdate } from "../attacks/pgd.ts";
import { linf, type ThreatModel } from "../attacks/threat-model.ts";
import { grad } from "../autodiff/grad.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { input, type Value } from "../onnx/graph.ts";
import { cast, greater, less, softmax, sub } from "../ops/index.ts";

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

/** sign(x) = [x > 0] - [x < 0]. Not Sign: the WebGPU engines leave it to the CPU. */
const signByComparison = (x: Value): Value =>
  sub(cast(greater(x, 0), { to: "float32" }), cast(less(x, 0), { to: "float32" }));

/** Images of the shape are pixels in [0, 1]; `logits` gives [B,classes]. A negative step size leads towards the label. */
export const attackStep = (shape: readonly number[], logits: (x: Value) => Value): AttackStep => {
  const image = { dtype: "float32", shape } as const;
  const [x, clean] = [input("x", image), input("clean", image)];
  const label = input("label", { dtype: "int32", shape: [shape[0]!] });
  const scalar = { dtype: "float32", shape: [] } as const;
  const [eps, stepSize] = [input("eps", scalar), input("step_size", scalar)];
  const at = logits(x);
  const loss = crossEntropy(at, label, "sum");
  const [gradient] = grad(loss, [x]) as [Value];
  const threat: ThreatModel = { ...linf(eps), direction: signByComparison };
  const next = pgdUpdate({ threat, stepSize }, gradient, x, clean);
  return { x, clean, label, eps, stepSize, outputs: { next, probabilities: softmax(at, { axis: 1 }), loss } };
};
