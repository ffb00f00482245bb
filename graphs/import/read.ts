/**
 * ONNX files to the same Values that builders make, so that a model from elsewhere can be attacked, finetuned or used as
 * a teacher. Everything that the outputs need is refused here, by op and node, before anything runs: unknown ops, attributes
 * that are not supported, shapes that do not fit or are too large.
 */
import { isFloat } from "../onnx/dtype.ts";
import { GraphError, InferenceError } from "../onnx/error.ts";
import { absent, apply, constant, constantOf, input, isAbsent, named, type Type, type Value } from "../onnx/graph.ts";
import { type FileInput, type FileModel, type FileNode, parseModel } from "../onnx/parse.ts";
import { type Tensor, typeName } from "../onnx/tensor.ts";
import { compositeDomain, definitions, type OpDefinition } from "../ops/index.ts";
import { attributesOf } from "./attributes.ts";
import { folded } from "./fold.ts";
import { readings } from "./readings.ts";

export interface ReadOptions {
  /** Size of the first dimension of the inputs, where the file leaves it open. */
  readonly batch?: number;
  /** Sizes of open dimensions by the names that the file gives them. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Values that take the place of the file's inputs, by name. */
  readonly bind?: Readonly<Record<string, Value>>;
  /**
   * Initializers that become inputs of the graph, under the name returned; the others, and by default all, are constants.
   * Only floating-point initializers of rank 1 and more are asked about.
   */
  readonly parameter?: (name: string) => string | undefined;
  /** Outputs to read, by default all; nodes that none of them needs are passed over. */
  readonly outputs?: readonly string[];
}

export interface ReadModel {
  readonly inputs: Readonly<Record<string, Value>>;
  readonly outputs: Readonly<Record<string, Value>>;
  /** Floating-point initializers of rank 1 and more, by the file's names: constants, or inputs where asked for. */
  readonly parameters: Readonly<Record<string, Value>>;
  /** What the file holds of each of them. */
  readonly weights: Readonly<Record<string, Tensor>>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Standard operators of these versions are understood. */
const OPSETS = { oldest: 7, newest: 25 };
/** No value of a graph may have more elements: 4 GiB of float32. */
const LARGEST_VALUE = 2 ** 30;
const MOST_NODES = 200_000;

/** Values of a file's names: those of a branch, and those around it. */
class Values {
  readonly #own = new Map<string, Value>();
  readonly #around: Values | undefined;

  constructor(around?: Values) {
    this.#around = around;
  }

  get(name: string): Value | undefined {
    return this.#own.get(name) ?? this.#around?.get(name);
  }

  set(name: string, value: Value): void {
    this.#own.set(name, value);
  }
}

/**
 * Reads a model.
 * @param file the file's bytes, or what parseModel made of them (a file read several times is parsed once)
 * @throws GraphError (malformed, unsupported, shape, dtype, attribute) in one sentence that names op and node
 */
export const readModel = (file: Uint8Array | FileModel, options: ReadOptions = {}): ReadModel => {
  const model = file instanceof Uint8Array ? parseModel(file) : file;
  const { values, ...given } = begin(model, options);
  const wanted = options.outputs ?? model.outputs;
  readNodes(neededFor(wanted, model.nodes), values, model.opset);
  const outputs = Object.fromEntries(wanted.map((name) => [name, outputOf(name, values)]));
  return { ...given, outputs, metadata: model.metadata };
};

/**
 * Reads each output by itself, whatever the others need: its value, or the error that reading it alone throws. What
 * several need is read once.
 * @throws GraphError where no output could be read: of the inputs, or of the file as a whole
 */
export const readEachOutput = (
  model: FileModel,
  options: ReadOptions = {},
): readonly (readonly [name: string, read: Value | GraphError])[] => {
  const { values } = begin(model, options);
  const wanted = options.outputs ?? model.outputs;
  const failures = new Map<string, Failure>();
  readNodes(neededFor(wanted, model.nodes), values, model.opset, failures);
  return wanted.map((name) => {
    const failure = failures.get(name);
    if (failure !== undefined) return [name, failure.error];
    try {
      return [name, outputOf(name, values)];
    } catch (error) {
      if (error instanceof GraphError) return [name, error];
      throw error;
    }
  });
};

const outputOf = (name: string, values: Values): Value => {
  const value = values.get(name);
  if (value === undefined || value === absent)
    throw new GraphError("malformed", `nothing makes the output ${JSON.stringify(name)}`);
  return value;
};

/** What is there before any node is read. */
const begin = (model: FileModel, options: ReadOptions) => {
  if (model.opset < OPSETS.oldest || model.opset > OPSETS.newest)
    throw new GraphError(
      "unsupported",
      `the file uses opset ${model.opset}; export it with one from ${OPSETS.oldest} to ${OPSETS.newest}, such as opset_version=17`,
    );
  if (model.nodes.length > MOST_NODES)
    throw new GraphError(
      "unsupported",
      `the model has ${model.nodes.length} nodes; at most ${MOST_NODES} are supported`,
    );
  const values = new Values();
  values.set("", absent);
  // Names are the file's: in a table with a prototype `__proto__` is none.
  const parameters: Record<string, Value> = Object.create(null);
  const weights: Record<string, Tensor> = Object.create(null);
  for (const [name, tensor] of model.initializers) {
    const trainable = isFloat(tensor.dtype) && tensor.shape.length > 0;
    const asInput = trainable ? options.parameter?.(name) : undefined;
    const value = asInput === undefined ? constant(tensor) : input(asInput, tensor);
    values.set(name, value);
    if (!trainable) continue;
    parameters[name] = value;
    weights[name] = tensor;
  }
  const inputs: Record<string, Value> = Object.create(null);
  for (const given of model.inputs) {
    const value = inputOf(given, options);
    values.set(given.name, value);
    inputs[given.name] = value;
  }
  return { values, inputs, parameters, weights };
};

/** Why a value can't be read: the error of the first node, in the file's order, that it needs and that can't be. */
interface Failure {
  readonly at: number;
  readonly error: GraphError;
}

/**
 * Reads nodes in order: what they make joins the values, by name.
 * @param failures takes what could not be read, by name; without it the first such node is thrown
 */
const readNodes = (
  nodes: readonly FileNode[],
  values: Values,
  opset: number,
  failures?: Map<string, Failure>,
): void => {
  for (const [at, node] of nodes.entries()) {
    let failure: Failure | undefined;
    for (const name of failures === undefined ? [] : [...node.inputs, ...node.captures]) {
      const before = failures?.get(name);
      if (before !== undefined && (failure === undefined || before.at < failure.at)) failure = before;
    }
    if (failure === undefined)
      try {
        const inputs = node.inputs.map((name) => values.get(name) as Value);
        const made =
          node.op === "If" && node.domain === "" ? branchOf(node, inputs, values, opset) : read(node, inputs, opset);
        node.outputs.forEach((name, i) => {
          if (name !== "") values.set(name, made[i]!);
        });
        continue;
      } catch (error) {
        if (failures === undefined || !(error instanceof GraphError)) throw error;
        failure = { at, error };
      }
    for (const name of node.outputs) if (name !== "") failures?.set(name, failure);
  }
};

/** The values of an If: those of the branch that its condition, a constant, takes. */
const branchOf = (node: FileNode, [condition]: readonly Value[], around: Values, opset: number): readonly Value[] => {
  const where = { op: node.op, path: node.name };
  const held = condition === undefined ? undefined : constantOf(condition);
  if (held === undefined || held.data.length !== 1)
    throw new GraphError(
      "unsupported",
      "its condition depends on the images; export the model traced, not scripted",
      where,
    );
  const branch = node.attributes.get(held.data[0] ? "then_branch" : "else_branch");
  if (branch?.kind !== "graph" || branch.value.outputs.length < node.outputs.length)
    throw new GraphError("malformed", "it lacks a branch, or the branch an output", where);
  const { nodes, initializers, outputs } = branch.value;
  const values = new Values(around);
  for (const [name, tensor] of initializers) values.set(name, constant(tensor));
  readNodes(neededFor(outputs, nodes), values, opset);
  return outputs.map((name) => {
    const value = values.get(name);
    if (value === undefined || value === absent)
      throw new GraphError("malformed", `nothing makes the output ${JSON.stringify(name)} of a branch`, where);
    return value;
  });
};

/** The nodes that outputs are made of, in the file's order: each follows those that it reads. */
const neededFor = (outputs: readonly string[], nodes: readonly FileNode[]): FileNode[] => {
  const needed = new Set(outputs);
  const kept = [...nodes].reverse().filter((node) => {
    const counts = node.outputs.some((name) => name !== "" && needed.has(name));
    if (counts) for (const name of [...node.inputs, ...node.captures]) needed.add(name);
    return counts;
  });
  return kept.reverse();
};

const inputOf = ({ name, dtype, dims }: FileInput, { batch, dims: sizes = {}, bind = {} }: ReadOptions): Value => {
  const bound = Object.hasOwn(bind, name) ? bind[name] : undefined;
  const label = `the input ${JSON.stringify(name)}`;
  const shape = dims.map((dim, axis) => {
    if (typeof dim === "number") return dim;
    if (dim !== null && Object.hasOwn(sizes, dim)) return sizes[dim]!;
    if (axis === 0 && batch !== undefined) return batch;
    if (bound !== undefined && bound.rank === dims.length) return bound.dim(axis);
    throw new GraphError(
      "unsupported",
      `${label} leaves dimension ${axis}${dim === null ? "" : ` (${dim})`} open; give its size`,
    );
  });
  const type: Type = { dtype, shape };
  checkSize(type, label);
  if (bound === undefined) return input(name, type);
  if (typeName(bound) !== typeName(type))
    throw new GraphError("shape", `${label} is ${typeName(type)} but gets ${typeName(bound)}`);
  return bound;
};

const checkSize = (type: Type, label: string, where: { op?: string; path?: string } = {}): void => {
  const fits = type.shape.every((d) => Number.isSafeInteger(d) && d >= 0) && type.shape.length <= 32;
  const size = type.shape.reduce((n, d) => n * d, 1);
  if (fits && size <= LARGEST_VALUE) return;
  const why = fits
    ? `has ${size} elements, more than ${LARGEST_VALUE}`
    : `has the impossible shape [${type.shape.join(", ")}]`;
  throw new GraphError(fits ? "unsupported" : "malformed", `${label} ${why}`, where);
};

/** The outputs of one node. */
const read = (node: FileNode, inputs: readonly Value[], opset: number): readonly Value[] => {
  const where = { op: node.op, path: node.name };
  if (node.domain !== "")
    throw new GraphError(
      "unsupported",
      `the domain ${node.domain} is not supported; ${
        /^Q[A-Z]|Quant|Integer/.test(node.op)
          ? "quantise in QDQ form (QuantFormat.QDQ)"
          : "export with standard ops only"
      }`,
      where,
    );
  const context = { opset, outputs: node.outputs.length };
  const reading = Object.hasOwn(readings, node.op) ? readings[node.op] : undefined;
  const definition = definitions.get(node.op);
  const known = definition !== undefined && definition.domain !== compositeDomain && !bodied(definition);
  if (reading === undefined && !known) {
    const remedy = /quantize|^QLinear|Integer$/i.test(node.op)
      ? "; give the model before it was quantised"
      : ["If", "Loop", "Scan"].includes(node.op)
        ? "; export the model traced, not scripted"
        : "";
    throw new GraphError("unsupported", `the operator is not supported${remedy}`, where);
  }
  const made = guarded(node, inputs, () => {
    if (reading !== undefined) {
      const [fewest, most] = reading.inputs;
      if (inputs.length < fewest || inputs.length > most || inputs.slice(0, fewest).some(isAbsent))
        throw new InferenceError("malformed", `it takes ${fewest === most ? fewest : `${fewest} to ${most}`} inputs`);
      const built = reading.build(inputs, attributesOf(node, reading.attributes ?? {}), context);
      return Array.isArray(built) ? (built as Value[]) : [built as Value];
    }
    return spelled(node, definition as OpDefinition, inputs, context);
  });
  if (node.outputs.length > made.length && node.outputs.slice(made.length).some((name) => name !== ""))
    throw new GraphError("unsupported", `output ${made.length} is not supported`, where);
  return made.map((value) => {
    checkSize(value, "its output", where);
    return folded(value);
  });
};

const bodied = (definition: OpDefinition): boolean => Object.values(definition.attributes).includes("graph");

/** Applies an op that is held here as files have it, but for what its `read` rule changes. */
const spelled = (
  node: FileNode,
  definition: OpDefinition,
  inputs: readonly Value[],
  context: { opset: number; outputs: number },
): readonly Value[] => {
  const { read: reader, minInputs } = definition;
  const given = attributesOf(node, { ...definition.attributes, ...definition.readAttributes });
  const spelling = reader === undefined ? { inputs, attributes: given } : reader(inputs, given, context);
  const operands = spelling.inputs.map((value) => folded(value));
  const needed = minInputs > 0 ? minInputs : operands.length;
  if (operands.length < needed || operands.slice(0, needed).some((value) => isAbsent(value)))
    throw new InferenceError("malformed", "an input that it needs is left out");
  return apply(definition, operands, spelling.attributes);
};

/** Runs `build`; whatever goes wrong in it is a sentence about the node. */
const guarded = (node: FileNode, inputs: readonly Value[], build: () => readonly Value[]): readonly Value[] => {
  try {
    return named(node.name, build);
  } catch (error) {
    const types = inputs.filter((value) => !isAbsent(value));
    const where = { op: node.op, path: node.name, types };
    if (error instanceof GraphError && error.code !== "internal") throw error;
    if (error instanceof InferenceError) throw new GraphError(error.code, error.message, where);
    throw new GraphError("malformed", "its inputs and attributes are not what the operator takes", where);
  }
};
