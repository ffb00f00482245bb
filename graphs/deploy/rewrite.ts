/** Graphs made anew with some values or ops replaced. */

import { GraphError } from "../onnx/error.ts";
import { apply, isConstant, isInput, type Node, onBehalfOf, ordered, subgraphsOf, type Value } from "../onnx/graph.ts";

export interface Rules {
  /** What stands for a constant or an input; undefined keeps it. */
  readonly leaf?: (value: Value) => Value | undefined;
  /** What stands for a node's outputs, given what stands for its inputs; undefined applies the same op to them. */
  readonly node?: (node: Node, inputs: readonly Value[]) => readonly Value[] | undefined;
}

/** Rewrites a graph without control flow. */
export const rewrite = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  { leaf, node: rule }: Rules,
): Record<K, Value> => {
  const made = new Map<Value, Value>();
  const at = (value: Value): Value => {
    const known = made.get(value);
    if (known !== undefined) return known;
    const own = isConstant(value) || isInput(value) ? (leaf?.(value) ?? value) : value;
    made.set(value, own);
    return own;
  };
  const wanted = Object.keys(outputs) as K[];
  for (const node of ordered(
    wanted.map((name) => outputs[name]),
    () => true,
  )) {
    if (isInput(node.outputs[0] as Value)) continue;
    if (subgraphsOf(node).length > 0)
      throw new GraphError("unsupported", "graphs with control flow are not rewritten", {
        op: node.definition.name,
        path: node.path,
      });
    const inputs = node.inputs.map(at);
    const results = onBehalfOf(node, () => rule?.(node, inputs) ?? apply(node.definition, inputs, node.attributes));
    node.outputs.forEach((output, i) => {
      made.set(output, results[i] as Value);
    });
  }
  return Object.fromEntries(wanted.map((name) => [name, at(outputs[name])])) as Record<K, Value>;
};

/** The graph with some of its inputs bound to other values. */
export const bind = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  values: ReadonlyMap<Value, Value>,
): Record<K, Value> => rewrite(outputs, { leaf: (value) => values.get(value) });
