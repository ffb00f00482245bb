/** Graphs made anew with some values or ops replaced. */

import {
  type Attributes,
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
  /** Values that are given: what they were computed from is not looked at. */
  readonly given?: ReadonlyMap<Value, Value>;
  /** What stands for a constant or an input; undefined keeps it. */
  readonly leaf?: (value: Value) => Value | undefined;
  /**
   * What stands for a node's outputs, given what stands for its inputs and its attributes (bodies are rewritten before the node);
   * undefined applies the same op to them.
   */
  readonly node?: (node: Node, inputs: readonly Value[], attributes: Attributes) => readonly Value[] | undefined;
}

/** Rewrites a graph, bodies of control flow included. */
export const rewrite = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  { leaf, node: rule, given }: Rules,
): Record<K, Value> => {
  const made = new Map<Value, Value>(given);
  const at = (value: Value): Value => {
    const known = made.get(value);
    if (known !== undefined) return known;
    const own = isConstant(value) || isInput(value) ? (leaf?.(value) ?? value) : value;
    made.set(value, own);
    return own;
  };
  const body = (before: Subgraph): Subgraph =>
    subgraph(before.inputs, (placeholders) => {
      before.inputs.forEach((value, i) => {
        made.set(value, placeholders[i]!);
      });
      run(before.outputs);
      return before.outputs.map(at);
    });
  const run = (ends: readonly Value[]): void => {
    for (const node of ordered(ends, ({ outputs: all }) => !all.some((value) => made.has(value)))) {
      if (isInput(node.outputs[0]!)) continue;
      const inputs = node.inputs.map(at);
      const bodies = Object.entries(node.attributes).map(([name, a]) => [name, isSubgraph(a) ? body(a) : a] as const);
      const attributes = Object.fromEntries(bodies);
      const results = onBehalfOf(
        node,
        () => rule?.(node, inputs, attributes) ?? apply(node.definition, inputs, attributes),
      );
      node.outputs.forEach((output, i) => {
        made.set(output, results[i]!);
      });
    }
  };
  const wanted = Object.keys(outputs) as K[];
  run(wanted.map((name) => outputs[name]));
  return Object.fromEntries(wanted.map((name) => [name, at(outputs[name])])) as Record<K, Value>;
};

/** The graph with some of its values, inputs or not, bound to others. */
export const bind = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  values: ReadonlyMap<Value, Value>,
): Record<K, Value> => rewrite(outputs, { given: values });
