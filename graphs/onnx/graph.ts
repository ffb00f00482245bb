/**
 * Values and nodes: an immutable graph that grows from its inputs. A value knows the node that made it, a node its
 * inputs, so a graph is whatever can be reached from some outputs; there is no builder to pass around.
 */
import { type DType, dtypes } from "./dtype.ts";
import { GraphError, InferenceError } from "./error.ts";
import { toFloat16 } from "./float16.ts";
import { sizeOf, type Tensor, tensor } from "./tensor.ts";

export interface Type {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** The body of a control-flow op: a graph whose inputs are placeholders of `frame`. */
export interface Subgraph {
  readonly frame: Frame;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Values of enclosing graphs that the body reads. */
  readonly captures: readonly Value[];
}

export type Attribute = number | string | readonly number[] | readonly string[] | Tensor | Subgraph | undefined;
export type Attributes = { readonly [name: string]: Attribute };

/** How an attribute is written; `dtype` is an int that holds a TensorProto.DataType. */
export type AttributeKind = "int" | "ints" | "float" | "floats" | "string" | "strings" | "tensor" | "graph" | "dtype";

/** An op as the graph sees it; graphs/ops/define.ts has the typed form that op files write. */
export interface Definition {
  /** ONNX's op_type, or the name of a composite op in camelCase. */
  readonly name: string;
  /** "" is standard ONNX; composite ops live in "advcl" and never reach a file. */
  readonly domain: string;
  readonly attributes: { readonly [name: string]: AttributeKind };
  /** Types of the outputs; throws InferenceError. */
  infer(inputs: readonly Value[], attributes: Attributes): readonly Type[];
  /** How the op is spelled in a file of an opset, where that differs from how it is held here. */
  readonly write?: (inputs: readonly Value[], attributes: Attributes, opset: number) => Spelling;
  /** The first opset that has the op, where that is beyond 13. */
  readonly firstOpset?: number;
  /** The last opset that has the op in this form; a file that holds it is written in that opset. */
  readonly lastOpset?: number;
}

export interface Spelling {
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
}

/** Where a value exists: null is the outermost graph, otherwise the body of one control-flow node. */
export class Frame {
  readonly parent: Frame | null;
  readonly depth: number;
  constructor(parent: Frame | null) {
    this.parent = parent;
    this.depth = (parent?.depth ?? 0) + 1;
  }
}

export class Value implements Type {
  readonly node: Node;
  readonly index: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  constructor(node: Node, index: number, type: Type) {
    this.node = node;
    this.index = index;
    this.dtype = type.dtype;
    this.shape = type.shape;
  }
  get rank(): number {
    return this.shape.length;
  }
  get size(): number {
    return sizeOf(this.shape);
  }
  get frame(): Frame | null {
    return this.node.frame;
  }
  /** The dimension of an axis, which may count from the end; throws a RangeError outside the rank. */
  dim(axis: number): number {
    const d = this.shape[axis < 0 ? axis + this.rank : axis];
    if (d === undefined) throw new RangeError(`axis ${axis} of a value of rank ${this.rank}`);
    return d;
  }
}

export class Node {
  readonly definition: Definition;
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
  readonly outputs: readonly Value[];
  /** Path of the layer that asked for the op (`layer1.0.conv1`), "" outside any. */
  readonly path: string;
  readonly frame: Frame | null;
  /** Where it was constructed; read `origin.stack` for the line. */
  readonly origin: { readonly stack?: string } | undefined;
  /** In a lowered graph: the node of the source graph that it is there for. */
  readonly source: Node | undefined;
  constructor(
    definition: Definition,
    inputs: readonly Value[],
    attributes: Attributes,
    types: readonly Type[],
    frame: Frame | null,
  ) {
    this.definition = definition;
    this.inputs = inputs;
    this.attributes = attributes;
    this.path = context.path;
    this.origin = context.origin ?? captureOrigin();
    this.source = context.source;
    this.frame = frame;
    this.outputs = types.map((type, index) => new Value(this, index, type));
  }
}

const context: { path: string; frame: Frame | null; origin: Node["origin"]; source: Node | undefined } = {
  path: "",
  frame: null,
  origin: undefined,
  source: undefined,
};

const captureOrigin = (): Node["origin"] => {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 12;
  const origin: { stack?: string } = {};
  Error.captureStackTrace(origin, Value);
  Error.stackTraceLimit = limit;
  return origin;
};

/** Runs `build` with every node it makes named after `path`. */
export const named = <T>(path: string, build: () => T): T => {
  const before = context.path;
  context.path = path;
  try {
    return build();
  } finally {
    context.path = before;
  }
};

/** Runs `build` with every node it makes named and placed after `node`: what a rule makes belongs to what it serves. */
export const onBehalfOf = <T>(node: Node, build: () => T, prefix = ""): T => {
  const before = context.origin;
  context.origin = node.origin;
  try {
    return named(prefix + node.path, build);
  } finally {
    context.origin = before;
  }
};

/** As onBehalfOf, for a lowering: what it makes has `node`, or what that is itself made for, as its source. */
export const inPlaceOf = <T>(node: Node, build: () => T): T => {
  const before = context.source;
  // A control-flow node is only the place where its body's nodes are lowered.
  if (before === undefined || subgraphsOf(before).length > 0) context.source = node;
  try {
    return onBehalfOf(node, build);
  } finally {
    context.source = before;
  }
};

export const currentPath = (): string => context.path;

const constantOp: Definition = {
  name: "Constant",
  domain: "",
  attributes: { value: "tensor" },
  infer: (_, attributes) => [attributes.value as Tensor],
};

const inputOp: Definition = {
  name: "input",
  domain: "advcl",
  attributes: { name: "string" },
  infer: () => {
    throw new GraphError("internal", "an input has no inference");
  },
};

const absentOp: Definition = { ...inputOp, name: "absent" };

/** An input of the graph, by the name that the driver feeds it under. */
export const input = (name: string, type: Type): Value => {
  checkType(name, type);
  return new Node(inputOp, [], { name }, [type], null).outputs[0] as Value;
};

const checkType = (name: string, type: Type): void => {
  if (type.shape.some((d) => !Number.isInteger(d) || d < 0))
    throw new GraphError("shape", `${name} has the impossible shape [${type.shape.join(", ")}]`);
};

/** A tensor known when the graph is built. */
export const constant = (value: Tensor): Value => constantCalled(undefined, value);

/** A constant whose initializer is called `name` in files. */
export const namedConstant = (name: string, value: Tensor): Value => constantCalled(name, value);

const constantCalled = (name: string | undefined, value: Tensor): Value => {
  const type = { dtype: value.dtype, shape: value.shape };
  return new Node(constantOp, [], { value, name }, [type], null).outputs[0] as Value;
};

/** A scalar constant. */
export const scalar = (value: number | bigint, dtype: DType = "float32"): Value => constant(filled(dtype, [], value));

/** An int64 vector constant: axes, shapes and other arguments that ONNX takes as inputs. */
export const ints = (values: readonly number[]): Value =>
  constant(tensor("int64", [values.length], BigInt64Array.from(values, BigInt)));

/** A host tensor with the same value everywhere. */
export const filled = (dtype: DType, shape: readonly number[], value: number | bigint): Tensor => {
  const data = new dtypes[dtype].array(sizeOf(shape));
  if (dtype === "float16") data.fill(toFloat16([Number(value)])[0] as never);
  else if (data instanceof BigInt64Array || data instanceof BigUint64Array) data.fill(BigInt(value));
  else data.fill(Number(value));
  return { dtype, shape, data };
};

/** An optional input that is left out. */
export const absent: Value = new Node(absentOp, [], {}, [{ dtype: "float32", shape: [] }], null).outputs[0] as Value;

export const isAbsent = (value: Value | undefined): boolean => value === undefined || value === absent;
export const isConstant = (value: Value): boolean => value.node.definition === constantOp;
export const isInput = (value: Value): boolean => value.node.definition === inputOp;
export const inputName = (value: Value): string => value.node.attributes.name as string;

/** The tensor of a constant, or undefined for any other value. */
export const constantOf = (value: Value): Tensor | undefined =>
  isConstant(value) ? (value.node.attributes.value as Tensor) : undefined;

/** The name that a constant was given. */
export const constantName = (value: Value): string | undefined => value.node.attributes.name as string | undefined;

/** The numbers of a constant integer tensor; throws an InferenceError where the value is not constant. */
export const constantInts = (value: Value, what: string): number[] => {
  const held = constantOf(value);
  if (held === undefined) throw new InferenceError("unsupported", `${what} must be a constant`);
  return Array.from(held.data as ArrayLike<number | bigint>, Number);
};

const deepest = (values: readonly Value[]): Frame | null => {
  let frame: Frame | null = null;
  for (const value of values) if ((value.frame?.depth ?? 0) > (frame?.depth ?? 0)) frame = value.frame;
  return frame;
};

/**
 * Applies an op: infers the types of its outputs and makes its node.
 * Throws a GraphError that names op, path and input types.
 */
export const apply = (definition: Definition, inputs: readonly Value[], attributes: Attributes): readonly Value[] => {
  let types: readonly Type[];
  try {
    types = definition.infer(inputs, attributes);
  } catch (error) {
    if (!(error instanceof InferenceError)) throw error;
    const failure = new GraphError(error.code, error.message, {
      op: definition.name,
      path: context.path,
      types: inputs.filter((value) => !isAbsent(value)),
    });
    throw failure;
  }
  const captured = Object.values(attributes).flatMap((a) => (isSubgraph(a) ? a.captures : []));
  return new Node(definition, inputs, attributes, types, deepest([...inputs, ...captured])).outputs;
};

export const isSubgraph = (attribute: Attribute): attribute is Subgraph =>
  typeof attribute === "object" && "frame" in attribute;

/** The subgraphs of a node's attributes. */
export const subgraphsOf = (node: Node): readonly Subgraph[] => Object.values(node.attributes).filter(isSubgraph);

/** Builds the body of a control-flow op: `build` gets placeholders of the given types. */
export const subgraph = (types: readonly Type[], build: (inputs: readonly Value[]) => readonly Value[]): Subgraph => {
  const frame = new Frame(context.frame);
  const inputs = types.map((type) => new Node(inputOp, [], { name: "" }, [type], frame).outputs[0] as Value);
  context.frame = frame;
  try {
    const outputs = build(inputs);
    return { frame, inputs, outputs, captures: capturesOf(frame, outputs) };
  } finally {
    context.frame = frame.parent;
  }
};

const within = (frame: Frame | null, outer: Frame): boolean => {
  for (let f = frame; f !== null; f = f.parent) if (f === outer) return true;
  return false;
};

const capturesOf = (frame: Frame, outputs: readonly Value[]): Value[] => {
  const captures = new Set<Value>();
  const visit = (value: Value) => {
    if (!within(value.frame, frame) && !isConstant(value) && value !== absent) captures.add(value);
  };
  outputs.forEach(visit);
  for (const node of nodesOf(outputs, frame)) dependenciesOf(node).forEach(visit);
  return [...captures];
};

/** Everything a node reads: its inputs, and what its bodies capture. */
export const dependenciesOf = (node: Node): readonly Value[] => {
  const bodies = subgraphsOf(node);
  return bodies.length === 0 ? node.inputs : [...node.inputs, ...bodies.flatMap((body) => body.captures)];
};

/**
 * The nodes of one frame that `outputs` need, each after what it reads. Constants are left out, inputs are not.
 */
export const nodesOf = (outputs: readonly Value[], frame: Frame | null): Node[] =>
  ordered(outputs, (node) => node.frame === frame);

/** The `wanted` nodes that `outputs` need, each after what it reads; what an unwanted node reads is not looked at. */
export const ordered = (
  outputs: readonly Value[],
  wanted: (node: Node) => boolean,
  needsOf: (node: Node) => readonly Value[] = dependenciesOf,
): Node[] => {
  const done = new Set<Node>();
  const order: Node[] = [];
  const stack: { node: Node; next: number; needs: readonly Value[] }[] = [];
  const enter = (node: Node) => {
    if (done.has(node) || !wanted(node) || node.definition === constantOp || node.definition === absentOp) return;
    done.add(node);
    stack.push({ node, next: 0, needs: needsOf(node) });
  };
  for (const output of outputs) {
    enter(output.node);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const need = top.needs[top.next++];
      if (need !== undefined) enter(need.node);
      else {
        stack.pop();
        order.push(top.node);
      }
    }
  }
  return order;
};
