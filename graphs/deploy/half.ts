/** Half precision: every float32 weight and activation becomes float16. */
import { toFloat16 } from "../onnx/float16.ts";
import {
  constant,
  constantName,
  constantOf,
  input,
  inputName,
  isAbsent,
  type Node,
  namedConstant,
  type Value,
} from "../onnx/graph.ts";
import { tensor } from "../onnx/tensor.ts";
import { add, cast, gemm } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/**
 * What stands for a node whose inputs are float16, where that is not the same op: casts to float32, and Gemm's sum, which is
 * left to an Add: tract scales the third operand by a float32 number, and then refuses the type.
 */
const halvedNode = ({ definition, attributes }: Node, [a, b, c]: readonly Value[]): Value[] | undefined => {
  if (definition === cast.definition && attributes.to === "float32") return [cast(a as Value, { to: "float16" })];
  const sums = definition === gemm.definition && c !== undefined && !isAbsent(c) && (attributes.beta ?? 1) === 1;
  return sums ? [add(gemm(a as Value, b as Value, attributes), c)] : undefined;
};

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
    node: halvedNode,
  });
  if (io === "float16") return half;
  return Object.fromEntries(
    Object.entries<Value>(half).map(([name, value]) => [
      name,
      value.dtype === "float16" ? cast(value, { to: "float32" }) : value,
    ]),
  ) as Record<K, Value>;
};
