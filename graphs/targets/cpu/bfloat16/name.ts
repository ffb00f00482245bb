/** Which ops of a lowered graph the driver computes with oneDNN (src/engine/native/onednn), and what they are called in a file. */
import type { Node } from "../../../onnx/graph.ts";
import { typedName } from "../../kernel-name.ts";
import { convolutionOf, isRowSums, mappedOf, pooledOf } from "./ops.ts";
import { boundedStep } from "./pgd-step.ts";

/** The step size of a step of an attack; undefined for any other node. */
export const stepSizeOf = ({ definition, attributes }: Node): number | undefined =>
  definition === boundedStep.definition ? (attributes.stepSize as number) : undefined;

/** The name of a node of these in a file, undefined for any other. */
export const bfloat16Name = (node: Node): string | undefined =>
  [convolutionOf, pooledOf, mappedOf, stepSizeOf].some((of) => of(node) !== undefined) || isRowSums(node)
    ? typedName(node.definition.name, node.inputs, node.outputs)
    : undefined;
