/** Functions that a file brings with it, put in place of the nodes that call them. */
import type onnxProto from "onnx-proto";
import { GraphError } from "../../onnx/error.ts";
import { type AttributeProto, type ModelProto, type NodeProto, onnx, type Rewrite } from "./protos.ts";

type FunctionProto = onnxProto.onnx.IFunctionProto;

/** Calls within calls. */
const DEEPEST = 16;
/** Nodes that calls may become. */
const MOST_NODES = 200_000;

const keyOf = (domain: string | null | undefined, name: string | null | undefined): string => `${domain}/${name}`;

/** The attributes of a node of a body, those that refer to the call's filled in. */
const filled = (node: NodeProto, call: NodeProto): AttributeProto[] =>
  (node.attribute ?? []).flatMap((attribute) => {
    if (!attribute.refAttrName) return [attribute];
    const given = (call.attribute ?? []).find(({ name }) => name === attribute.refAttrName);
    // One that the call leaves out has the operator's own default.
    return given === undefined ? [] : [{ ...given, name: attribute.name ?? "" }];
  });

const bodyOf = (called: FunctionProto, call: NodeProto, prefix: string): NodeProto[] => {
  const names = new Map<string, string>([["", ""]]);
  (called.input ?? []).forEach((name, i) => {
    names.set(name, call.input?.[i] ?? "");
  });
  (called.output ?? []).forEach((name, i) => {
    const wanted = call.output?.[i];
    names.set(name, wanted ? wanted : `${prefix}/${name}`);
  });
  const rename = (name: string): string => {
    const known = names.get(name);
    if (known !== undefined) return known;
    const own = `${prefix}/${name}`;
    names.set(name, own);
    return own;
  };
  const body = (called.node ?? []).map((node, i) => {
    if ((node.attribute ?? []).some(({ g }) => g))
      throw new GraphError("unsupported", "control flow inside a function of the file is not supported", {
        op: node.opType ?? "",
        path: prefix,
      });
    return {
      ...node,
      name: `${prefix}/${node.name || i}`,
      input: (node.input ?? []).map(rename),
      output: (node.output ?? []).map(rename),
      attribute: filled(node, call),
    };
  });
  // An output that is an input as it is.
  const passed = (called.output ?? []).flatMap((name, i) =>
    (called.input ?? []).includes(name) && call.output?.[i]
      ? [
          {
            opType: "Identity",
            name: `${prefix}/${name}`,
            input: [call.input?.[called.input?.indexOf(name) ?? 0] ?? ""],
            output: [call.output[i]!],
          },
        ]
      : [],
  );
  return [...body, ...passed];
};

/** Replaces calls in the main graph. */
export const inlineFunctions = (model: ModelProto): Rewrite => {
  const functions = new Map((model.functions ?? []).map((f) => [keyOf(f.domain, f.name), f]));
  const { graph } = model;
  if (functions.size === 0 || !graph) return { changed: false, notes: [] };
  let made = 0;
  const expanded = (nodes: readonly NodeProto[], depth: number): NodeProto[] =>
    nodes.flatMap((node, i) => {
      const called = functions.get(keyOf(node.domain, node.opType));
      if (called === undefined) return [onnx.NodeProto.create(node)];
      if (depth === DEEPEST) throw new GraphError("malformed", `functions call each other more than ${DEEPEST} deep`);
      const path = node.name || node.output?.[0] || `${node.opType} ${i}`;
      const body = bodyOf(called, node, path);
      made += body.length;
      if (made > MOST_NODES) throw new GraphError("unsupported", `its functions come to more than ${MOST_NODES} nodes`);
      return expanded(body, depth + 1);
    });
  graph.node = expanded(graph.node ?? [], 0);
  model.functions = [];
  return { changed: true, notes: [] };
};
