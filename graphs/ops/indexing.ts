/** Ops that pick elements by index. */
import { check } from "../onnx/error.ts";
import { constant, constantInts, ints, type Value } from "../onnx/graph.ts";
import { sizeOf, tensor } from "../onnx/tensor.ts";
import { equal } from "./compare.ts";
import { axisOf, defineOp, notDifferentiable, type Op } from "./define.ts";
import { cast, sub } from "./elementwise.ts";
import { foldAxis } from "./fold.ts";
import { expandAs, reshape } from "./movement.ts";
import { reduceSum } from "./reduce.ts";

type Axis = { axis?: number };

const checkIndices = ({ dtype }: Value): void =>
  check(dtype === "int32" || dtype === "int64", "dtype", "indices must be int32 or int64");

/** Slices of x along an axis, by int indices of any shape, which replaces the axis. */
export const gather: Op<[x: Value, indices: Value], Axis> = defineOp<[x: Value, indices: Value], Axis>("Gather", {
  attributes: { axis: "int" },
  infer: ([x, indices], { axis = 0 }) => {
    const at = axisOf(axis, x.rank);
    checkIndices(indices);
    return { dtype: x.dtype, shape: [...x.shape.slice(0, at), ...indices.shape, ...x.shape.slice(at + 1)] };
  },
  fold: ([x, indices], { shape }, attributes) => {
    if (x === undefined || indices === undefined) return undefined;
    const axis = foldAxis(attributes, x.shape.length);
    const inner = sizeOf(x.shape.slice(axis + 1));
    const size = x.shape[axis]!;
    const out: number[] = [];
    for (let outer = 0; outer < sizeOf(x.shape.slice(0, axis)); outer++)
      for (const at of indices.values) {
        const index = at < 0 ? at + size : at;
        if (!(index >= 0 && index < size)) return undefined;
        for (let i = 0; i < inner; i++) out.push(x.values[(outer * size + index) * inner + i]!);
      }
    return out.length === sizeOf(shape) ? out : undefined;
  },
  vjp: ({ inputs: [x, indices], cotangent: dy, attributes: { axis = 0 } }) => {
    const at = axisOf(axis, x.rank);
    const flat = reshape(dy, [...x.shape.slice(0, at), indices.size, ...x.shape.slice(at + 1)]);
    const spread = expandAs(
      reshape(
        indices,
        x.shape.map((_, i) => (i === at ? indices.size : 1)),
      ),
      flat.shape,
    );
    return [scatterElements(zerosLike(x), spread, flat, { axis: at, reduction: "add" }), null];
  },
  gradcheck: [
    { inputs: [{ shape: [4, 3] }, { shape: [2, 2], values: [0, 3, 1, 3], dtype: "int64", fixed: true }], step: 1 },
    {
      inputs: [{ shape: [2, 4, 3] }, { shape: [3], values: [0, 3, 3], dtype: "int64", fixed: true }],
      attributes: { axis: 1 },
      step: 1,
    },
  ],
});
const zerosLike = (x: Value): Value =>
  expandAs(
    reshape(
      sub(reduceSum(x), reduceSum(x)),
      x.shape.map(() => 1),
    ),
    x.shape,
  );

/** y[i][j] = x[indices[i][j]][j] along the axis; x and indices have one rank. */
export const gatherElements: Op<[x: Value, indices: Value], Axis> = defineOp<[x: Value, indices: Value], Axis>(
  "GatherElements",
  {
    attributes: { axis: "int" },
    infer: ([x, indices], { axis = 0 }) => {
      axisOf(axis, x.rank);
      checkIndices(indices);
      check(x.rank === indices.rank, "shape", "x and indices must have one rank");
      return { dtype: x.dtype, shape: indices.shape };
    },
    vjp: ({ inputs: [x, indices], cotangent: dy, attributes: { axis = 0 } }) => [
      scatterElements(zerosLike(x), indices, dy, { axis, reduction: "add" }),
      null,
    ],
    gradcheck: [
      {
        inputs: [{ shape: [2, 4] }, { shape: [2, 2], values: [0, 3, 2, 2], dtype: "int64", fixed: true }],
        attributes: { axis: 1 },
        step: 1,
      },
    ],
  },
);

type Scatter = { axis?: number; reduction?: string };
export const scatterElements: Op<[x: Value, indices: Value, updates: Value], Scatter> = defineOp<
  [x: Value, indices: Value, updates: Value],
  Scatter
>("ScatterElements", {
  attributes: { axis: "int", reduction: "string" },
  firstOpset: 16,
  infer: ([x, indices, updates]) => {
    check(indices.shape.join() === updates.shape.join(), "shape", "indices and updates must have one shape");
    return { dtype: x.dtype, shape: x.shape };
  },
  vjp: notDifferentiable("the gradient of a scatter is not built"),
});

/** The k largest elements along an axis, in falling order, and their int64 indices. */
const topKOp: Op<[x: Value, k: Value], { axis?: number; largest?: number; sorted?: number }> = defineOp<
  [x: Value, k: Value],
  { axis?: number; largest?: number; sorted?: number }
>("TopK", {
  attributes: { axis: "int", largest: "int", sorted: "int" },
  readAttributes: { k: "int" },
  read: ([x, given], { k, ...attributes }) => ({
    inputs: [x as Value, k === undefined ? (given as Value) : ints([k as number])],
    attributes,
  }),
  infer: ([x, k], { axis = -1 }) => {
    const at = axisOf(axis, x.rank);
    const count = constantInts(k, "k")[0]!;
    check(count <= x.dim(at), "attribute", `k is ${count} but the axis has ${x.dim(at)} elements`);
    const shape = x.shape.map((d, i) => (i === at ? count : d));
    return [
      { dtype: x.dtype, shape },
      { dtype: "int64", shape },
    ];
  },
  vjp: ({ inputs: [x], outputs: [, indices], cotangent: dy, attributes: { axis = -1 } }) => [
    scatterElements(zerosLike(x), indices as Value, dy, { axis, reduction: "add" }),
    null,
  ],
  gradcheck: [
    {
      inputs: [
        { shape: [2, 3], values: [1, 2, 3, 5, 4, 2] },
        { shape: [1], values: [2], dtype: "int64", fixed: true },
      ],
    },
  ],
});
export const topK = Object.assign(
  (x: Value, k: number, axis = -1): { readonly values: Value; readonly indices: Value } => {
    const [values, indices] = topKOp.outputs(x, ints([k]), { axis }) as [Value, Value];
    return { values, indices };
  },
  { definition: topKOp.definition },
);

/**
 * 1 where an int label names the class, else 0: labels [B] to [B, classes]. Compared as numbers of `dtype`, which hold
 * every class exactly: integers would leave a GPU.
 */
export const oneHot = (labels: Value, classes: number, dtype: "float32" | "float64" = "float32"): Value => {
  const range = constant(
    tensor(
      "float32",
      [1, classes],
      Float32Array.from({ length: classes }, (_, i) => i),
    ),
  );
  return cast(equal(cast(reshape(labels, [-1, 1]), { to: dtype }), cast(range, { to: dtype })), { to: dtype });
};
