/**
 * Ops that only models for deployment hold. They are written, never differentiated and never read (files that come in have
 * static shapes and floating-point arithmetic), so they stay out of the table of ops.
 */
import { type Attributes, apply, type Definition, scalar, type Type, type Value } from "../onnx/graph.ts";
import { notDifferentiable, reshape } from "../ops/index.ts";

const define = (
  name: string,
  attributes: Definition["attributes"],
  infer: (inputs: readonly Value[], attributes: Attributes) => Type,
): Definition =>
  Object.assign(
    { name, domain: "", attributes, infer: (inputs: readonly Value[], given: Attributes) => [infer(inputs, given)] },
    { minInputs: 0, gradcheck: [], vjp: notDifferentiable(`${name} stands only in models for deployment`) },
  );

const make = (definition: Definition, inputs: readonly Value[], attributes: Attributes = {}): Value =>
  apply(definition, inputs, attributes)[0] as Value;

const quantizeOp = define("QuantizeLinear", { axis: "int" }, ([x, , zero]) => ({
  dtype: (zero as Value).dtype,
  shape: (x as Value).shape,
}));
const dequantizeOp = define("DequantizeLinear", { axis: "int" }, ([x]) => ({
  dtype: "float32",
  shape: (x as Value).shape,
}));

/** round(x / scale) + zero, saturated to the zero point's type. */
export const quantizeLinear = (x: Value, scale: Value, zero: Value): Value => make(quantizeOp, [x, scale, zero]);

/** (x - zero)·scale; a vector of scales goes along `axis`. */
export const dequantizeLinear = (x: Value, scale: Value, zero: Value, axis?: number): Value =>
  make(dequantizeOp, [x, scale, zero], axis === undefined ? {} : { axis });

const shapeOp = define("Shape", { start: "int", end: "int" }, ([x], { start = 0, end }) => ({
  dtype: "int64",
  shape: [((end as number | undefined) ?? (x as Value).rank) - (start as number)],
}));

/** Dimensions of x from axis `start` to before `end`, as they are when the model runs. */
export const dimensions = (x: Value, start: number, end: number): Value => make(shapeOp, [x], { start, end });

/** 0, 1, … to before `limit` (int64 [1], known when the model runs); `count` is how many that are in this graph. */
export const rangeTo = (limit: Value, count: number): Value => {
  const definition = define("Range", {}, () => ({ dtype: "int64", shape: [count] }));
  return make(definition, [scalar(0n, "int64"), reshape(limit, []), scalar(1n, "int64")]);
};

/** The part of x from `starts` to before `ends` along `axes`, known when the model runs; `shape` is its shape in this graph. */
export const sliceTo = (x: Value, starts: Value, ends: Value, axes: Value, shape: readonly number[]): Value =>
  make(
    define("Slice", {}, () => ({ dtype: x.dtype, shape })),
    [x, starts, ends, axes],
  );
