/**
 * Arithmetic on constants at build time, so that shapes which a file computes (Shape → Gather → Concat → Reshape) are
 * numbers before any op asks for them. Only small tensors: weights are the engine's to fold.
 */
import { type DType, dtypes, isFloat } from "../onnx/dtype.ts";
import { constant, constantOf, type Node, type Type, type Value } from "../onnx/graph.ts";
import { sizeOf, type Tensor } from "../onnx/tensor.ts";

/** Tensors of more elements are left to the engine. */
export const LARGEST_FOLDED = 2 ** 16;

/** A constant in plain numbers, row-major. */
interface Numbers extends Type {
  readonly values: readonly number[];
}

const numbersOf = ({ dtype, shape, data }: Tensor): Numbers => ({
  dtype,
  shape,
  values: Array.from(data as ArrayLike<number | bigint>, Number),
});

/** A host tensor from numbers; integers saturate at 64 bits, bool is 0 or 1. */
export const tensorOf = (dtype: DType, shape: readonly number[], values: readonly number[]): Tensor => {
  const data = new dtypes[dtype].array(values.length);
  values.forEach((v, i) => {
    if (data instanceof BigInt64Array || data instanceof BigUint64Array) data[i] = clampedBigInt(v);
    else data[i] = dtype === "bool" ? Number(v !== 0) : v;
  });
  return { dtype, shape, data };
};
const clampedBigInt = (v: number): bigint => {
  if (Number.isNaN(v)) return 0n;
  if (v >= 2 ** 63) return 2n ** 63n - 1n;
  return v <= -(2 ** 63) ? -(2n ** 63n) : BigInt(Math.trunc(v));
};

type Elementwise = (...values: readonly number[]) => number;
const truth = (condition: boolean): number => Number(condition);

/** Rules that act on each element, inputs broadcast. */
const elementwise: Readonly<Record<string, Elementwise>> = {
  Add: (a = 0, b = 0) => a + b,
  Sub: (a = 0, b = 0) => a - b,
  Mul: (a = 0, b = 0) => a * b,
  Div: (a = 0, b = 0) => a / b,
  Pow: (a = 0, b = 0) => a ** b,
  Min: (...values) => Math.min(...values),
  Max: (...values) => Math.max(...values),
  Mod: (a = 0, b = 0) => a - b * Math.floor(a / b),
  Neg: (a = 0) => -a,
  Abs: (a = 0) => Math.abs(a),
  Sqrt: (a = 0) => Math.sqrt(a),
  Reciprocal: (a = 0) => 1 / a,
  Floor: (a = 0) => Math.floor(a),
  Ceil: (a = 0) => Math.ceil(a),
  Identity: (a = 0) => a,
  Cast: (a = 0) => a,
  Not: (a) => truth(a === 0),
  Equal: (a, b) => truth(a === b),
  Greater: (a = 0, b = 0) => truth(a > b),
  GreaterOrEqual: (a = 0, b = 0) => truth(a >= b),
  Less: (a = 0, b = 0) => truth(a < b),
  LessOrEqual: (a = 0, b = 0) => truth(a <= b),
  And: (a, b) => truth(a !== 0 && b !== 0),
  Or: (a, b) => truth(a !== 0 || b !== 0),
  Where: (condition, a = 0, b = 0) => (condition ? a : b),
  Expand: (a = 0) => a,
};

const stridesOf = (shape: readonly number[]): number[] => {
  const strides: number[] = new Array(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] as number) * (shape[i + 1] as number);
  return strides;
};

/** Calls back with the index of each element of a shape. */
const each = (shape: readonly number[], visit: (index: readonly number[], flat: number) => void): void => {
  const index = shape.map(() => 0);
  const size = sizeOf(shape);
  for (let flat = 0; flat < size; flat++) {
    visit(index, flat);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] as number) + 1;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      index[axis] = 0;
    }
  }
};

const byElement = (rule: Elementwise, inputs: readonly Numbers[], { dtype, shape }: Type): number[] => {
  const strides = inputs.map((x) => {
    const own = stridesOf(x.shape);
    const skipped = shape.length - x.shape.length;
    return shape.map((_, i) => (i < skipped || x.shape[i - skipped] === 1 ? 0 : (own[i - skipped] as number)));
  });
  const out = new Array<number>(sizeOf(shape));
  const round = isFloat(dtype) ? (v: number) => v : Math.trunc;
  each(shape, (index, flat) => {
    const given = inputs.map((x, k) => {
      let at = 0;
      for (let i = 0; i < index.length; i++) at += (index[i] as number) * ((strides[k] as number[])[i] as number);
      return x.values[at] as number;
    });
    out[flat] = round(rule(...given));
  });
  return out;
};

type Rule = (node: Node, inputs: readonly Numbers[], type: Type) => readonly number[] | undefined;
const same: Rule = (_, [x]) => x?.values;
const axisIn = (node: Node, rank: number, otherwise: number): number => {
  const axis = (node.attributes.axis as number | undefined) ?? otherwise;
  return axis < 0 ? axis + rank : axis;
};

/** Rules that move elements, or join them. */
const rules: Readonly<Record<string, Rule>> = {
  Reshape: same,
  Squeeze: same,
  Unsqueeze: same,
  Flatten: same,
  Gather: (node, [x, indices], { shape }) => {
    if (x === undefined || indices === undefined) return undefined;
    const axis = axisIn(node, x.shape.length, 0);
    const inner = sizeOf(x.shape.slice(axis + 1));
    const size = x.shape[axis] as number;
    const out: number[] = [];
    for (let outer = 0; outer < sizeOf(x.shape.slice(0, axis)); outer++)
      for (const at of indices.values) {
        const index = at < 0 ? at + size : at;
        if (!(index >= 0 && index < size)) return undefined;
        for (let i = 0; i < inner; i++) out.push(x.values[(outer * size + index) * inner + i] as number);
      }
    return out.length === sizeOf(shape) ? out : undefined;
  },
  Concat: (node, inputs, { shape }) => {
    const axis = axisIn(node, shape.length, 0);
    const out: number[] = [];
    for (let outer = 0; outer < sizeOf(shape.slice(0, axis)); outer++)
      for (const x of inputs) {
        const run = sizeOf(x.shape.slice(axis));
        out.push(...x.values.slice(outer * run, (outer + 1) * run));
      }
    return out;
  },
  Slice: (_, [x, starts, ends, axes, steps], { shape }) => {
    if (x === undefined || starts === undefined || ends === undefined) return undefined;
    const from = x.shape.map(() => 0);
    const by = x.shape.map(() => 1);
    starts.values.forEach((start, i) => {
      const given = axes?.values[i] ?? i;
      const axis = given < 0 ? given + x.shape.length : given;
      const size = x.shape[axis] as number;
      const step = steps?.values[i] ?? 1;
      const counted = start < 0 ? start + size : start;
      from[axis] = step > 0 ? Math.min(Math.max(counted, 0), size) : Math.min(Math.max(counted, -1), size - 1);
      by[axis] = step;
    });
    const strides = stridesOf(x.shape);
    const out = new Array<number>(sizeOf(shape));
    each(shape, (index, flat) => {
      let at = 0;
      index.forEach((n, i) => {
        at += ((from[i] as number) + n * (by[i] as number)) * (strides[i] as number);
      });
      out[flat] = x.values[at] as number;
    });
    return out;
  },
  Transpose: (node, [x], { shape }) => {
    if (x === undefined) return undefined;
    const perm = node.attributes.perm as readonly number[];
    const strides = stridesOf(x.shape);
    const out = new Array<number>(sizeOf(shape));
    each(shape, (index, flat) => {
      out[flat] = x.values[index.reduce((at, n, i) => at + n * (strides[perm[i] as number] as number), 0)] as number;
    });
    return out;
  },
  ReduceProd: (_, [x], { shape }) => (sizeOf(shape) === 1 ? [x?.values.reduce((a, b) => a * b, 1) ?? 1] : undefined),
  ReduceSum: (_, [x], { shape }) => (sizeOf(shape) === 1 ? [x?.values.reduce((a, b) => a + b, 0) ?? 0] : undefined),
};

/** The constant that the first output of a node is, where its inputs are small constants and the op is known here. */
export const folded = (value: Value): Value => {
  const { node } = value;
  const rule = elementwise[node.definition.name] ?? rules[node.definition.name];
  if (rule === undefined || node.definition.domain !== "" || value.size > LARGEST_FOLDED || node.outputs.length > 1)
    return value;
  // The sign of a Mod is the divisor's; with fmod it is the other's.
  if (node.attributes.fmod === 1) return value;
  const given = node.inputs.map(constantOf);
  if (!given.every((t): t is Tensor => t !== undefined && t.dtype !== "float16" && t.data.length <= LARGEST_FOLDED))
    return value;
  if (value.dtype === "float16") return value;
  const inputs = given.map(numbersOf);
  // What only tells an op's shape is no operand of the arithmetic.
  const operands = node.definition.name === "Expand" ? inputs.slice(0, 1) : inputs;
  const known = elementwise[node.definition.name];
  const values =
    known === undefined
      ? (rules[node.definition.name] as Rule)(node, operands, value)
      : byElement(known, operands, value);
  return values === undefined || values.length !== value.size
    ? value
    : constant(tensorOf(value.dtype, value.shape, values));
};
