/** Attributes of a file's nodes. */
import { dtypeOfCode } from "../onnx/dtype.ts";
import { InferenceError } from "../onnx/error.ts";
import type { Attribute, AttributeKind, Attributes } from "../onnx/graph.ts";
import type { FileAttribute, FileNode } from "../onnx/parse.ts";

/** Attributes that mean nothing at these values, whatever the op. */
const harmless: Readonly<Record<string, number | string>> = {
  storage_order: 0,
  saturate: 1,
  spatial: 1,
  round_mode: "up",
};

/** Attributes of a node as an op holds them; throws an InferenceError for others. */
export const attributesOf = (node: FileNode, kinds: Readonly<Record<string, AttributeKind>>): Attributes => {
  const out: Record<string, Attribute> = {};
  for (const [name, given] of node.attributes) {
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind !== undefined) out[name] = converted(name, kind, given);
    else if (!("value" in given) || harmless[name] !== given.value)
      throw new InferenceError("unsupported", `the attribute ${name} is not supported`);
  }
  return out;
};

const converted = (name: string, kind: AttributeKind, given: FileAttribute): Attribute => {
  if (kind === "dtype" && given.kind === "int") {
    const dtype = dtypeOfCode(given.value);
    if (dtype === undefined)
      throw new InferenceError("unsupported", `the element type ${given.value} is not supported`);
    return dtype;
  }
  if (given.kind !== kind)
    throw new InferenceError("malformed", `the attribute ${name} is of kind ${given.kind}, not ${kind}`);
  return (given as { value: Attribute }).value;
};
