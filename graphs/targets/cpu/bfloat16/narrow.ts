/**
 * Values that lie in bfloat16, half as large: results of convolutions and what passes over them make, where all that reads them takes
 * them so. Sums and factors of a pass are float32, as PyTorch's autocast has it.
 */
import { rewrite } from "../../../deploy/rewrite.ts";
import { apply, type Node, subgraphsOf, type Value } from "../../../onnx/graph.ts";
import { allNodesOf } from "../../../onnx/order.ts";
import { convolutionOf, isRowSums, mappedOf, ofImages, pooledOf } from "./ops.ts";

/** Values that a node may make and read in bfloat16: all that it makes or none. */
interface Narrowable {
  readonly made: readonly Value[];
  readonly read: readonly Value[];
}

const narrowable = (node: Node): Narrowable => {
  const { inputs, outputs } = node;
  const known = convolutionOf(node);
  if (known !== undefined) {
    const { kind, convolution } = known;
    const images = ofImages(convolution);
    if (kind === "weight") return { made: [], read: images ? inputs.slice(1) : inputs };
    // A filter comes first.
    if (kind === "forward") return { made: outputs, read: images ? [] : inputs.slice(1) };
    return { made: images ? [] : outputs, read: inputs.slice(1) };
  }
  if (pooledOf(node) !== undefined) return { made: outputs, read: inputs };
  const does = mappedOf(node);
  if (does === undefined) return { made: [], read: isRowSums(node) ? inputs : [] };
  const [x, , ...more] = inputs;
  return { made: outputs, read: [x!, ...more.slice(does.term, does.term + does.plus + does.times)] };
};

/** Which values lie in bfloat16: all that may, less those that something else reads, and less those that lie as one of these. */
const narrowIn = (ends: readonly Value[]): ReadonlySet<Value> => {
  const nodes = allNodesOf(ends);
  const narrow = new Set(nodes.flatMap((node) => narrowable(node).made));
  const drop = (values: readonly Value[]) => {
    for (const value of values) narrow.delete(value);
  };
  drop(ends);
  for (const node of nodes) {
    const read = new Set(narrowable(node).read);
    drop(node.inputs.filter((value) => !read.has(value)));
    for (const body of subgraphsOf(node)) drop(body.outputs);
  }
  const alike = nodes.map((node) => (isRowSums(node) ? node.inputs : narrowable(node).made));
  for (let before = -1; before !== narrow.size; ) {
    before = narrow.size;
    for (const values of alike) if (!values.every((value) => narrow.has(value))) drop(values);
  }
  return narrow;
};

/** The graph with such values. */
export const narrowed = <K extends string>(outputs: Readonly<Record<K, Value>>): Record<K, Value> => {
  const narrow = narrowIn(Object.values<Value>(outputs));
  return rewrite(outputs, {
    node: (node, inputs, attributes) =>
      narrow.has(node.outputs[0]!) ? apply(node.definition, inputs, { ...attributes, narrow: 1 }) : undefined,
  });
};
