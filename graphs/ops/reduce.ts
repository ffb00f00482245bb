/** Ops that reduce axes. `axes` is an attribute of ours whatever the opset: the writer spells it as the opset wants. */
import { check } from "../onnx/error.ts";
import { type Attributes, constantInts, ints, isAbsent, type Spelling, type Type, type Value } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";
import { equal } from "./compare.ts";
import { axisOf, defineOp, notDifferentiable, type Op, type OpSpec, type Writer } from "./define.ts";
// biome-ignore lint/suspicious/noImportCycles: a rule of one family uses ops of another, and rules run only later
import { cast, div, exp, mul, neg, sub } from "./elementwise.ts";
// biome-ignore lint/suspicious/noImportCycles: a rule of one family uses ops of another, and rules run only later
import { expandAs, reshape } from "./movement.ts";

export type Reduction = { readonly axes?: readonly number[]; readonly keepdims?: number };
type Reduce = Op<[x: Value], Reduction>;

const reduced = (x: Value, axes: readonly number[] | undefined): number[] =>
  (axes ?? x.shape.map((_, i) => i)).map((a) => axisOf(a, x.rank));

const inferReduction = ([x]: readonly [x: Value], { axes, keepdims = 1 }: Reduction): Type => {
  const gone = new Set(reduced(x, axes));
  return { dtype: x.dtype, shape: x.shape.flatMap((d, i) => (!gone.has(i) ? [d] : keepdims ? [1] : [])) };
};

/** A reduction's output with the reduced axes put back as 1. */
const kept = (x: Value, y: Value, axes: readonly number[] | undefined): Value => {
  const gone = new Set(reduced(x, axes));
  return reshape(
    y,
    x.shape.map((d, i) => (gone.has(i) ? 1 : d)),
  );
};

const cases = (low: number, high: number, step?: number) =>
  [{ axes: [1], keepdims: 0 }, { axes: [-1, 0], keepdims: 1 }, {}].map((attributes) => ({
    inputs: [{ shape: [2, 3, 2], low, high }],
    attributes,
    ...(step && { step }),
  }));

/** Newer opsets give the axes as an input, and leave out an empty one to mean all axes. */
const axesFromInput = ([x, axes]: readonly Value[], attributes: Attributes): Spelling => {
  const { noop_with_empty_axes, ...others } = attributes;
  const listed = isAbsent(axes) ? undefined : constantInts(axes as Value, "axes");
  if (listed === undefined || listed.length === 0) {
    check(!noop_with_empty_axes, "unsupported", "noop_with_empty_axes is not supported");
    return { inputs: [x as Value], attributes: others };
  }
  return { inputs: [x as Value], attributes: { ...others, axes: listed } };
};
/** From opset `first` on the axes are an input. */
const axesToInput =
  (first: number): Writer =>
  (inputs, attributes, opset) => {
    const { axes, ...others } = attributes;
    return axes === undefined || opset < first
      ? { inputs, attributes }
      : { inputs: [...inputs, ints(axes as readonly number[])], attributes: others };
  };

const defineReduce = (name: string, spec: Omit<OpSpec<[x: Value], Reduction>, "infer" | "attributes">): Reduce =>
  defineOp<[x: Value], Reduction>(name, {
    attributes: { axes: "ints", keepdims: "int" },
    infer: inferReduction,
    read: axesFromInput,
    readAttributes: { noop_with_empty_axes: "int" },
    write: axesToInput(18),
    ...spec,
  });

export const reduceSum: Reduce = defineReduce("ReduceSum", {
  write: axesToInput(13),
  fold: ([x], { shape }) => (sizeOf(shape) === 1 ? [x?.values.reduce((a, b) => a + b, 0) ?? 0] : undefined),
  vjp: ({ inputs: [x], cotangent: dy, attributes: { axes } }) => [expandAs(kept(x, dy, axes), x.shape)],
  gradcheck: cases(-1, 1, 1),
});
export const reduceMean: Reduce = defineReduce("ReduceMean", {
  vjp: ({ inputs: [x], output: y, cotangent: dy, attributes: { axes } }) => [
    expandAs(mul(kept(x, dy, axes), y.size / x.size), x.shape),
  ],
  gradcheck: cases(-1, 1, 1),
});
/** Cotangents of a reduction that picks elements: shared evenly among the equal ones, as PyTorch's amax does. */
const pickGrad = (x: Value, y: Value, dy: Value, axes: readonly number[] | undefined): Value => {
  const hit = cast(equal(x, kept(x, y, axes)), { to: x.dtype });
  return mul(hit, div(kept(x, dy, axes), reduceSum(hit, { axes: reduced(x, axes), keepdims: 1 })));
};
export const reduceMax: Reduce = defineReduce("ReduceMax", {
  vjp: ({ inputs: [x], output: y, cotangent: dy, attributes: { axes } }) => [pickGrad(x, y, dy, axes)],
  gradcheck: [{ inputs: [{ shape: [2, 3], values: [1, 2, 3, 5, 4, 2] }], attributes: { axes: [1], keepdims: 0 } }],
});
export const reduceMin: Reduce = defineReduce("ReduceMin", {
  vjp: ({ inputs: [x], output: y, cotangent: dy, attributes: { axes } }) => [pickGrad(x, y, dy, axes)],
  gradcheck: [{ inputs: [{ shape: [2, 3], values: [1, 2, 3, 5, 4, 2] }], attributes: { axes: [1], keepdims: 1 } }],
});
/** log Σ exp x, computed without overflow. */
export const reduceLogSumExp: Reduce = defineReduce("ReduceLogSumExp", {
  vjp: ({ inputs: [x], output: y, cotangent: dy, attributes: { axes } }) => [
    reduceLogSumExpGrad(x, y, dy, { axes: reduced(x, axes) }),
  ],
  gradcheck: cases(-1, 1),
});
/** dy · exp(x - y) where y = log Σ exp x over the axes. Inputs: x; y and dy of one shape, the reduced axes there or gone. */
export const reduceLogSumExpGrad: Op<[x: Value, y: Value, dy: Value], Pick<Required<Reduction>, "axes">> = defineOp<
  [x: Value, y: Value, dy: Value],
  Pick<Required<Reduction>, "axes">
>("reduceLogSumExpGrad", {
  attributes: { axes: "ints" },
  infer: ([x]) => ({ dtype: x.dtype, shape: x.shape }),
  lower: ([x, y, dy], { axes }) => mul(kept(x, dy, axes), exp(sub(x, kept(x, y, axes)))),
  vjp: ({ inputs: [x, y, dy], output: dx, cotangent: d, attributes: { axes } }) => {
    const each = mul(d, dx);
    const summed = (v: Value, like: Value) => reshape(reduceSum(v, { axes, keepdims: 1 }), like.shape);
    return [each, summed(neg(each), y), summed(mul(d, exp(sub(x, kept(x, y, axes)))), dy)];
  },
  gradcheck: [[2, 1], [2]].map((row) => ({
    inputs: [{ shape: [2, 3] }, { shape: row, low: 0.5, high: 1.5 }, { shape: row }],
    attributes: { axes: [1] },
  })),
});
/** √Σx²; not differentiable at 0. */
export const reduceL2: Reduce = defineReduce("ReduceL2", {
  vjp: ({ inputs: [x], output: y, cotangent: dy, attributes: { axes } }) => [mul(x, kept(x, div(dy, y), axes))],
  gradcheck: cases(0.5, 2),
});
/** Σx². */
export const reduceSumSquare: Reduce = defineReduce("ReduceSumSquare", {
  vjp: ({ inputs: [x], cotangent: dy, attributes: { axes } }) => [mul(x, mul(kept(x, dy, axes), 2))],
  gradcheck: cases(-1, 1),
});
export const reduceProd: Reduce = defineReduce("ReduceProd", {
  fold: ([x], { shape }) => (sizeOf(shape) === 1 ? [x?.values.reduce((a, b) => a * b, 1) ?? 1] : undefined),
  vjp: notDifferentiable("the gradient of a product is not built; write it with logarithms"),
});

type Arg = { axis?: number; keepdims?: number; select_last_index?: number };
const defineArg = (name: string): Op<[x: Value], Arg> =>
  defineOp<[x: Value], Arg>(name, {
    attributes: { axis: "int", keepdims: "int", select_last_index: "int" },
    infer: ([x], { axis = 0, keepdims = 1 }) => ({
      dtype: "int64",
      shape: inferReduction([x], { axes: [axis], keepdims }).shape,
    }),
    vjp: "zero",
  });
/** Index (int64) of the first largest element along an axis. */
export const argMax: Op<[x: Value], Arg> = defineArg("ArgMax");
export const argMin: Op<[x: Value], Arg> = defineArg("ArgMin");

type CumSum = { exclusive?: number; reverse?: number };
export const cumSum: Op<[x: Value, axis: Value], CumSum> = defineOp<[x: Value, axis: Value], CumSum>("CumSum", {
  attributes: { exclusive: "int", reverse: "int" },
  infer: ([x, axis]) => {
    check(axis.size === 1, "shape", "the axis must be a scalar");
    return { dtype: x.dtype, shape: x.shape };
  },
  vjp: ({ inputs: [, axis], cotangent: dy, attributes: { exclusive = 0, reverse = 0 } }) => [
    cumSum(dy, axis, { exclusive, reverse: reverse ? 0 : 1 }),
    null,
  ],
  gradcheck: [{ inputs: [{ shape: [2, 3] }, { shape: [], values: [1], dtype: "int64", fixed: true }], step: 1 }],
});
