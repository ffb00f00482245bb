/** Several ranks that run one program must come to its messages in one order, or they wait for each other for ever. */
import { rewrite } from "../deploy/rewrite.ts";
import { type Attributes, apply, type Node, subgraphsOf, type Value } from "../onnx/graph.ts";
import { allNodesOf } from "../onnx/order.ts";
import { isCollective } from "../ops/index.ts";

/** Whether a graph holds messages between ranks, in bodies of loops too. */
export const hasCollectives = (outputs: Readonly<Record<string, Value>>): boolean =>
  allNodesOf(Object.values(outputs)).some(({ definition }) => isCollective(definition));

/**
 * The graph with its messages in a chain: each reads, besides its own value, one that is there only after the message before
 * it. The order in which an engine runs what is independent may differ between versions and processors; this one is the graph's.
 * What follows a loop with messages reads what the loop gives, and the first in its body what was there before it.
 */
export const inOneOrder = <K extends string>(outputs: Readonly<Record<K, Value>>): Record<K, Value> => {
  if (!hasCollectives(outputs)) return { ...outputs };
  let last: Value | undefined;
  return rewrite(outputs, {
    node: (node: Node, inputs: readonly Value[], attributes: Attributes) => {
      if (isCollective(node.definition)) {
        const [x] = inputs as [Value];
        const results = apply(node.definition, [x, last ?? x], attributes);
        last = results[0];
        return results;
      }
      if (
        !subgraphsOf(node).some((body) => allNodesOf(body.outputs, body.frame).some((n) => isCollective(n.definition)))
      )
        return undefined;
      const results = apply(node.definition, inputs, attributes);
      last = results.find(({ dtype }) => dtype === "float32");
      if (last === undefined) throw new Error("internal: a loop with messages between ranks gives no float32");
      return results;
    },
  });
};
