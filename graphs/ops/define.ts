/** How an op is written down: one entry with inference, gradient, portable lowering and gradient-check cases. */
import type { DType } from "../onnx/dtype.ts";
import { check } from "../onnx/error.ts";
import {
  type Attribute,
  type AttributeKind,
  type Attributes,
  apply,
  type Definition,
  isAbsent,
  type Node,
  type Spelling,
  scalar,
  type Type,
  Value,
} from "../onnx/graph.ts";
import type { Fold } from "./fold.ts";

/** An input as users write it: numbers become scalar constants of the first value's dtype. */
export type Operand = Value | number;

/** What a gradient rule sees. `cotangents` has one entry an output, `cotangent` is the first output's. */
export interface VjpCall<I extends readonly Value[], A> {
  readonly inputs: I;
  readonly outputs: readonly Value[];
  readonly output: Value;
  readonly cotangents: readonly (Value | undefined)[];
  readonly cotangent: Value;
  readonly attributes: A;
}

/** One cotangent an input, in the shape that the rule finds natural (the walker undoes broadcasting); null is zero. */
export type Vjp<I extends readonly Value[], A> = (call: VjpCall<I, A>) => { readonly [K in keyof I]: Value | null };

export interface NotDifferentiable {
  readonly reason: string;
}
export const notDifferentiable = (reason: string): NotDifferentiable => ({ reason });

/** An input of a gradient check: random in [low, high], or given values. Integer inputs are never differentiated. */
export interface CheckedInput {
  readonly shape: readonly number[];
  readonly low?: number;
  readonly high?: number;
  readonly values?: readonly number[];
  readonly dtype?: DType;
  /** A constant of the graph, not a differentiated input. */
  readonly fixed?: boolean;
}

export interface GradcheckCase<A> {
  readonly inputs: readonly CheckedInput[];
  readonly attributes?: A;
  /** Half the distance of the central difference; 1 is exact for (bi)linear ops. Default 1e-2. */
  readonly step?: number;
  /** Largest relative error. Default 2e-3. */
  readonly tolerance?: number;
}

/** How files of an opset spell a node. */
export type Writer = (inputs: readonly Value[], attributes: Attributes, opset: number) => Spelling;

export interface OpSpec<I extends readonly Value[], A> {
  readonly attributes?: { readonly [K in keyof A]-?: AttributeKind };
  /** Smallest number of inputs, where the last ones may be left out or `infer` would not miss them. */
  readonly minInputs?: number;
  readonly infer: (inputs: I, attributes: A) => Type | readonly Type[];
  /** A rule, "zero" (piecewise constant), or why there is none: three different facts. */
  readonly vjp: Vjp<I, A> | "zero" | NotDifferentiable;
  /** Of a composite op: the same in standard ONNX ops. */
  readonly lower?: (inputs: I, attributes: A, types: readonly Type[]) => Value | readonly Value[];
  readonly gradcheck?: readonly GradcheckCase<A>[];
  /** How many outputs, from the first, carry a gradient, where the others are figures only; default all. */
  readonly differentiableOutputs?: number;
  /** How files of an opset spell the op, and how to read any opset's spelling, where either differs. */
  readonly write?: Writer;
  readonly read?: Reader;
  /** Attributes that only files have, for `read`. */
  readonly readAttributes?: { readonly [name: string]: AttributeKind };
  /** What it makes of constants, in plain numbers, where files compute shapes by it. */
  readonly fold?: Fold;
  /** The first opset that has the op with these attributes, where that is beyond 13. */
  readonly firstOpset?: number;
}

/** The file that an op is read from. */
export interface ReadingContext {
  /** Version of the standard operators. */
  readonly opset: number;
  /** How many outputs the node names. */
  readonly outputs: number;
}
/** From a file's spelling to the one held here; throws InferenceError where it cannot be. */
export type Reader = (inputs: readonly Value[], attributes: Attributes, context: ReadingContext) => Spelling;

/** The definition behind an op, with its rules. */
export interface OpDefinition extends Definition {
  readonly minInputs: number;
  readonly vjp: Vjp<readonly Value[], Attributes> | "zero" | NotDifferentiable;
  readonly lower?: (inputs: readonly Value[], attributes: Attributes, types: readonly Type[]) => readonly Value[];
  readonly gradcheck: readonly GradcheckCase<Attributes>[];
  readonly differentiableOutputs?: number;
  readonly read?: Reader;
  /** Attributes that only files have, for `read`. */
  readonly readAttributes?: { readonly [name: string]: AttributeKind };
  readonly fold?: Fold;
}

type Operands<I extends readonly unknown[]> = { [K in keyof I]: Operand };
type Arguments<I extends readonly unknown[], A> = [
  ...Operands<I>,
  ...(Partial<A> extends A ? [attributes?: A] : [attributes: A]),
];

/** A callable op: returns its first output; `.outputs` returns all. */
export interface Op<I extends readonly Value[], A = Record<never, never>> {
  (...args: Arguments<I, A>): Value;
  outputs(...args: Arguments<I, A>): readonly Value[];
  readonly definition: OpDefinition;
}

const registry = new Map<string, OpDefinition>();

/** Every op that has been defined, by name: for reading files and for tests, never for dispatch. */
export const definitions: ReadonlyMap<string, OpDefinition> = registry;

export const compositeDomain = "advcl";

/** Defines an op. With `lower` it is composite: never written to a file, but lowered by the target. */
export const defineOp = <
  I extends readonly Value[],
  A extends { readonly [K in keyof A]: Attribute } = Record<never, never>,
>(
  name: string,
  spec: OpSpec<I, A>,
  domain = spec.lower === undefined ? "" : compositeDomain,
): Op<I, A> => {
  const { lower } = spec;
  const definition: OpDefinition = {
    name,
    domain,
    attributes: (spec.attributes ?? {}) as Record<string, AttributeKind>,
    minInputs: spec.minInputs ?? 0,
    infer: (inputs, attributes) => listed(spec.infer(inputs as unknown as I, attributes as unknown as A)),
    vjp: spec.vjp as unknown as OpDefinition["vjp"],
    ...(lower && {
      lower: (inputs: readonly Value[], attributes: Attributes, types: readonly Type[]) =>
        listed(lower(inputs as unknown as I, attributes as unknown as A, types)),
    }),
    gradcheck: (spec.gradcheck ?? []) as readonly GradcheckCase<Attributes>[],
    ...(spec.differentiableOutputs && { differentiableOutputs: spec.differentiableOutputs }),
    ...(spec.write && { write: spec.write }),
    ...(spec.read && { read: spec.read }),
    ...(spec.readAttributes && { readAttributes: spec.readAttributes }),
    ...(spec.fold && { fold: spec.fold }),
    ...(spec.firstOpset && { firstOpset: spec.firstOpset }),
  };
  const key = domain === "" || domain === compositeDomain ? name : `${domain}:${name}`;
  if (registry.has(key)) throw new Error(`internal: op ${key} is defined twice`);
  registry.set(key, definition);
  const outputs = (...args: Arguments<I, A>): readonly Value[] => {
    const { inputs, attributes } = split(args);
    return apply(definition, inputs, attributes);
  };
  const call = (...args: Arguments<I, A>): Value => outputs(...args)[0] as Value;
  return Object.assign(call, { outputs, definition });
};

const listed = <T>(one: T | readonly T[]): readonly T[] => (Array.isArray(one) ? one : [one as T]);

const split = (args: readonly unknown[]): { inputs: Value[]; attributes: Attributes } => {
  const operands: Operand[] = [];
  let attributes: Attributes = {};
  for (const arg of args) {
    if (arg instanceof Value || typeof arg === "number") operands.push(arg);
    else if (arg !== undefined) attributes = arg as Attributes;
  }
  return { inputs: valuesOf(operands), attributes };
};

/** Operands as values: numbers become scalars of the dtype of the first value among them (float32 where none is). */
export const valuesOf = (operands: readonly Operand[]): Value[] => {
  const dtype = operands.find((o): o is Value => o instanceof Value && !isAbsent(o))?.dtype ?? "float32";
  return operands.map((o) => (typeof o === "number" ? scalar(o, dtype) : o));
};

export const definitionOf = (node: Node): OpDefinition => node.definition as OpDefinition;

/** An op over any number of values, as Concat and Sum are. */
export type Variadic<A> = ((values: readonly Value[], attributes: A) => Value) & { readonly definition: OpDefinition };

/** Turns an op into one that takes its inputs as a list. */
export const variadic = <A extends { readonly [K in keyof A]: Attribute }>(op: Op<readonly Value[], A>): Variadic<A> =>
  Object.assign(
    (values: readonly Value[], attributes: A) =>
      apply(op.definition, values, attributes as unknown as Attributes)[0] as Value,
    { definition: op.definition },
  );

// ---- what inference rules share ----

/** Shape of a broadcast of several shapes (numpy's rule); throws InferenceError where they do not fit. */
export const broadcast = (...shapes: readonly (readonly number[])[]): number[] => {
  const rank = Math.max(...shapes.map((s) => s.length));
  return Array.from({ length: rank }, (_, i) => {
    let dim = 1;
    for (const shape of shapes) {
      const d = shape[i - rank + shape.length] ?? 1;
      check(d === 1 || dim === 1 || d === dim, "shape", `${dim} and ${d} do not broadcast at axis ${i - rank}`);
      if (d !== 1) dim = d;
    }
    return dim;
  });
};

/** Checks that all values have one dtype and returns it. */
export const sameDtype = (values: readonly Value[]): DType => {
  const first = values[0]!.dtype;
  for (const value of values)
    check(
      isAbsent(value) || value.dtype === first,
      "dtype",
      `inputs are ${first} and ${value.dtype}; cast one of them`,
    );
  return first;
};

/** Axis counted from the front; throws InferenceError outside the rank. */
export const axisOf = (axis: number, rank: number): number => {
  check(Number.isInteger(axis) && axis >= -rank && axis < rank, "attribute", `axis ${axis} of a value of rank ${rank}`);
  return axis < 0 ? axis + rank : axis;
};
