/**
 * Shapes that pass through a Compress on their way to a Reshape, so that an engine that rewrites nothing does not know them
 * beforehand. Where ONNX Runtime knows shapes it plans that a tensor takes over the buffer of an earlier one of the same
 * shape, which nobody else may have in between: a buffer of a forward pass waits for its backward pass. The length of the
 * shape is hidden as well (an Identity would tell it): the plan compares each value whose rank it knows with every free
 * buffer, and none is ever taken over, which took an AdvCL step 10 s.
 */
import { rewrite } from "../../deploy/rewrite.ts";
import { apply, constantOf, type Definition, filled, named, namedConstant, type Value } from "../../onnx/graph.ts";
import type { Tensor } from "../../onnx/tensor.ts";
import { reshape } from "../../ops/index.ts";

/** As it is used here: everything is kept. */
const compress: Definition = { name: "Compress", domain: "", attributes: {}, infer: ([x]) => [x as Value] };

/** The graph with each constant shape of a Reshape hidden; equal ones share a node. */
export const hideShapes = <K extends string>(outputs: Readonly<Record<K, Value>>): Record<K, Value> => {
  const masks = new Map<number, Value>();
  const hidden = new Map<string, Value>();
  const hide = (shape: Tensor): Value => {
    const key = shape.data.join();
    const length = shape.data.length;
    const mask = masks.get(length) ?? namedConstant("all", filled("bool", [length], 1));
    masks.set(length, mask);
    const known = hidden.get(key) ?? named("", () => apply(compress, [namedConstant("shape", shape), mask], {})[0]);
    hidden.set(key, known as Value);
    return known as Value;
  };
  return rewrite(outputs, {
    node: ({ definition, attributes, outputs: types }, [x, shape]) => {
      const known = definition === reshape.definition ? constantOf(shape as Value) : undefined;
      if (known === undefined) return undefined;
      // The shape is no constant any more, so the type is said.
      return apply({ ...definition, infer: () => types }, [x as Value, hide(known)], attributes);
    },
  });
};
