/** Graphs to ONNX files, through onnx-proto. */
import onnxProto from "onnx-proto";
import { dtypes } from "./dtype.ts";
import { GraphError } from "./error.ts";
import {
  type Attribute,
  type AttributeKind,
  constantName,
  inputName,
  isAbsent,
  isConstant,
  isInput,
  type Node,
  nodesOf,
  type Subgraph,
  type Type,
  type Value,
} from "./graph.ts";
import { scheduled } from "./order.ts";
import type { Tensor } from "./tensor.ts";

const { onnx } = onnxProto;
type AttributeProto = onnxProto.onnx.IAttributeProto;
type GraphProto = onnxProto.onnx.IGraphProto;
type NodeProto = onnxProto.onnx.INodeProto;
type TensorProto = onnxProto.onnx.ITensorProto;
type ValueInfoProto = onnxProto.onnx.IValueInfoProto;

/** Version of the standard ops in files, where nothing else is asked for. */
export const OPSET = 17;
export const IR_VERSION = 8;

export interface ModelOptions {
  readonly name?: string;
  /** Version of the standard ops (default `OPSET`): 17 is what models are built in, later ones write some of it otherwise. */
  readonly opset?: 17 | 19;
  /** Key-value pairs kept in the file (metadata_props). */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Names for dimensions of inputs and outputs that may vary: `{ x: ["batch"] }` frees axis 0 of x. */
  readonly dynamic?: Readonly<Record<string, readonly (string | null)[]>>;
  /** Ops of domain `advcl` that may be written because the engine that loads this file has kernels for them, and their names there. */
  readonly kernels?: ((node: Node) => string | undefined) | undefined;
}

/** An ONNX model: its bytes, what it takes and gives, and which node of the file came from where. */
export interface Model {
  readonly bytes: Uint8Array;
  readonly inputs: Readonly<Record<string, Type>>;
  readonly outputs: Readonly<Record<string, Type>>;
  /** Nodes by their names in the file, for messages; control-flow bodies included. */
  readonly nodes: ReadonlyMap<string, Node>;
}

/** Domains whose version is that of the standard ops: onnxruntime keeps channels-last forms of these in one of its own. */
const followsStandard = (domain: string): boolean => domain === "" || domain === "com.ms.internal.nhwc";

const utf8 = new TextEncoder();

const identityNode = (name: string, input: string, output = name): NodeProto => ({
  name,
  opType: "Identity",
  domain: "",
  input: [input],
  output: [output],
});

/** TensorProto with raw data, as all engines read it. */
export const tensorProto = (value: Tensor, name = ""): TensorProto => ({
  name,
  dims: [...value.shape],
  dataType: dtypes[value.dtype].onnx,
  rawData: new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength),
});

/**
 * Writes the graph that `outputs` need. `inputs` fixes the order of the model's inputs and may hold some that nothing
 * reads; an input that is read but not listed follows in the order of use.
 * Throws a GraphError where a composite op was not lowered, or a value escapes from a control-flow body.
 */
export const buildModel = (
  outputs: Readonly<Record<string, Value>>,
  inputs: readonly Value[] = [],
  options: ModelOptions = {},
): Model => {
  const { opset = OPSET } = options;
  const writer = new Writer(opset, options.kernels);
  const graph = writer.graph(options.name ?? "advcl", Object.entries(outputs), inputs, options.dynamic ?? {});
  if (options.opset !== undefined && writer.version < opset)
    throw new GraphError(
      "internal",
      `a node has a form that ends with opset ${writer.version}; ${opset} was asked for`,
    );
  const bytes = onnx.ModelProto.encode(
    onnx.ModelProto.create({
      irVersion: IR_VERSION,
      producerName: "advcl",
      opsetImport: [...writer.domains].map((domain) => ({
        domain,
        version: followsStandard(domain) ? writer.version : 1,
      })),
      metadataProps: Object.entries(options.metadata ?? {}).map(([key, value]) => ({ key, value })),
      graph,
    }),
  ).finish();
  const typesOf = (values: Iterable<readonly [string, Value]>) =>
    Object.fromEntries(Array.from(values, ([name, { dtype, shape }]) => [name, { dtype, shape }]));
  return {
    bytes,
    inputs: typesOf(writer.modelInputs.map((value) => [inputName(value), value])),
    outputs: typesOf(Object.entries(outputs)),
    nodes: writer.nodes,
  };
};

class Writer {
  readonly domains = new Set([""]);
  readonly nodes = new Map<string, Node>();
  readonly modelInputs: Value[] = [];
  readonly #names = new Map<Value, string>();
  readonly #used = new Map<string, number>();
  /** Version of the standard ops that the file is in: the wanted one, or the last that has the form of each node. */
  version: number;
  readonly #opset: number;
  readonly #kernels: ModelOptions["kernels"];

  constructor(opset: number, kernels: ModelOptions["kernels"]) {
    this.#kernels = kernels;
    this.#opset = opset;
    this.version = opset;
  }

  graph(
    name: string,
    outputs: readonly (readonly [string, Value])[],
    inputs: readonly Value[],
    dynamic: Required<ModelOptions>["dynamic"],
  ): GraphProto {
    const values = outputs.map(([, value]) => value);
    const listed = new Set(inputs);
    this.modelInputs.push(...inputs);
    for (const node of nodesOf(values, null)) {
      const value = node.outputs[0]!;
      if (isInput(value) && !listed.has(value)) this.modelInputs.push(value);
    }
    for (const value of this.modelInputs) {
      const given = inputName(value);
      if (this.#used.has(given)) throw new GraphError("parameter", `two inputs are named ${given}`);
      this.#used.set(given, 1);
      this.#names.set(value, given);
    }
    const renamed: string[] = [];
    for (const [wanted, value] of outputs) {
      if (this.#used.has(wanted)) throw new GraphError("parameter", `two inputs or outputs are named ${wanted}`);
      this.#used.set(wanted, 1);
      if (!this.#claimed(value, wanted)) renamed.push(this.#unique(`${wanted}/Identity`));
    }
    const scope = new Map<string, TensorProto>();
    const node = this.#all(scheduled(values, null), scope);
    let next = 0;
    for (const [wanted, value] of outputs)
      if (this.#names.get(value) !== wanted)
        node.push(identityNode(renamed[next++]!, this.#nameOf(value, scope), wanted));
    return {
      name,
      node,
      initializer: [...scope.values()],
      input: this.modelInputs.map((value) => this.#info(value, inputName(value), dynamic[inputName(value)])),
      output: outputs.map(([wanted, value]) => this.#info(value, wanted, dynamic[wanted])),
    };
  }

  /** Has what makes a value call it so; false where it is a constant or has a name, and is copied to this one. */
  #claimed(value: Value, name: string): boolean {
    if (isConstant(value) || this.#names.has(value)) return false;
    this.#names.set(value, name);
    return true;
  }

  #body(subgraph: Subgraph, path: string): GraphProto {
    subgraph.inputs.forEach((value, i) => {
      this.#names.set(value, this.#unique(`${path}/input_${i}`));
    });
    // A body's outputs are made in it, each under a name of its own.
    const names = subgraph.outputs.map((value, i) => {
      const name = this.#unique(`${path}/output_${i}`);
      return { name, own: this.#claimed(value, name) };
    });
    const scope = new Map<string, TensorProto>();
    const node = this.#all(scheduled(subgraph.outputs, subgraph.frame), scope);
    const output = subgraph.outputs.map((value, i) => {
      const { name, own } = names[i]!;
      if (!own) node.push(identityNode(name, this.#nameOf(value, scope)));
      return this.#info(value, name);
    });
    return {
      name: this.#unique(path),
      node,
      initializer: [...scope.values()],
      input: subgraph.inputs.map((value) => this.#info(value, this.#nameOf(value, scope))),
      output,
    };
  }

  #all(nodes: readonly Node[], scope: Map<string, TensorProto>): NodeProto[] {
    return nodes.filter((node) => !isInput(node.outputs[0]!)).map((node) => this.#node(node, scope));
  }

  #node(node: Node, scope: Map<string, TensorProto>): NodeProto {
    const { definition, path } = node;
    const kernel = definition.domain === "advcl" ? this.#kernels?.(node) : undefined;
    if (definition.domain === "advcl" && kernel === undefined)
      throw new GraphError("internal", "the composite op was not lowered before writing", {
        op: definition.name,
        path,
      });
    this.domains.add(definition.domain);
    this.version = Math.min(this.version, definition.lastOpset ?? this.#opset);
    const { inputs, attributes } = definition.write?.(node.inputs, node.attributes, this.#opset) ?? node;
    const name = this.#unique(`${path === "" ? "" : `${path}/`}${definition.name}`);
    this.nodes.set(name, node);
    const present = inputs.findLastIndex((value) => !isAbsent(value)) + 1;
    const input = inputs.slice(0, present).map((value) => (isAbsent(value) ? "" : this.#nameOf(value, scope)));
    const output = node.outputs.map((value, i) => {
      const known = this.#names.get(value) ?? this.#unique(i === 0 ? name : `${name}:${i}`, i === 0);
      this.#names.set(value, known);
      return known;
    });
    const attribute = Object.entries(attributes).flatMap(([key, value]) => {
      const kind = definition.attributes[key];
      if (value === undefined) return [];
      if (kind === undefined)
        throw new GraphError("internal", `the attribute ${key} is not declared`, { op: definition.name, path });
      return [this.#attribute(key, kind, value, name)];
    });
    return { name, opType: kernel ?? definition.name, domain: definition.domain, input, output, attribute };
  }

  #attribute(name: string, kind: AttributeKind, value: Attribute, path: string): AttributeProto {
    const { AttributeType } = onnx.AttributeProto;
    switch (kind) {
      case "int":
        return { name, type: AttributeType.INT, i: value as number };
      case "dtype":
        return { name, type: AttributeType.INT, i: dtypes[value as keyof typeof dtypes].onnx };
      case "ints":
        return { name, type: AttributeType.INTS, ints: [...(value as number[])] };
      case "float":
        return { name, type: AttributeType.FLOAT, f: value as number };
      case "floats":
        return { name, type: AttributeType.FLOATS, floats: [...(value as number[])] };
      case "string":
        return { name, type: AttributeType.STRING, s: utf8.encode(value as string) };
      case "strings":
        return { name, type: AttributeType.STRINGS, strings: (value as string[]).map((s) => utf8.encode(s)) };
      case "tensor":
        return { name, type: AttributeType.TENSOR, t: tensorProto(value as Tensor) };
      case "graph":
        return { name, type: AttributeType.GRAPH, g: this.#body(value as Subgraph, path) };
    }
  }

  /** The name of a value; a constant becomes an initializer of the graph that reads it, small equal ones once. */
  #nameOf(value: Value, scope: Map<string, TensorProto>): string {
    if (isConstant(value)) {
      const held = value.node.attributes.value as Tensor;
      const given = constantName(value);
      const small = given === undefined && held.data.byteLength <= 64;
      const key = small ? `${held.dtype}[${held.shape}]${held.data.join()}` : this.#identity(value);
      let known = scope.get(key);
      if (known === undefined) {
        known = tensorProto(held, this.#unique(given ?? "constant"));
        scope.set(key, known);
      }
      return known.name as string;
    }
    const name = this.#names.get(value);
    if (name === undefined)
      throw new GraphError("internal", "a value is read outside the control-flow body that makes it", {
        op: value.node.definition.name,
        path: value.node.path,
        types: [value],
      });
    return name;
  }

  readonly #identities = new Map<Value, string>();
  #identity(value: Value): string {
    const known = this.#identities.get(value) ?? `#${this.#identities.size}`;
    this.#identities.set(value, known);
    return known;
  }

  #unique(wanted: string, asIs = false): string {
    if (asIs) return wanted;
    const count = this.#used.get(wanted) ?? 0;
    this.#used.set(wanted, count + 1);
    return count === 0 ? wanted : this.#unique(`${wanted}_${count}`);
  }

  #info(type: Type, name: string, free: readonly (string | null)[] = []): ValueInfoProto {
    const dim = type.shape.map((d, i) => (free[i] ? { dimParam: free[i] } : { dimValue: d }));
    return { name, type: { tensorType: { elemType: dtypes[type.dtype].onnx, shape: { dim } } } };
  }
}
