/** What a graph with values in bfloat16 means, in float32: values that lie in bfloat16 are rounded where they are made. */
import { rewrite } from "../../../graphs/deploy/rewrite.ts";
import { apply, type Value } from "../../../graphs/onnx/graph.ts";
import { bfloat16Name } from "../../../graphs/targets/cpu/bfloat16/name.ts";
import { NARROW, rounded } from "../../../graphs/targets/cpu/bfloat16/ops.ts";

export const widened = <K extends string>(outputs: Readonly<Record<K, Value>>): Record<K, Value> =>
  rewrite(outputs, {
    node: (node, inputs, attributes) => {
      if (bfloat16Name(node) === undefined || !("narrow" in attributes)) return undefined;
      const results = apply(node.definition, inputs, { ...attributes, narrow: 0 });
      return results.map((value, i) => (node.outputs[i]!.dtype === NARROW ? rounded(value) : value));
    },
  });
