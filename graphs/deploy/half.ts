/** Half precision: every float32 weight and activation becomes float16. */
import { toFloat16 } from "../onnx/float16.ts";
import { constant, constantName, constantOf, input, inputName, namedConstant, type Value } from "../onnx/graph.ts";
import { tensor } from "../onnx/tensor.ts";
import { cast } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/**
 * The graph in float16. With `io` float32 its inputs and outputs stay float32 and are cast inside.
 */
export const halved = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  io: "float32" | "float16",
): Record<K, Value> => {
  const half = rewrite(outputs, {
    leaf: (value) => {
      if (value.dtype !== "float32") return undefined;
      const held = constantOf(value);
      if (held !== undefined) {
        const made = tensor("float16", held.shape, toFloat16(held.data as Float32Array));
        const name = constantName(value);
        return name === undefined ? constant(made) : namedConstant(name, made);
      }
      return io === "float32"
        ? cast(value, { to: "float16" })
        : input(inputName(value), { dtype: "float16", shape: value.shape });
    },
    node: (node, [x]) =>
      node.definition.name === "Cast" && node.attributes.to === "float32"
        ? [cast(x as Value, { to: "float16" })]
        : undefined,
  });
  if (io === "float16") return half;
  return Object.fromEntries(
    Object.entries<Value>(half).map(([name, value]) => [
      name,
      value.dtype === "float16" ? cast(value, { to: "float32" }) : value,
    ]),
  ) as Record<K, Value>;
};
