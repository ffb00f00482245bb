/** Orders of a graph's nodes. */
import { dependenciesOf, type Frame, type Node, nodesOf, ordered, subgraphsOf, type Value } from "./graph.ts";

/** The nodes of one frame that `outputs` need, each after what it reads, and those of control-flow bodies in it, and so on. */
export const allNodesOf = (outputs: readonly Value[], frame: Frame | null = null): Node[] =>
  nodesOf(outputs, frame).flatMap((node) => [
    node,
    ...subgraphsOf(node).flatMap((body) => allNodesOf(body.outputs, body.frame)),
  ]);

/** Nodes on the longest chain that ends in each of `nodes`, which are in order. */
export const depthsOf = (nodes: readonly Node[]): ReadonlyMap<Node, number> => {
  const depth = new Map<Node, number>();
  for (const node of nodes)
    depth.set(
      node,
      1 + dependenciesOf(node).reduce((longest, value) => Math.max(longest, depth.get(value.node) ?? 0), 0),
    );
  return depth;
};

/** Nodes by which chains into one concatenation may differ and still count as equally long. */
const NEAR = 3;

/**
 * The same in the order for a file. ONNX Runtime searches depth-first from the last output and from the input that was
 * written last, so what hangs on the longest chain is written last: it is computed first, and what is short (a mask, a
 * value computed anew for a backward pass) only when it is used, instead of being kept through the whole chain. What is
 * concatenated keeps its order where chains are about as long: what comes of one chunk is computed while it is near.
 */
export const scheduled = (outputs: readonly Value[], frame: Frame | null): Node[] => {
  const depth = depthsOf(nodesOf(outputs, frame));
  const depthOf = (value: Value): number => depth.get(value.node) ?? 0;
  const inOrder = (node: Node): readonly Value[] => {
    const needs = dependenciesOf(node);
    const enough =
      node.definition.name === "Concat" ? Math.max(...needs.map(depthOf)) - NEAR : Number.POSITIVE_INFINITY;
    const rankOf = (value: Value): number => Math.min(depthOf(value), enough);
    return [...needs].sort((a, b) => rankOf(a) - rankOf(b));
  };
  return ordered(outputs, (node) => node.frame === frame, inOrder);
};

/** Nodes in order over all frames that `outputs` can see; bodies of control flow are not entered. */
export const visibleNodesOf = (outputs: readonly Value[]): Node[] => ordered(outputs, () => true);
