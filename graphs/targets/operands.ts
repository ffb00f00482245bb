/** What made a value, for targets that compute several ops of a graph in one pass. */
import { constantOf, type Value } from "../onnx/graph.ts";
import type { OpDefinition } from "../ops/index.ts";

/** The operands of a value that an op of this kind made; none where another did. */
export const operands = (
  value: Value | undefined,
  { definition }: { readonly definition: OpDefinition },
): readonly Value[] => (value?.node.definition === definition ? value.node.inputs : []);

/** The number that a constant of one element holds. */
export const numberOf = (value: Value | undefined): number | undefined => {
  const held = value && constantOf(value);
  return held !== undefined && value?.size === 1 ? Number(held.data[0]) : undefined;
};
