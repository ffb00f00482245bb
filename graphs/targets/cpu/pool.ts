/**
 * Max pooling's gradient on a CPU: onnxruntime's MaxPool also tells which pixel it took, the first largest of its window, and
 * adding each dy to that one is one pass, where masks for each place of the window are nine of several ops. ResNet-18 on ImageNet's stem
 * (224×224 images, width 16) spent 44 % of a step on them.
 */
import { apply, constant, type Definition, filled, type Type, type Value } from "../../onnx/graph.ts";
import { expand, maxPool, maxPoolGrad, type OpDefinition, reshape, scatterElements } from "../../ops/index.ts";
import type { Lowered } from "../layout.ts";
import type { Lowering } from "../lower.ts";

/** MaxPool with its second result: places in the whole tensor x as it lies, int64. */
const poolWithPlaces: Definition = {
  ...maxPool.definition,
  infer: (inputs, attributes): Type[] => {
    const [{ shape }] = maxPool.definition.infer(inputs, attributes) as [Type];
    return [
      { dtype: "float32", shape },
      { dtype: "int64", shape },
    ];
  },
};

const gradient: Lowering = ({ inputs: [x, , dy], attributes, types: [type] }) => {
  const { dtype, shape } = type as Type;
  if (dtype !== "float32") return undefined;
  const [, places] = apply(poolWithPlaces, [(x as Lowered).plain], attributes) as [Value, Value];
  const zeros = expand(constant(filled("float32", [1], 0)), [shape.reduce((a, b) => a * b, 1)]);
  const sums = scatterElements(zeros, reshape(places, [-1]), reshape((dy as Lowered).plain, [-1]), {
    reduction: "add",
  });
  return [reshape(sums, shape)];
};

export const pools: readonly [OpDefinition, Lowering][] = [[maxPoolGrad.definition, gradient]];
