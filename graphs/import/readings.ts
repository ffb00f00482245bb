/** Ops of files that this project spells with others: activations, norms, shape queries, what older opsets meant. */
import { type DType, dtypes } from "../onnx/dtype.ts";
import { check } from "../onnx/error.ts";
import {
  type AttributeKind,
  type Attributes,
  constant,
  constantInts,
  constantOf,
  filled,
  isAbsent,
  scalar,
  type Value,
} from "../onnx/graph.ts";
import { sizeOf, type Tensor } from "../onnx/tensor.ts";
import {
  abs,
  add,
  clip,
  div,
  exp,
  expand,
  gelu,
  greater,
  identity,
  log,
  logSoftmax,
  max,
  min,
  mul,
  neg,
  type ReadingContext,
  reduceMax,
  reduceMean,
  reduceSum,
  relu,
  reshape,
  sigmoid,
  softmax,
  softplus,
  sqrt,
  sub,
  sum,
  tanh,
  transpose,
  where,
} from "../ops/index.ts";
import { fileBatchNorm } from "./batch-norm.ts";
import { LARGEST_FOLDED, tensorOf } from "./fold.ts";
import { placing } from "./placing.ts";
import { quantizing } from "./quantized.ts";
import { resize } from "./resize.ts";

export interface Reading {
  readonly attributes?: { readonly [name: string]: AttributeKind };
  /** Fewest and most inputs. */
  readonly inputs: readonly [fewest: number, most: number];
  build(inputs: readonly Value[], attributes: Attributes, context: ReadingContext): Value | readonly Value[];
}

const ANY = Number.POSITIVE_INFINITY;
type Unary = (x: Value, attributes: Readonly<Record<string, number | undefined>>) => Value;
/** A function of one value, with numbers for attributes. */
const unary = (build: Unary, attributes: Reading["attributes"] = {}): Reading => ({
  attributes,
  inputs: [1, 1],
  build: ([x], given) => build(x as Value, given as Readonly<Record<string, number | undefined>>),
});
const alpha = { alpha: "float" } as const;

/** alpha·(eˣ - 1) below 0; the minimum keeps the branch that is not taken finite. */
const elu = (x: Value, scale: number): Value => where(greater(x, 0), x, mul(sub(exp(clip(x, undefined, 0)), 1), scale));

const joined = (join: (a: Value, b: Value) => Value): Reading => ({
  inputs: [1, ANY],
  build: (inputs) => (inputs.length === 1 ? identity(inputs[0]!) : inputs.reduce(join)),
});

/** Reductions of a function of x: attributes and axes are read as ReduceSum's. */
const reducing = (before: (x: Value) => Value, after: (y: Value) => Value = (y) => y): Reading => ({
  attributes: { axes: "ints", keepdims: "int", noop_with_empty_axes: "int" },
  inputs: [1, 2],
  build: (inputs, attributes, context) => {
    const read = reduceSum.definition.read as NonNullable<typeof reduceSum.definition.read>;
    const { attributes: own } = read(inputs, attributes, context);
    return after(reduceSum(before(inputs[0]!), own as { axes?: readonly number[]; keepdims?: number }));
  },
});

/** Before opset 13 a softmax was of the matrix that Flatten makes, with axis 1 as default. */
const oldSoftmax = (op: typeof softmax): Reading => ({
  attributes: { axis: "int" },
  inputs: [1, 1],
  build: ([x], attributes, { opset }) => {
    const value = x as Value;
    const axis = (attributes.axis as number | undefined) ?? (opset >= 13 ? -1 : 1);
    const at = axis < 0 ? axis + value.rank : axis;
    if (opset >= 13 || at === value.rank - 1) return op(value, { axis });
    check(at >= 0 && at <= value.rank, "attribute", `axis ${axis} of a value of rank ${value.rank}`);
    const rows = reshape(value, [sizeOf(value.shape.slice(0, at)), sizeOf(value.shape.slice(at))]);
    return reshape(op(rows, { axis: 1 }), value.shape);
  },
});

/** Along channels: [C] as [C,1,…] for a value of this rank. */
const alongChannels = (v: Value, rank: number): Value => reshape(v, [-1, ...new Array<number>(rank - 2).fill(1)]);

/** x - mean over σ, both over the axes. */
const standardised = (x: Value, axes: readonly number[], epsilon: number): Value => {
  const centred = sub(x, reduceMean(x, { axes }));
  return div(centred, sqrt(add(reduceMean(mul(centred, centred), { axes }), epsilon)));
};

const spatialAxes = (x: Value): number[] => x.shape.flatMap((_, i) => (i < 2 ? [] : [i]));

const shapeConstant = (values: readonly number[]): Value => constant(tensorOf("int64", [values.length], values));

export const readings: Readonly<Record<string, Reading>> = {
  ...placing,
  ...quantizing,
  BatchNormalization: fileBatchNorm,
  // ---- shapes and constants ----
  Constant: {
    attributes: { value: "tensor", value_float: "float", value_floats: "floats", value_int: "int", value_ints: "ints" },
    inputs: [0, 0],
    build: (_, { value, value_float: f, value_floats: fs, value_int: i, value_ints: is }) => {
      if (value !== undefined) return constant(value as Tensor);
      if (f !== undefined) return scalar(f as number);
      if (i !== undefined) return scalar(BigInt(i as number), "int64");
      if (is !== undefined) return shapeConstant(is as readonly number[]);
      check(fs !== undefined, "attribute", "the value is missing");
      return constant(tensorOf("float32", [(fs as readonly number[]).length], fs as readonly number[]));
    },
  },
  ConstantOfShape: {
    attributes: { value: "tensor" },
    inputs: [1, 1],
    build: ([shape], { value }) => {
      const dims = constantInts(shape as Value, "the shape");
      check(
        dims.every((d) => d >= 0),
        "shape",
        `the shape [${dims.join(", ")}]`,
      );
      const held = (value as Tensor | undefined) ?? filled("float32", [1], 0);
      check(held.data.length === 1, "attribute", "the value must have one element");
      const one = constant({ ...held, shape: [] });
      if (sizeOf(dims) > LARGEST_FOLDED) return expand(one, dims);
      const data = new dtypes[held.dtype].array(sizeOf(dims)).fill(held.data[0] as never);
      return constant({ dtype: held.dtype, shape: dims, data });
    },
  },
  Shape: {
    attributes: { start: "int", end: "int" },
    inputs: [1, 1],
    build: ([x], { start, end }) =>
      shapeConstant((x as Value).shape.slice(start as number | undefined, end as number | undefined)),
  },
  Size: { inputs: [1, 1], build: ([x]) => scalar(BigInt((x as Value).size), "int64") },
  Range: {
    inputs: [3, 3],
    build: (inputs) => {
      const [start = 0, limit = 0, delta = 1] = inputs.map((v) => constantInts(v, "start, limit and delta")[0] ?? 0);
      const count = Math.max(0, Math.ceil((limit - start) / delta));
      check(delta !== 0 && count <= 2 ** 22, "shape", `a range from ${start} to ${limit} in steps of ${delta}`);
      const values = Array.from({ length: count }, (_, i) => start + i * delta);
      return constant(tensorOf(inputs[0]!.dtype as DType, [count], values));
    },
  },
  NonZero: {
    inputs: [1, 1],
    build: ([x]) => {
      const held = constantOf(x as Value);
      check(held !== undefined, "unsupported", "it is supported only on constants: its shape depends on the data");
      const rank = held.shape.length;
      const found: number[][] = [];
      held.data.forEach((value: number | bigint, flat: number) => {
        let rest = flat;
        const index = new Array<number>(rank);
        for (let axis = rank - 1; axis >= 0; axis--) {
          index[axis] = rest % held.shape[axis]!;
          rest = Math.floor(rest / held.shape[axis]!);
        }
        if (Number(value) !== 0) found.push(index);
      });
      const values = Array.from({ length: rank }, (_, axis) => found.map((index) => index[axis]!)).flat();
      return constant(tensorOf("int64", [rank, found.length], values));
    },
  },

  // ---- what does nothing in inference ----
  Dropout: {
    attributes: { ratio: "float", seed: "int" },
    inputs: [1, 3],
    build: ([x, , training]) => {
      const held = training === undefined ? undefined : constantOf(training);
      check(
        isAbsent(training) || (held !== undefined && !held.data[0]),
        "unsupported",
        "training mode is not supported",
      );
      return identity(x as Value);
    },
  },

  // ---- activations ----
  Elu: unary((x, { alpha: a = 1 }) => elu(x, a), alpha),
  Selu: unary((x, { alpha: a = 1.6732631921768188, gamma = 1.0507010221481323 }) => mul(elu(x, a), gamma), {
    ...alpha,
    gamma: "float",
  }),
  Celu: unary(
    (x, { alpha: a = 1 }) => where(greater(x, 0), x, mul(sub(exp(clip(div(x, a), undefined, 0)), 1), a)),
    alpha,
  ),
  ThresholdedRelu: unary((x, { alpha: a = 1 }) => where(greater(x, a), x, 0), alpha),
  Mish: unary((x) => mul(x, tanh(softplus(x)))),
  Swish: unary((x, { alpha: a = 1 }) => mul(x, sigmoid(a === 1 ? x : mul(x, a))), alpha),
  Softsign: unary((x) => div(x, add(abs(x), 1))),
  Gelu: {
    attributes: { approximate: "string" },
    inputs: [1, 1],
    build: ([x], { approximate = "none" }) => {
      const v = x as Value;
      if (approximate === "none") return gelu(v);
      check(approximate === "tanh", "unsupported", `approximate ${approximate} is not supported`);
      const inner = mul(add(v, mul(mul(mul(v, v), v), 0.044715)), Math.sqrt(2 / Math.PI));
      return mul(mul(v, 0.5), add(tanh(inner), 1));
    },
  },
  PRelu: {
    inputs: [2, 2],
    build: ([x, slope]) => sub(relu(x as Value), mul(slope as Value, relu(neg(x as Value)))),
  },
  Softmax: oldSoftmax(softmax),
  LogSoftmax: oldSoftmax(logSoftmax),

  // ---- norms ----
  InstanceNormalization: {
    attributes: { epsilon: "float" },
    inputs: [3, 3],
    build: ([x, scale, bias], { epsilon = 1e-5 }) => {
      const v = x as Value;
      const normal = standardised(v, spatialAxes(v), epsilon as number);
      return add(mul(normal, alongChannels(scale as Value, v.rank)), alongChannels(bias as Value, v.rank));
    },
  },
  GroupNormalization: {
    attributes: { epsilon: "float", num_groups: "int", stash_type: "int" },
    inputs: [3, 3],
    build: ([x, scale, bias], { epsilon = 1e-5, num_groups: groups }, { opset }) => {
      const v = x as Value;
      const [n, c] = [v.dim(0), v.dim(1)];
      check(Number.isInteger(c / (groups as number)), "shape", `${c} channels do not split in ${groups} groups`);
      const rows = reshape(v, [n, groups as number, -1]);
      const normal = reshape(standardised(rows, [2], epsilon as number), v.shape);
      // Before opset 21 scale and bias were given for each group.
      const wide = (p: Value) =>
        opset >= 21
          ? p
          : reshape(expand(reshape(p, [groups as number, 1]), [groups as number, c / (groups as number)]), [c]);
      return add(mul(normal, alongChannels(wide(scale as Value), v.rank)), alongChannels(wide(bias as Value), v.rank));
    },
  },
  LpNormalization: {
    attributes: { axis: "int", p: "int" },
    inputs: [1, 1],
    build: ([x], { axis = -1, p = 2 }) => {
      const v = x as Value;
      const axes = [axis as number];
      if (p === 1) return div(v, reduceSum(abs(v), { axes }));
      check(p === 2, "attribute", `p is ${p}`);
      return div(v, sqrt(reduceSum(mul(v, v), { axes })));
    },
  },

  // ---- reductions and pools ----
  ReduceSumSquare: reducing((x) => mul(x, x)),
  ReduceL1: reducing(abs),
  ReduceLogSum: reducing((x) => x, log),
  GlobalMaxPool: { inputs: [1, 1], build: ([x]) => reduceMax(x as Value, { axes: spatialAxes(x as Value) }) },
  Max: joined((a, b) => max(a, b)),
  Min: joined((a, b) => min(a, b)),
  Mean: { inputs: [1, ANY], build: (inputs) => div(sum(inputs, {}), inputs.length) },

  // ---- movement ----
  SpaceToDepth: {
    attributes: { blocksize: "int" },
    inputs: [1, 1],
    build: ([x], { blocksize }) => {
      const [n = 0, c = 0, h = 0, w = 0] = (x as Value).shape;
      const b = blocksize as number;
      const blocks = reshape(x as Value, [n, c, h / b, b, w / b, b]);
      return reshape(transpose(blocks, { perm: [0, 3, 5, 1, 2, 4] }), [n, c * b * b, h / b, w / b]);
    },
  },
  Resize: {
    attributes: {
      antialias: "int",
      axes: "ints",
      coordinate_transformation_mode: "string",
      cubic_coeff_a: "float",
      exclude_outside: "int",
      extrapolation_value: "float",
      keep_aspect_ratio_policy: "string",
      mode: "string",
      nearest_mode: "string",
    },
    inputs: [1, 4],
    build: ([x, second, third, fourth], attributes, { opset }) => {
      const v = x as Value;
      const policy = attributes.keep_aspect_ratio_policy ?? "stretch";
      check(policy === "stretch", "unsupported", `keep_aspect_ratio_policy ${policy} is not supported`);
      const given = opset < 11 ? second : third;
      const scales = isAbsent(given) || (given as Value).size === 0 ? undefined : constantOf(given as Value);
      const axes = ((attributes.axes as readonly number[] | undefined) ?? v.shape.map((_, i) => i)).map((axis) =>
        axis < 0 ? axis + v.rank : axis,
      );
      /** What is given of some axes, of all: the others stay. */
      const ofAll = (given: readonly number[], stays: (axis: number) => number): number[] =>
        v.shape.map((_, axis) => given[axes.indexOf(axis)] ?? stays(axis));
      const factors = scales === undefined ? undefined : ofAll(Array.from(scales.data as Float32Array), () => 1);
      const wanted =
        factors === undefined
          ? ofAll(constantInts(fourth as Value, "the sizes"), (axis) => v.dim(axis))
          : factors.map((factor, i) => Math.floor(v.dim(i) * factor));
      check(
        wanted.length === 4 && wanted[0] === v.dim(0) && wanted[1] === v.dim(1),
        "unsupported",
        `only height and width are resized, not to [${wanted.join(", ")}]`,
      );
      const ratios = [2, 3].map((i) => factors?.[i] ?? wanted[i]! / v.dim(i));
      return resize(v, wanted.slice(2), ratios, {
        antialias: attributes.antialias === 1,
        excludeOutside: attributes.exclude_outside === 1,
        mode: (attributes.mode as string | undefined) ?? "nearest",
        cubicSlope: (attributes.cubic_coeff_a as number | undefined) ?? -0.75,
        coordinate_transformation_mode:
          (attributes.coordinate_transformation_mode as string | undefined) ?? "half_pixel",
        nearest_mode: (attributes.nearest_mode as string | undefined) ?? "round_prefer_floor",
      });
    },
  },
};
