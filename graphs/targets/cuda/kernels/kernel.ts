/**
 * How a fused kernel is written down: an op of domain `advcl` with inference, its portable meaning (a lowering to standard
 * ops), its source in CUDA C as a function of types and shapes, and its launches. docs/kernels.md goes through the smallest.
 *
 * Everything that is known when a graph is lowered (shapes, attributes) stands in the source as a number, so that all that a
 * launch passes is addresses: each function of the source takes one `Arguments`, a struct of pointers to the node's inputs and
 * outputs in their order.
 */
import type { DType } from "../../../onnx/dtype.ts";
import {
  type Attribute,
  type AttributeKind,
  type Attributes,
  isAbsent,
  type Node,
  type Type,
  type Value,
} from "../../../onnx/graph.ts";
import { defineOp, notDifferentiable, type Op } from "../../../ops/index.ts";
import { typedName } from "../../kernel-name.ts";
import { cudnnFunctions } from "./nhwc-conv.ts";
import { prelude } from "./prelude.ts";

/** What the source and the launches of a node depend on. */
export interface KernelCall<A = Attributes> {
  readonly inputs: readonly Type[];
  readonly outputs: readonly Type[];
  readonly attributes: A;
}

/** One launch of a function of the source over a grid of blocks; blocks have one dimension. */
export interface Launch {
  readonly function: string;
  readonly grid: readonly [x: number, y: number];
  readonly block: number;
  /** Which arguments it goes through once, for counting traffic. What is small (a number a channel) may be left out. */
  readonly reads: readonly string[];
  readonly writes: readonly string[];
}

/** A pointer of `Arguments`, or so many in an array. */
export type Argument = string | readonly [name: string, count: number];

export interface KernelSpec<I extends readonly Value[], A> {
  readonly attributes?: { readonly [K in keyof A]-?: AttributeKind };
  readonly infer: (inputs: I, attributes: A) => Type | readonly Type[];
  /** The same in standard ops. What an output that is scratch holds there means nothing. */
  readonly lower: (inputs: I, attributes: A, types: readonly Type[]) => Value | readonly Value[];
  /** Names of the inputs and then the outputs in the source. */
  readonly arguments: (call: KernelCall<A>) => readonly Argument[];
  /** Names of outputs that only carry numbers from one launch to the next. */
  readonly scratch?: readonly string[];
  /** Functions in CUDA C, each `extern "C" __global__ void name(const Arguments a)`. */
  readonly body: (call: KernelCall<A>) => string;
  readonly launches: (call: KernelCall<A>) => readonly Launch[];
}

export interface Kernel {
  arguments(call: KernelCall): readonly Argument[];
  /** The whole program: prelude, `Arguments`, body. Equal programs are compiled once. */
  source(call: KernelCall): string;
  launches(call: KernelCall): readonly Launch[];
  /** Whether output `index` holds nothing that anyone may read. */
  isScratch(call: KernelCall, index: number): boolean;
}

const kernels = new WeakMap<object, Kernel>();

/** The kernel of an op, or undefined for any other op. */
export const kernelOf = (definition: object): Kernel | undefined => kernels.get(definition);

/** Types and attributes of a kernel's node. */
export const callOf = ({ inputs, outputs, attributes }: Node): KernelCall => ({
  inputs: inputs.filter((value) => !isAbsent(value)),
  outputs,
  attributes,
});

/** Defines a kernel; it is an op like any other, which a lowering may use. */
export const defineKernel = <
  I extends readonly Value[],
  A extends { readonly [K in keyof A]: Attribute } = Record<never, never>,
>(
  name: string,
  spec: KernelSpec<I, A>,
): Op<I, A> => {
  const op = defineOp<I, A>(name, {
    ...(spec.attributes && { attributes: spec.attributes }),
    infer: spec.infer,
    lower: spec.lower,
    vjp: notDifferentiable("a kernel runs only; what it stands for is differentiated before it is lowered"),
  });
  const of = (call: KernelCall) => call as unknown as KernelCall<A>;
  kernels.set(op.definition, {
    arguments: (call) => spec.arguments(of(call)),
    source: (call) => [prelude, argumentsOf(spec.arguments(of(call)), call), spec.body(of(call))].join("\n"),
    launches: (call) => spec.launches(of(call)),
    isScratch: (call, index) =>
      spec.scratch?.includes(namesOf(spec.arguments(of(call)))[call.inputs.length + index]!) ?? false,
  });
  return op;
};

/** A name for each pointer, that of an array repeated. */
export const namesOf = (all: readonly Argument[]): string[] =>
  all.flatMap((argument) =>
    typeof argument === "string" ? [argument] : Array.from({ length: argument[1] }, () => argument[0]),
  );

/** Element types as the source calls them. */
const ctypes: Partial<Record<DType, string>> = {
  float32: "float",
  float16: "float16",
  int32: "int",
  int64: "long long",
  bool: "bool",
};

export const ctype = (dtype: DType): string => {
  const found = ctypes[dtype];
  if (found === undefined) throw new Error(`internal: kernels have no element type ${dtype}`);
  return found;
};

/** A number as a float of the source, in all its digits. */
export const literal = (value: number): string => {
  const text = String(Math.fround(value));
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
};

const argumentsOf = (all: readonly Argument[], { inputs, outputs }: KernelCall): string => {
  const types = [...inputs, ...outputs];
  let next = 0;
  const fields = all.map((argument) => {
    const [name, count] = typeof argument === "string" ? [argument, 0] : argument;
    const type = ctype((types[next] as Type).dtype);
    const written = next >= inputs.length;
    next += Math.max(count, 1);
    return `  ${written ? "" : "const "}${type}* ${name}${count > 0 ? `[${count}]` : ""};`;
  });
  if (next !== types.length)
    throw new Error(`internal: ${next} arguments are named but the kernel has ${types.length}`);
  return `struct Arguments {\n${fields.join("\n")}\n};`;
};

/** The name in a file of an op that is a kernel or cuDNN's, undefined for other ops. */
export const fileName = (node: Node): string | undefined => {
  if (kernelOf(node.definition) === undefined && !cudnnFunctions.has(node.definition)) return undefined;
  const { inputs, outputs } = callOf(node);
  return typedName(node.definition.name, inputs, outputs);
};
