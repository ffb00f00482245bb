/**
 * Ops of integer models as arithmetic in float32 (the model's float32 shadow): an integer is a float32 that holds a whole
 * number, so values are what the integers stand for, and gradients pass through each rounding as if it were none
 * (straight through, Bengio et al. 2013) where the value was not cut off.
 */
import type { DType } from "../onnx/dtype.ts";
import { check } from "../onnx/error.ts";
import { constantOf, isAbsent, type Value } from "../onnx/graph.ts";
import {
  add,
  cast,
  clip,
  conv,
  div,
  matMul,
  max,
  min,
  mul,
  neg,
  reduceMax,
  reduceMin,
  reshape,
  round,
  stopGradient,
  sub,
} from "../ops/index.ts";
import type { Reading } from "./readings.ts";

const ranges: Partial<Record<DType, readonly [low: number, high: number]>> = {
  int8: [-128, 127],
  uint8: [0, 255],
  int16: [-32768, 32767],
  uint16: [0, 65535],
};

/** What makes a model one of integers: its features too, not only its weights. */
const ops = ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"];

/** Whether a file computes on integers. */
export const isQuantized = (nodes: readonly { readonly op: string; readonly domain: string }[]): boolean =>
  nodes.some(({ op, domain }) => domain === "" && ops.includes(op));

const floating = (v: Value): Value => (v.dtype === "float32" ? v : cast(v, { to: "float32" }));

/** A scale or zero point for a value of this rank: of a vector each along the axis. */
const along = (v: Value, rank: number, axis: number): Value => {
  const wide = floating(v);
  if (wide.size === 1) return reshape(wide, []);
  const at = axis < 0 ? axis + rank : axis;
  check(wide.rank === 1 && at >= 0 && at < rank, "unsupported", "scales by blocks are not supported");
  return reshape(
    wide,
    Array.from({ length: rank }, (_, i) => (i === at ? wide.size : 1)),
  );
};

/** The whole number next to x; its gradient is x's. */
const rounded = (x: Value): Value => add(x, stopGradient(sub(round(x), x)));

const quantized = (x: Value, scale: Value, zero: Value | undefined, type: DType, axis: number): Value => {
  const range = ranges[type];
  check(range !== undefined, "unsupported", `quantising to ${type} is not supported`);
  const whole = rounded(div(floating(x), along(scale, x.rank, axis)));
  const moved = zero === undefined ? whole : add(whole, along(zero, x.rank, axis));
  return clip(moved, ...range);
};

const dequantized = (x: Value, scale: Value, zero: Value | undefined, axis: number): Value => {
  const wide = floating(x);
  const centred = zero === undefined ? wide : sub(wide, along(zero, x.rank, axis));
  return mul(centred, along(scale, x.rank, axis));
};

const given = (v: Value | undefined): Value | undefined => (v === undefined || isAbsent(v) ? undefined : v);

/** The integer type that a zero point says. */
const typeOf = (zero: Value | undefined, otherwise: DType = "uint8"): DType => {
  if (zero === undefined) return otherwise;
  check(constantOf(zero) !== undefined, "unsupported", "its zero point is not a constant");
  return zero.dtype;
};

const convolution = {
  auto_pad: "string",
  dilations: "ints",
  group: "int",
  kernel_shape: "ints",
  pads: "ints",
  strides: "ints",
} as const;

/** A convolution of float32 by the attributes of one of integers. */
const convolved = (x: Value, w: Value, attributes: object): Value => conv(x, w, { ...attributes });

const centred = (x: Value | undefined, zero: Value | undefined, axis: number): Value => {
  const wide = floating(x as Value);
  return zero === undefined ? wide : sub(wide, along(zero, wide.rank, axis));
};

export const quantizing: Readonly<Record<string, Reading>> = {
  QuantizeLinear: {
    attributes: { axis: "int", saturate: "int", output_dtype: "dtype" },
    inputs: [2, 3],
    build: ([x, scale, third], { axis = 1, output_dtype: type }) => {
      const zero = given(third);
      return quantized(x as Value, scale as Value, zero, typeOf(zero, type as DType | undefined), axis as number);
    },
  },
  DequantizeLinear: {
    attributes: { axis: "int" },
    inputs: [2, 3],
    build: ([x, scale, zero], { axis = 1 }) => dequantized(x as Value, scale as Value, given(zero), axis as number),
  },
  /** Scale and zero point are those of the values at hand; no gradient flows into them. */
  DynamicQuantizeLinear: {
    inputs: [1, 1],
    build: ([x]) => {
      const v = x as Value;
      const axes = v.shape.map((_, axis) => axis);
      const low = min(stopGradient(reduceMin(v, { axes, keepdims: 0 })), 0);
      const high = max(stopGradient(reduceMax(v, { axes, keepdims: 0 })), 0);
      const scale = div(sub(high, low), 255);
      const zero = clip(round(neg(div(low, scale))), 0, 255);
      return [clip(add(rounded(div(v, scale)), zero), 0, 255), scale, zero];
    },
  },
  ConvInteger: {
    attributes: convolution,
    inputs: [2, 4],
    build: ([x, w, xZero, wZero], attributes) =>
      convolved(centred(x, given(xZero), 1), centred(w, given(wZero), 0), attributes),
  },
  MatMulInteger: {
    inputs: [2, 4],
    build: ([a, b, aZero, bZero]) =>
      matMul(centred(a, given(aZero), (a as Value).rank - 2), centred(b, given(bZero), (b as Value).rank - 1)),
  },
  QLinearConv: {
    attributes: convolution,
    inputs: [8, 9],
    build: (inputs, attributes) => {
      const [x, xScale, xZero, w, wScale, wZero, yScale, yZero, bias] = inputs as [
        ...[Value, Value, Value, Value, Value, Value, Value, Value],
        Value | undefined,
      ];
      const y = convolved(dequantized(x, xScale, xZero, 1), dequantized(w, wScale, wZero, 0), attributes);
      const b = given(bias);
      const full =
        b === undefined
          ? y
          : add(y, reshape(mul(floating(b), mul(along(xScale, 1, 0), along(wScale, 1, 0))), [1, b.size, 1, 1]));
      return quantized(full, yScale, yZero, typeOf(yZero), 1);
    },
  },
  QLinearMatMul: {
    inputs: [8, 8],
    build: (inputs) => {
      const [a, aScale, aZero, b, bScale, bZero, yScale, yZero] = inputs as [
        ...[Value, Value, Value, Value, Value, Value, Value, Value],
      ];
      const y = matMul(dequantized(a, aScale, aZero, a.rank - 2), dequantized(b, bScale, bZero, b.rank - 1));
      return quantized(y, yScale, yZero, typeOf(yZero), y.rank - 1);
    },
  },
};
