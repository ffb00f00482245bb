/** Walks over a decoded model: every graph, node and tensor of it, those of functions and of bodies included. */
import onnxProto from "onnx-proto";

export const { onnx } = onnxProto;
export type ModelProto = onnxProto.onnx.IModelProto;
export type GraphProto = onnxProto.onnx.IGraphProto;
export type NodeProto = onnxProto.onnx.INodeProto;
export type TensorProto = onnxProto.onnx.ITensorProto;
export type AttributeProto = onnxProto.onnx.IAttributeProto;
export type TypeProto = onnxProto.onnx.ITypeProto;

/** Changes data in place, and says whether it did. */
export interface Rewrite {
  readonly changed: boolean;
  /** What a user should know of it. */
  readonly notes: readonly string[];
}

/** Nodes of a list and of the bodies in it. */
export function* nodesOf(nodes: readonly NodeProto[]): Generator<NodeProto> {
  for (const node of nodes) {
    yield node;
    for (const { g, graphs } of node.attribute ?? [])
      for (const body of [g, ...(graphs ?? [])]) if (body) yield* nodesOf(body.node ?? []);
  }
}

/** All nodes of a model. */
export function* allNodes({ graph, functions }: ModelProto): Generator<NodeProto> {
  yield* nodesOf(graph?.node ?? []);
  for (const { node } of functions ?? []) yield* nodesOf(node ?? []);
}

/** All graphs: the main one and the bodies. */
export function* allGraphs(model: ModelProto): Generator<GraphProto> {
  if (model.graph) yield model.graph;
  for (const { attribute } of allNodes(model))
    for (const { g, graphs } of attribute ?? []) for (const body of [g, ...(graphs ?? [])]) if (body) yield body;
}

/** All tensors: initializers, and those of attributes. */
export function* allTensors(model: ModelProto): Generator<TensorProto> {
  for (const { initializer } of allGraphs(model)) yield* initializer ?? [];
  for (const { attribute } of allNodes(model))
    for (const { t, tensors } of attribute ?? []) {
      if (t) yield t;
      yield* tensors ?? [];
    }
}
