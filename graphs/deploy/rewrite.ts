/** Graphs made anew with some values or ops replaced. */

import {
  apply,
  isConstant,
  isInput,
  isSubgraph,
  type Node,
  onBehalfOf,
  ordered,
  type Subgraph,
  subgraph,
  type Value,
} from "../onnx/graph.ts";

export interface Rules {
  /** What stands for a constant or an input; undefined keeps it. */
  readonly leaf?: (value: Value) => Value | undefined;
  /** What stands for a node's outputs, given what stands for its inputs; undefined applies the same op to them. */
  readonly node?: (node: Node, inputs: readonly Value[]) => readonly Value[] | undefined;
}

/** Rewrites a graph, bodies of control flow included. */
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
  const body = (given: Subgraph): Subgraph =>
    subgraph(given.inputs, (placeholders) => {
      given.inputs.forEach((before, i) => {
        made.set(before, placeholders[i] as Value);
      });
      run(given.outputs);
      return given.outputs.map(at);
    });
  const run = (ends: readonly Value[]): void => {
    for (const node of ordered(ends, ({ outputs: [first] }) => !made.has(first as Value))) {
      if (isInput(node.outputs[0] as Value)) continue;
      const inputs = node.inputs.map(at);
      const bodies = Object.entries(node.attributes).map(([name, a]) => [name, isSubgraph(a) ? body(a) : a] as const);
      const attributes = Object.fromEntries(bodies);
      const results = onBehalfOf(node, () => rule?.(node, inputs) ?? apply(node.definition, inputs, attributes));
      node.outputs.forEach((output, i) => {
        made.set(output, results[i] as Value);
      });
    }
  };
  const wanted = Object.keys(outputs) as K[];
  run(wanted.map((name) => outputs[name]));
  return Object.fromEntries(wanted.map((name) => [name, at(outputs[name])])) as Record<K, Value>;
};

/** The graph with some of its inputs bound to other values. */
export const bind = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  values: ReadonlyMap<Value, Value>,
): Record<K, Value> => rewrite(outputs, { leaf: (value) => values.get(value) });
