/**
 * The lowering pass: a source graph of standard and composite ops to one that a target's engine runs.
 *
 * For each node the target's own lowering is asked first; where it has none, or declines, a composite op is expanded by
 * its portable lowering (whose nodes are lowered in turn) and a standard op stands for itself, row-major.
 */
import {
  type Attributes,
  absent,
  apply,
  constantInts,
  type Frame,
  inPlaceOf,
  isConstant,
  isInput,
  type Node,
  ordered,
  type Subgraph,
  scalar,
  subgraph,
  type Type,
  type Value,
} from "../onnx/graph.ts";
import { allNodesOf } from "../onnx/order.ts";
import { definitionOf, loopDefinition, type OpDefinition } from "../ops/index.ts";
import { Lowered, type Placed, rowMajor } from "./layout.ts";

/** What a lowering sees of the node that it replaces. */
export interface LoweringCall<A = Attributes> {
  readonly inputs: readonly Lowered[];
  readonly attributes: A;
  /** Types of the outputs, as the source graph has them. */
  readonly types: readonly Type[];
  readonly node: Node;
  /** What any value became that the node depends on, for a lowering that stands for several nodes. */
  lowered(value: Value): Lowered;
}

/** Returns the outputs, row-major as plain values or placed in a layout; undefined declines. */
// biome-ignore lint/suspicious/noExplicitAny: each lowering knows the attributes of its own op
export type Lowering = (call: LoweringCall<any>) => readonly (Value | Placed)[] | undefined;

export interface Target {
  readonly name: string;
  /** Exceptions to the portable lowerings, by the op they lower; each names the measurement that justifies it. */
  readonly lowerings: ReadonlyMap<OpDefinition, Lowering>;
  /** Whether a Loop stays one, or is written out. */
  readonly loops: "keep" | "unroll";
  /** The only provider of ONNX Runtime that computes what this target emits; any does where it is left out. */
  readonly provider?: string;
  /** What lowers a graph instead where an op of it is newer than a form that this target emits. */
  readonly otherwise?: Target;
  /** How far the engine may rewrite the lowered graph, where that is not the driver's usual choice. */
  readonly optimization?: "disabled" | "basic" | "extended" | "all";
  /** What is done to the lowered graph before it is written. */
  readonly rewrite?: <K extends string>(outputs: Readonly<Record<K, Value>>) => Record<K, Value>;
  /** Names in files of ops of domain `advcl` that the engine has kernels for: only models that run at once may hold them. */
  readonly kernels?: (node: Node) => string | undefined;
}

/** Lowers the values of a source graph; returns row-major values under the same names. */
export const lower = <K extends string>(outputs: Readonly<Record<K, Value>>, target: Target): Record<K, Value> => {
  const pass = new Lowerer(target);
  const names = Object.keys(outputs) as K[];
  pass.run(names.map((name) => outputs[name]));
  return Object.fromEntries(names.map((name) => [name, pass.lowered(outputs[name]).plain])) as Record<K, Value>;
};

/** As `lower`, by what the target names instead where the opsets of what it makes do not go together. */
export const lowerInOneOpset = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  target: Target,
): Record<K, Value> => {
  const lowered = lower(outputs, target);
  if (target.otherwise === undefined) return lowered;
  const definitions = allNodesOf(Object.values(lowered)).map(({ definition }) => definition);
  const last = Math.min(...definitions.map(({ lastOpset = Number.POSITIVE_INFINITY }) => lastOpset));
  const fits = definitions.every(({ firstOpset = 0 }) => firstOpset <= last);
  return fits ? lowered : lower(outputs, target.otherwise);
};

class Lowerer {
  readonly #target: Target;
  /** What each frame's values became; the outermost graph is null. */
  readonly #environments = new Map<Frame | null, Map<Value, Lowered>>([[null, new Map()]]);
  readonly #expansions = new Map<Node, readonly Value[]>();

  constructor(target: Target) {
    this.#target = target;
  }

  lowered(value: Value): Lowered {
    const environment = this.#environments.get(value.frame);
    const known = environment?.get(value);
    if (known !== undefined) return known;
    if (isConstant(value) || value === absent || (isInput(value) && value.frame === null)) {
      const itself = new Lowered(value, { layout: rowMajor, parts: [value] });
      environment?.set(value, itself);
      return itself;
    }
    throw new Error(`internal: ${value.node.definition.name} at ${value.node.path} is read before it is lowered`);
  }

  /** Lowers what `outputs` need and is not lowered yet, in whatever frame it lives. */
  run(outputs: readonly Value[]): void {
    for (const node of ordered(outputs, (n) => !this.#done(n))) {
      const results = inPlaceOf(node, () => this.#node(node));
      const environment = this.#environments.get(node.frame) as Map<Value, Lowered>;
      node.outputs.forEach((output, i) => {
        environment.set(output, results[i] as Lowered);
      });
    }
  }

  #done(node: Node): boolean {
    const output = node.outputs[0]!;
    return isInput(output) || (this.#environments.get(node.frame)?.has(output) ?? false);
  }

  #node(node: Node): readonly Lowered[] {
    const definition = definitionOf(node);
    const inputs = node.inputs.map((value) => this.lowered(value));
    const own = this.#target.lowerings.get(definition)?.({
      inputs,
      attributes: node.attributes,
      types: node.outputs,
      node,
      lowered: (value) => this.lowered(value),
    });
    if (own !== undefined) return own.map((result, i) => placed(result, node.outputs[i]!));
    if (definition === loopDefinition) return this.#loop(node, inputs);
    if (definition.lower !== undefined) return this.#expand(node, definition.lower);
    return apply(
      definition,
      inputs.map((lowered) => lowered.plain),
      node.attributes,
    ).map((value) => placed(value, value));
  }

  #expand(node: Node, portable: NonNullable<OpDefinition["lower"]>): readonly Lowered[] {
    let expansion = this.#expansions.get(node);
    if (expansion === undefined) {
      expansion = portable(node.inputs, node.attributes, node.outputs);
      this.#expansions.set(node, expansion);
    }
    this.run(expansion);
    return expansion.map((value) => this.lowered(value));
  }

  #loop(node: Node, inputs: readonly Lowered[]): readonly Lowered[] {
    const body = node.attributes.body as Subgraph;
    const initial = inputs.slice(2).map((lowered) => lowered.plain);
    const iterate = (given: readonly Value[]): Value[] => {
      const environment = new Map<Value, Lowered>();
      this.#environments.set(body.frame, environment);
      body.inputs.forEach((placeholder, i) => {
        environment.set(placeholder, placed(given[i]!, placeholder));
      });
      this.run(body.outputs);
      return body.outputs.map((output) => this.lowered(output).plain);
    };
    if (this.#target.loops === "keep") {
      const lowered = subgraph(body.inputs, iterate);
      const [times, condition] = inputs.slice(0, 2).map((lowered) => lowered.plain) as [Value, Value];
      return apply(loopDefinition, [times, condition, ...initial], { body: lowered } as unknown as Attributes).map(
        (v) => placed(v, v),
      );
    }
    const times = constantInts(node.inputs[0]!, "the number of iterations")[0]!;
    let carried = initial;
    for (let i = 0; i < times; i++) carried = iterate([scalar(i, "int64"), scalar(1, "bool"), ...carried]).slice(1);
    return carried.map((value) => placed(value, value));
  }
}

const placed = (result: Value | Placed, type: Type): Lowered =>
  new Lowered(
    { dtype: type.dtype, shape: type.shape },
    "parts" in result ? result : { layout: rowMajor, parts: [result] },
  );
