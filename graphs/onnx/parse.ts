/**
 * ONNX files to plain data: names, attributes and tensors, every length checked before it is believed. What the ops mean
 * is graphs/import's business.
 *
 * The wire format is walked once with the few message types below, so that nesting, lengths and counts are known to be
 * sound before onnx-proto allocates anything: its decoder trusts them.
 */
import onnxProto from "onnx-proto";
import { type DType, dtypeOfCode, dtypes } from "./dtype.ts";
import { checkWire, malformed, unsupported } from "./scan.ts";
import { sizeOf, type Tensor } from "./tensor.ts";

const { onnx } = onnxProto;
type TensorProto = onnxProto.onnx.ITensorProto;
type GraphProto = onnxProto.onnx.IGraphProto;
type AttributeProto = onnxProto.onnx.IAttributeProto;
type ValueInfoProto = onnxProto.onnx.IValueInfoProto;
type Long = { low: number; high: number; toNumber(): number };

export type FileAttribute =
  | { readonly kind: "int" | "float"; readonly value: number }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "ints" | "floats"; readonly value: readonly number[] }
  | { readonly kind: "strings"; readonly value: readonly string[] }
  | { readonly kind: "tensor"; readonly value: Tensor }
  | { readonly kind: "graph"; readonly value: FileBody };

/** A graph within a node: a branch of If, the body of a loop. It reads values of the graphs around it by name. */
export interface FileBody {
  /** In an order in which each node follows those that it reads. */
  readonly nodes: readonly FileNode[];
  readonly initializers: ReadonlyMap<string, Tensor>;
  /** Names of the values that the node around it hands in. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

export interface FileNode {
  /** The file's name of it, or that of its first output where it has none. */
  readonly name: string;
  readonly op: string;
  /** "" is standard ONNX. */
  readonly domain: string;
  /** Names of values; "" is left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, FileAttribute>;
  /** Values around it that its bodies read; none of most nodes. */
  readonly captures: readonly string[];
}

export interface FileInput {
  readonly name: string;
  readonly dtype: DType;
  /** A number, the name of an open dimension, or null where the file says nothing. */
  readonly dims: readonly (number | string | null)[];
}

/** A model file: its main graph and what it says of itself. */
export interface FileModel {
  /** Version of the standard operators. */
  readonly opset: number;
  readonly metadata: Readonly<Record<string, string>>;
  /** In an order in which each node follows those that it reads. */
  readonly nodes: readonly FileNode[];
  readonly initializers: ReadonlyMap<string, Tensor>;
  /** Inputs that no initializer fills. */
  readonly inputs: readonly FileInput[];
  readonly outputs: readonly string[];
}

/**
 * Parses an ONNX file.
 * @throws GraphError (malformed) where the bytes are no sound model, (unsupported) where data lies in other files
 */
export const parseModel = (bytes: Uint8Array): FileModel => {
  checkWire(bytes);
  let model: onnxProto.onnx.IModelProto;
  try {
    model = onnx.ModelProto.decode(bytes);
  } catch (error) {
    throw malformed(`this is not an ONNX model: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { graph } = model;
  if (!graph) throw malformed("this is not an ONNX model: it holds no graph");
  const standard = (model.opsetImport ?? []).filter((entry) => !entry.domain || entry.domain === "ai.onnx");
  if (standard.length !== 1) throw malformed("the file must name one version of the standard operators");
  const opset = whole(standard[0]?.version);
  const metadata = Object.fromEntries((model.metadataProps ?? []).map(({ key, value }) => [key ?? "", value ?? ""]));
  return { opset, metadata, ...parseGraph(graph) };
};

const parseInitializers = (graph: GraphProto): Map<string, Tensor> => {
  const initializers = new Map<string, Tensor>();
  for (const proto of graph.initializer ?? []) {
    const name = proto.name ?? "";
    if (initializers.has(name)) throw malformed(`two initializers are named ${JSON.stringify(name)}`);
    initializers.set(name, parseTensor(proto, `the initializer ${JSON.stringify(name)}`));
  }
  if ((graph.sparseInitializer ?? []).length > 0) throw unsupported("sparse initializers are not supported");
  return initializers;
};

const parseNodes = (graph: GraphProto): FileNode[] =>
  (graph.node ?? []).map((node, index): FileNode => {
    const outputs = node.output ?? [];
    const where = { op: node.opType || "a node without an operator", path: node.name || outputs[0] || `node ${index}` };
    if (!node.opType) throw malformed("the node has no operator", where);
    const attributes = new Map<string, FileAttribute>();
    for (const attribute of node.attribute ?? []) {
      const name = attribute.name ?? "";
      if (attributes.has(name)) throw malformed(`two attributes are named ${JSON.stringify(name)}`, where);
      attributes.set(name, parseAttribute(attribute, where));
    }
    const domain = node.domain === "ai.onnx" ? "" : (node.domain ?? "");
    const captures = [...new Set([...attributes.values()].flatMap((a) => (a.kind === "graph" ? read(a.value) : [])))];
    return { name: where.path, op: node.opType, domain, inputs: node.input ?? [], outputs, attributes, captures };
  });

/** What a body reads of the graphs around it. */
const read = ({ nodes, initializers, inputs, outputs }: FileBody): string[] => {
  const own = new Set([...initializers.keys(), ...inputs, ...nodes.flatMap((node) => node.outputs)]);
  const names = [...nodes.flatMap((node) => [...node.inputs, ...node.captures]), ...outputs];
  return [...new Set(names)].filter((name) => name !== "" && !own.has(name));
};

const parseBody = (graph: GraphProto): FileBody => {
  const initializers = parseInitializers(graph);
  const inputs = (graph.input ?? []).map(({ name }) => name ?? "");
  const nodes = parseNodes(graph);
  const outputs = (graph.output ?? []).map(({ name }) => name ?? "");
  const around = read({ nodes, initializers, inputs, outputs });
  return {
    nodes: inOrder(nodes, new Set([...initializers.keys(), ...inputs, ...around])),
    initializers,
    inputs,
    outputs,
  };
};

const parseGraph = (graph: GraphProto): Omit<FileModel, "opset" | "metadata"> => {
  const initializers = parseInitializers(graph);
  const inputs = (graph.input ?? []).filter(({ name }) => !initializers.has(name ?? "")).map(parseInput);
  const nodes = parseNodes(graph);
  const outputs = (graph.output ?? []).map(({ name }) => name ?? "");
  if (outputs.length === 0) throw malformed("the model has no outputs");
  const known = new Set([...initializers.keys(), ...inputs.map(({ name }) => name)]);
  return { nodes: inOrder(nodes, known), initializers, inputs, outputs };
};

/** Nodes after what they read. Throws where a value is made twice, never made, or needs itself. */
const inOrder = (nodes: readonly FileNode[], known: ReadonlySet<string>): FileNode[] => {
  const makers = new Map<string, FileNode>();
  for (const node of nodes)
    for (const output of node.outputs) {
      if (output === "") continue;
      if (makers.has(output) || known.has(output))
        throw malformed(`the value ${JSON.stringify(output)} is made twice`, { op: node.op, path: node.name });
      makers.set(output, node);
    }
  const waiting = new Map<FileNode, number>();
  const readers = new Map<FileNode, FileNode[]>();
  const ready: FileNode[] = [];
  for (const node of nodes) {
    const needs = new Set<FileNode>();
    for (const input of [...node.inputs, ...node.captures]) {
      if (input === "" || known.has(input)) continue;
      const maker = makers.get(input);
      if (maker === undefined)
        throw malformed(`it reads ${JSON.stringify(input)}, which nothing makes`, { op: node.op, path: node.name });
      needs.add(maker);
    }
    waiting.set(node, needs.size);
    for (const maker of needs) {
      const list = readers.get(maker);
      if (list === undefined) readers.set(maker, [node]);
      else list.push(node);
    }
    if (needs.size === 0) ready.push(node);
  }
  for (let next = 0; next < ready.length; next++)
    for (const reader of readers.get(ready[next] as FileNode) ?? []) {
      const left = (waiting.get(reader) as number) - 1;
      waiting.set(reader, left);
      if (left === 0) ready.push(reader);
    }
  if (ready.length < nodes.length) {
    const stuck = nodes.find((node) => waiting.get(node) !== 0) as FileNode;
    throw malformed("it needs its own output: the graph has a cycle", { op: stuck.op, path: stuck.name });
  }
  return ready;
};

const parseInput = ({ name, type }: ValueInfoProto): FileInput => {
  const label = `the input ${JSON.stringify(name ?? "")}`;
  if (!type?.tensorType) throw unsupported(`${label} is not a tensor`);
  const { elemType, shape } = type.tensorType;
  const dtype = dtypeOfCode(elemType ?? 0);
  if (dtype === undefined) throw unsupported(`${label} has an element type that is not supported (${elemType ?? 0})`);
  if (!shape) throw unsupported(`${label} has no shape; export it with one, such as [batch,3,32,32]`);
  const dims = (shape.dim ?? []).map(({ dimValue, dimParam }) => {
    if (dimParam) return dimParam;
    if (dimValue === undefined || dimValue === null) return null;
    const size = whole(dimValue);
    // Older converters write an open dimension as -1, which the runtime takes for one too.
    return size < 0 ? null : size;
  });
  return { name: name ?? "", dtype, dims };
};

const parseAttribute = (proto: AttributeProto, where: { op: string; path: string }): FileAttribute => {
  const { AttributeType } = onnx.AttributeProto;
  const name = proto.name ?? "";
  if (proto.refAttrName) throw malformed(`the attribute ${name} refers to a function's, but this is none`, where);
  switch (proto.type) {
    case AttributeType.INT:
      return { kind: "int", value: whole(proto.i) };
    case AttributeType.FLOAT:
      return { kind: "float", value: proto.f ?? 0 };
    case AttributeType.STRING:
      return { kind: "string", value: text(proto.s) };
    case AttributeType.INTS:
      return { kind: "ints", value: (proto.ints ?? []).map(whole) };
    case AttributeType.FLOATS:
      return { kind: "floats", value: proto.floats ?? [] };
    case AttributeType.STRINGS:
      return { kind: "strings", value: (proto.strings ?? []).map(text) };
    case AttributeType.TENSOR:
      if (!proto.t) throw malformed(`the attribute ${name} holds no tensor`, where);
      return { kind: "tensor", value: parseTensor(proto.t, `the attribute ${name}`, where) };
    case AttributeType.GRAPH:
      if (!proto.g) throw malformed(`the attribute ${name} holds no graph`, where);
      return { kind: "graph", value: parseBody(proto.g) };
    default:
      throw unsupported(`the attribute ${name} has a type that is not supported (${proto.type ?? 0})`, where);
  }
};

/** Host tensor of a TensorProto; shares the file's bytes where they are aligned. */
export const parseTensor = (proto: TensorProto, label: string, where: { op?: string; path?: string } = {}): Tensor => {
  if (proto.dataLocation === 1 || (proto.externalData ?? []).length > 0)
    throw unsupported(`${label} keeps its data in another file; save the model as one file`, where);
  const dtype = dtypeOfCode(proto.dataType ?? 0);
  if (dtype === undefined)
    throw unsupported(`${label} has an element type that is not supported (${proto.dataType ?? 0})`, where);
  const shape = (proto.dims ?? []).map(whole);
  const size = sizeOf(shape);
  if (!shape.every((d) => Number.isSafeInteger(d) && d >= 0) || !Number.isSafeInteger(size))
    throw malformed(`${label} has the impossible shape [${shape.join(", ")}]`, where);
  const { array } = dtypes[dtype];
  const raw = proto.rawData;
  if (raw && raw.length > 0) {
    if (raw.length !== size * array.BYTES_PER_ELEMENT)
      throw malformed(`${label} is ${dtype}[${shape.join(",")}] but holds ${raw.length} bytes`, where);
    // A copy by `new`: the slice of a Node Buffer would share its memory.
    const aligned = raw.byteOffset % array.BYTES_PER_ELEMENT === 0 ? raw : new Uint8Array(raw);
    return { dtype, shape, data: new array(aligned.buffer, aligned.byteOffset, size) };
  }
  const given = listed(proto, dtype);
  if (given.length !== size)
    throw malformed(`${label} is ${dtype}[${shape.join(",")}] but holds ${given.length} values`, where);
  const data = new array(size);
  if (data instanceof BigInt64Array || data instanceof BigUint64Array)
    for (let i = 0; i < size; i++) data[i] = big(given[i] as number | Long);
  else for (let i = 0; i < size; i++) data[i] = Number(given[i]);
  return { dtype, shape, data };
};

const listed = (proto: TensorProto, dtype: DType): readonly unknown[] => {
  switch (dtype) {
    case "float32":
      return proto.floatData ?? [];
    case "float64":
      return proto.doubleData ?? [];
    case "int64":
      return proto.int64Data ?? [];
    case "uint32":
      return (proto.uint64Data ?? []).map(whole);
    case "uint64":
      return proto.uint64Data ?? [];
    default:
      return proto.int32Data ?? [];
  }
};

const decoder = new TextDecoder();
const text = (bytes: Uint8Array | null | undefined): string => decoder.decode(bytes ?? new Uint8Array());
const whole = (value: unknown): number =>
  typeof value === "number" ? value : ((value as Long | undefined)?.toNumber() ?? 0);
const big = (value: number | Long): bigint =>
  typeof value === "number" ? BigInt(value) : (BigInt(value.high) << 32n) | BigInt(value.low >>> 0);
