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

/**
 * The same in the order for a file. ONNX Runtime searches depth-first from the last output and from the input that was
 * written last, so what hangs on the longest chain is written last: it is computed first, and what is short (a mask, a
 * value computed anew for a backward pass) only when it is used, instead of being kept through the whole chain.
 */
export const scheduled = (outputs: readonly Value[], frame: Frame | null): Node[] => {
  const depth = depthsOf(nodesOf(outputs, frame));
  const depthOf = (value: Value): number => depth.get(value.node) ?? 0;
  return ordered(
    outputs,
    (node) => node.frame === frame,
    (node) => [...dependenciesOf(node)].sort((a, b) => depthOf(a) - depthOf(b)),
  );
};

/** Nodes in order over all frames that `outputs` can see; bodies of control flow are not entered. */
export const visibleNodesOf = (outputs: readonly Value[]): Node[] => ordered(outputs, () => true);
