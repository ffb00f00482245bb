/** Ops that act on each element, with numpy's broadcasting. */
import { type DType, dtypes, isFloat } from "../onnx/dtype.ts";
import { check } from "../onnx/error.ts";
import { absent, isAbsent, type Type, type Value } from "../onnx/graph.ts";
import { and, equal, greater, less } from "./compare.ts";
import {
  broadcast,
  defineOp,
  notDifferentiable,
  type Op,
  type Operand,
  type OpSpec,
  sameDtype,
  type Variadic,
  valuesOf,
  variadic,
} from "./define.ts";
import { foldEach } from "./fold.ts";
// biome-ignore lint/suspicious/noImportCycles: a rule of one family uses ops of another, and rules run only later
import { expandAs } from "./movement.ts";

type Unary = Op<[x: Value]>;
type Binary = Op<[a: Value, b: Value]>;

const inferUnary = ([x]: readonly [x: Value]): Type => ({ dtype: x.dtype, shape: x.shape });
const inferBinary = (inputs: readonly [a: Value, b: Value]): Type => ({
  dtype: sameDtype(inputs),
  shape: broadcast(inputs[0].shape, inputs[1].shape),
});
const defineUnary = (name: string, spec: Omit<OpSpec<[x: Value], Record<never, never>>, "infer">): Unary =>
  defineOp<[x: Value]>(name, { infer: inferUnary, ...spec });
const defineBinary = (name: string, spec: Omit<OpSpec<[a: Value, b: Value], Record<never, never>>, "infer">): Binary =>
  defineOp<[a: Value, b: Value]>(name, { infer: inferBinary, ...spec });
const pair = (low: number, high: number, step?: number) => [
  {
    inputs: [
      { shape: [2, 3], low, high },
      { shape: [2, 3], low, high },
    ],
    ...(step && { step }),
  },
  {
    inputs: [
      { shape: [2, 3], low, high },
      { shape: [3], low, high },
    ],
    ...(step && { step }),
  },
];
const one = (low: number, high: number, step?: number) => [
  { inputs: [{ shape: [2, 3], low, high }], ...(step && { step }) },
];

export const add: Binary = defineBinary("Add", {
  fold: foldEach((a = 0, b = 0) => a + b),
  vjp: ({ cotangent: dy }) => [dy, dy],
  gradcheck: pair(-1, 1, 1),
});
export const sub: Binary = defineBinary("Sub", {
  fold: foldEach((a = 0, b = 0) => a - b),
  vjp: ({ cotangent: dy }) => [dy, neg(dy)],
  gradcheck: pair(-1, 1, 1),
});
export const mul: Binary = defineBinary("Mul", {
  fold: foldEach((a = 0, b = 0) => a * b),
  vjp: ({ inputs: [a, b], cotangent: dy }) => [mul(dy, b), mul(dy, a)],
  gradcheck: pair(-1, 1, 1),
});
export const div: Binary = defineBinary("Div", {
  fold: foldEach((a = 0, b = 0) => a / b),
  vjp: ({ inputs: [, b], output: y, cotangent: dy }) => {
    const da = div(dy, b);
    return [da, neg(mul(da, y))];
  },
  gradcheck: pair(0.5, 2),
});
export const pow: Binary = defineBinary("Pow", {
  fold: foldEach((a = 0, b = 0) => a ** b),
  vjp: ({ inputs: [a, b], output: y, cotangent: dy }) => [mul(dy, mul(b, pow(a, sub(b, 1)))), mul(dy, mul(y, log(a)))],
  gradcheck: pair(0.5, 2),
  // Files may give an exponent of another type.
  read: ([a, b], attributes) => ({
    inputs: [a as Value, a?.dtype === b?.dtype ? (b as Value) : cast(b as Value, { to: (a as Value).dtype })],
    attributes,
  }),
});

export const neg: Unary = defineUnary("Neg", {
  fold: foldEach((a = 0) => -a),
  vjp: ({ cotangent: dy }) => [neg(dy)],
  gradcheck: one(-1, 1, 1),
});
export const abs: Unary = defineUnary("Abs", {
  fold: foldEach((a = 0) => Math.abs(a)),
  vjp: ({ inputs: [x], cotangent: dy }) => [mul(dy, sign(x))],
  gradcheck: [...one(0.5, 2), ...one(-2, -0.5)],
});
export const exp: Unary = defineUnary("Exp", {
  vjp: ({ output: y, cotangent: dy }) => [mul(dy, y)],
  gradcheck: one(-1, 1),
});
export const log: Unary = defineUnary("Log", {
  vjp: ({ inputs: [x], cotangent: dy }) => [div(dy, x)],
  gradcheck: one(0.5, 2),
});
export const sqrt: Unary = defineUnary("Sqrt", {
  fold: foldEach((a = 0) => Math.sqrt(a)),
  vjp: ({ output: y, cotangent: dy }) => [div(dy, mul(y, 2))],
  gradcheck: one(0.5, 2),
});
export const reciprocal: Unary = defineUnary("Reciprocal", {
  fold: foldEach((a = 0) => 1 / a),
  vjp: ({ output: y, cotangent: dy }) => [neg(mul(dy, mul(y, y)))],
  gradcheck: one(0.5, 2),
});
export const sigmoid: Unary = defineUnary("Sigmoid", {
  vjp: ({ output: y, cotangent: dy }) => [mul(dy, mul(y, sub(scalarLike(1, y), y)))],
  gradcheck: one(-2, 2),
});
export const tanh: Unary = defineUnary("Tanh", {
  vjp: ({ output: y, cotangent: dy }) => [mul(dy, sub(scalarLike(1, y), mul(y, y)))],
  gradcheck: one(-2, 2),
});
export const erf: Unary = defineUnary("Erf", {
  // d erf(x) = 2/√π · exp(-x²)
  vjp: ({ inputs: [x], cotangent: dy }) => [mul(dy, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI)))],
  gradcheck: one(-2, 2),
});
export const softplus: Unary = defineUnary("Softplus", {
  vjp: ({ inputs: [x], cotangent: dy }) => [mul(dy, sigmoid(x))],
  gradcheck: one(-2, 2),
});
export const sin: Unary = defineUnary("Sin", {
  vjp: ({ inputs: [x], cotangent: dy }) => [mul(dy, cos(x))],
  gradcheck: one(-2, 2),
});
export const cos: Unary = defineUnary("Cos", {
  vjp: ({ inputs: [x], cotangent: dy }) => [neg(mul(dy, sin(x)))],
  gradcheck: one(-2, 2),
});

/** -1, 0 or 1. */
export const sign: Unary = defineUnary("Sign", { vjp: "zero" });
export const floor: Unary = defineUnary("Floor", { fold: foldEach((a = 0) => Math.floor(a)), vjp: "zero" });
export const ceil: Unary = defineUnary("Ceil", { fold: foldEach((a = 0) => Math.ceil(a)), vjp: "zero" });
export const round: Unary = defineUnary("Round", { vjp: "zero" });
export const not: Unary = defineUnary("Not", { fold: foldEach((a) => Number(a === 0)), vjp: "zero" });
export const identity: Unary = defineUnary("Identity", {
  fold: foldEach((a = 0) => a),
  vjp: ({ cotangent: dy }) => [dy],
  gradcheck: one(-1, 1, 1),
});

/** The value, through which no gradient flows. */
export const stopGradient: Unary = defineUnary("stopGradient", { lower: ([x]) => x, vjp: "zero" });

/** max(x, 0); its derivative at 0 is 0, as in PyTorch. */
export const relu: Unary = defineUnary("Relu", {
  vjp: ({ output: y, cotangent: dy }) => [reluGrad(y, dy)],
  gradcheck: [...one(0.5, 2), ...one(-2, -0.5)],
});
/** dy where y = relu(x) is positive, else 0. Inputs: y, dy of one shape. */
export const reluGrad: Op<[y: Value, dy: Value]> = defineOp<[y: Value, dy: Value]>("reluGrad", {
  infer: inferBinary,
  lower: ([y, dy]) => mul(dy, cast(greater(y, 0), { to: dy.dtype })),
  vjp: ({ inputs: [y], cotangent: d }) => [null, reluGrad(y, d)],
  gradcheck: [
    {
      inputs: [
        { shape: [2, 3], low: -1, high: 1, fixed: true },
        { shape: [2, 3], low: -1, high: 1 },
      ],
      step: 1,
    },
  ],
});

export const leakyRelu: Op<[x: Value], { alpha?: number }> = defineOp<[x: Value], { alpha?: number }>("LeakyRelu", {
  attributes: { alpha: "float" },
  infer: inferUnary,
  vjp: ({ inputs: [x], cotangent: dy, attributes: { alpha = 0.01 } }) => [where(greater(x, 0), dy, mul(dy, alpha))],
  gradcheck: [...one(0.5, 2), ...one(-2, -0.5)].map((c) => ({ ...c, attributes: { alpha: 0.1 } })),
});

/** clip(alpha·x + beta, 0, 1). */
export const hardSigmoid: Op<[x: Value], { alpha?: number; beta?: number }> = defineOp<
  [x: Value],
  { alpha?: number; beta?: number }
>("HardSigmoid", {
  attributes: { alpha: "float", beta: "float" },
  infer: inferUnary,
  vjp: ({ output: y, cotangent: dy, attributes: { alpha = 0.2 } }) => [
    mul(mul(dy, alpha), cast(and(greater(y, 0), less(y, 1)), { to: dy.dtype })),
  ],
  gradcheck: one(-2, 2),
});

/** x · clip(x/6 + 1/2, 0, 1). */
export const hardSwish: Unary = defineUnary("HardSwish", {
  firstOpset: 14,
  vjp: ({ inputs: [x], cotangent: dy }) => {
    const slope = clip(add(div(x, 3), 0.5), 0, 1);
    return [mul(dy, where(greater(x, 3), 1, where(less(x, -3), 0, slope)))];
  },
  gradcheck: [...one(-1.4, 1.4), ...one(3.5, 5)],
});

export const min: Binary = defineBinary("Min", {
  fold: foldEach((...values) => Math.min(...values)),
  // At a tie each side takes half, as PyTorch's torch.min(a, b) does.
  vjp: ({ inputs: [a, b], cotangent: dy }) => chosen(less(a, b), equal(a, b), dy),
  gradcheck: [
    {
      inputs: [
        { shape: [2, 3], low: 1, high: 2 },
        { shape: [3], low: 2.5, high: 3 },
      ],
    },
  ],
});
export const max: Binary = defineBinary("Max", {
  fold: foldEach((...values) => Math.max(...values)),
  vjp: ({ inputs: [a, b], cotangent: dy }) => chosen(greater(a, b), equal(a, b), dy),
  gradcheck: [
    {
      inputs: [
        { shape: [2, 3], low: 1, high: 2 },
        { shape: [3], low: 2.5, high: 3 },
      ],
    },
  ],
});
const chosen = (first: Value, tie: Value, dy: Value): [Value, Value] => {
  const da = mul(dy, add(cast(first, { to: dy.dtype }), mul(cast(tie, { to: dy.dtype }), 0.5)));
  return [da, sub(dy, da)];
};

const clipOp: Op<[x: Value, low: Value, high: Value]> = defineOp<[x: Value, low: Value, high: Value]>("Clip", {
  minInputs: 1,
  readAttributes: { min: "float", max: "float" },
  read: (inputs, { min: low, max: high, ...attributes }) => {
    if (low === undefined && high === undefined) return { inputs, attributes };
    const x = inputs[0]!;
    const bound = (value: unknown) => (value === undefined ? absent : (valuesOf([x, value as number])[1] as Value));
    return { inputs: [x, bound(low), bound(high)], attributes };
  },
  infer: ([x, low, high]) => {
    for (const bound of [low, high]) check(isAbsent(bound) || bound.size === 1, "shape", "bounds must be scalars");
    return { dtype: x.dtype, shape: x.shape };
  },
  // Inside the bounds, ends included, as in PyTorch.
  vjp: ({ inputs: [x, low, high], cotangent: dy }) => {
    let dx = dy;
    if (!isAbsent(low)) dx = where(less(x, low), 0, dx);
    if (!isAbsent(high)) dx = where(greater(x, high), 0, dx);
    return [dx, null, null];
  },
  gradcheck: [
    {
      inputs: [
        { shape: [4], values: [-1, 0.2, 0.7, 2] },
        { shape: [], values: [0], fixed: true },
        { shape: [], values: [1], fixed: true },
      ],
    },
  ],
});
/** x limited to [low, high]; a bound may be left out. */
export const clip = Object.assign(
  (x: Value, low?: Operand, high?: Operand): Value =>
    clipOp(...(valuesOf([x, low ?? absent, high ?? absent]) as [Value, Value, Value])),
  { definition: clipOp.definition },
);

const whereOp: Op<[condition: Value, a: Value, b: Value]> = defineOp<[condition: Value, a: Value, b: Value]>("Where", {
  fold: foldEach((condition, a = 0, b = 0) => (condition ? a : b)),
  infer: ([condition, a, b]) => {
    check(condition.dtype === "bool", "dtype", "the condition must be bool");
    return { dtype: sameDtype([a, b]), shape: broadcast(condition.shape, a.shape, b.shape) };
  },
  vjp: ({ inputs: [condition], cotangent: dy }) => [null, where(condition, dy, 0), where(condition, 0, dy)],
  gradcheck: [
    {
      inputs: [
        { shape: [4], values: [1, 0, 0, 1], dtype: "bool", fixed: true },
        { shape: [2, 4], low: -1, high: 1 },
        { shape: [4], low: -1, high: 1 },
      ],
      step: 1,
    },
  ],
});
/** a where the condition holds, else b. Inputs: bool condition, a and b of one dtype. */
export const where = Object.assign(
  (condition: Value, a: Operand, b: Operand): Value => {
    const [first, second] = valuesOf([a, b]) as [Value, Value];
    return whereOp(condition, first, second);
  },
  { definition: whereOp.definition },
);

export const cast: Op<[x: Value], { to: DType }> = defineOp<[x: Value], { to: DType }>("Cast", {
  fold: foldEach((a = 0) => a),
  attributes: { to: "dtype" },
  infer: ([x], { to }) => {
    check(to in dtypes, "dtype", `there is no element type ${to}`);
    return { dtype: to, shape: x.shape };
  },
  vjp: ({ inputs: [x], cotangent: dy, attributes: { to } }) => [
    isFloat(x.dtype) && isFloat(to) ? cast(dy, { to: x.dtype }) : null,
  ],
  gradcheck: [{ inputs: [{ shape: [2, 3], low: -1, high: 1 }], attributes: { to: "float64" }, step: 1 }],
});

/** Sum of any number of values, broadcast. */
export const sum: Variadic<Record<never, never>> = variadic(
  defineOp<readonly Value[]>("Sum", {
    infer: (inputs) => ({ dtype: sameDtype(inputs), shape: broadcast(...inputs.map((x) => x.shape)) }),
    vjp: ({ inputs, cotangent: dy }) => inputs.map(() => dy),
    gradcheck: [{ inputs: [{ shape: [2, 3] }, { shape: [3] }, { shape: [2, 1] }], step: 1 }],
  }),
);

/** x · Φ(x) with the normal distribution's Φ (Hendrycks & Gimpel 2016). */
export const gelu = (x: Value): Value => mul(mul(x, 0.5), add(erf(mul(x, Math.SQRT1_2)), 1));
/** x · sigmoid(x). */
export const silu = (x: Value): Value => mul(x, sigmoid(x));

const scalarLike = (value: number, like: Value): Value => valuesOf([value, like])[0] as Value;

/** Zeros or any other number in the shape and dtype of a value. */
export const fullLike = (x: Value, value: number): Value => expandAs(scalarLike(value, x), x.shape);

const remainder = foldEach((a = 0, b = 0) => a - b * Math.floor(a / b));
export const mod: Op<[a: Value, b: Value], { fmod?: number }> = defineOp<[a: Value, b: Value], { fmod?: number }>(
  "Mod",
  {
    attributes: { fmod: "int" },
    // The sign is the divisor's; with fmod it is the other's.
    fold: (inputs, type, { fmod }) => (fmod === 1 ? undefined : remainder(inputs, type, {})),
    infer: inferBinary,
    vjp: notDifferentiable("the remainder jumps; use it on integers"),
  },
);
