/** The step of an attack under L∞ as one pass over the images, where onnxruntime makes seven and takes signs by one thread. */
import type { Value } from "../../../onnx/graph.ts";
import {
  add,
  clip,
  defineOp,
  max,
  min,
  mul,
  notDifferentiable,
  type Op,
  type OpDefinition,
  sign,
} from "../../../ops/index.ts";
import type { Lowering } from "../../lower.ts";
import { pgdStepOf } from "../../pgd-step.ts";

/** clip(min(max(x + stepSize · sign(gradient), least), most), 0, 1). Images of one shape in float32. */
export const boundedStep: Op<[x: Value, gradient: Value, least: Value, most: Value], { readonly stepSize: number }> =
  defineOp<[x: Value, gradient: Value, least: Value, most: Value], { readonly stepSize: number }>("boundedStep", {
    attributes: { stepSize: "float" },
    infer: ([x]) => ({ dtype: x.dtype, shape: x.shape }),
    lower: ([x, gradient, least, most], { stepSize }) =>
      clip(min(max(add(x, mul(sign(gradient), stepSize)), least), most), 0, 1),
    vjp: notDifferentiable("runs only, never differentiated"),
  });

const attack: Lowering = ({ node, lowered }) => {
  const step = pgdStepOf(node);
  if (step === undefined) return undefined;
  const { x, gradient, least, most, stepSize } = step;
  const plain = (value: Value): Value => lowered(value).plain;
  return [boundedStep(plain(x), plain(gradient), plain(least), plain(most), { stepSize })];
};

export const bfloat16Attacks: readonly [OpDefinition, Lowering][] = [[clip.definition, attack]];
