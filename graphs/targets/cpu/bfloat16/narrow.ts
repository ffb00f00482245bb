/**
 * Maps of rows whose results only convolutions read, which round them to bfloat16: they write what those read, half as large. The
 * numbers stay the same.
 */
import { rewrite } from "../../../deploy/rewrite.ts";
import { apply, type Node, subgraphsOf, type Value } from "../../../onnx/graph.ts";
import { allNodesOf } from "../../../onnx/order.ts";
import { convolutionOf, type Mapped, mappedOf, rowMap } from "./ops.ts";

/** Values that a node reads as they are: a convolution rounds all but the filter, which a gradient to the weights has none of. */
const readWhole = (node: Node): readonly Value[] => {
  const known = convolutionOf(node);
  if (known === undefined) return node.inputs;
  return known.kind === "weight" ? [] : node.inputs.slice(0, 1);
};

/** The graph with such maps. */
export const narrowed = <K extends string>(outputs: Readonly<Record<K, Value>>): Record<K, Value> => {
  const ends = Object.values<Value>(outputs);
  const nodes = allNodesOf(ends);
  const bodies = nodes.flatMap((node) => subgraphsOf(node).flatMap((body) => body.outputs));
  const whole = new Set<Value>([...ends, ...bodies, ...nodes.flatMap(readWhole)]);
  return rewrite(outputs, {
    node: (node, inputs) => {
      const does = mappedOf(node);
      if (does === undefined || whole.has(node.outputs[0]!)) return undefined;
      return apply(rowMap.definition, inputs, { ...does, narrow: 1 } satisfies Mapped);
    },
  });
};
