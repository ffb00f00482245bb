import type { Type, Value } from "../onnx/graph.ts";
import { broadcast, defineOp, type Op, sameDtype } from "./define.ts";
import { foldEach } from "./fold.ts";

type Binary = Op<[a: Value, b: Value]>;

const inferCompare = (inputs: readonly [a: Value, b: Value]): Type => {
  sameDtype(inputs);
  return { dtype: "bool", shape: broadcast(inputs[0].shape, inputs[1].shape) };
};

const defineCompare = (name: string, holds: (a: number | undefined, b: number | undefined) => boolean): Binary =>
  defineOp<[a: Value, b: Value]>(name, {
    infer: inferCompare,
    vjp: "zero",
    fold: foldEach((a, b) => Number(holds(a, b))),
  });

export const greater: Binary = defineCompare("Greater", (a = 0, b = 0) => a > b);
export const less: Binary = defineCompare("Less", (a = 0, b = 0) => a < b);
export const equal: Binary = defineCompare("Equal", (a, b) => a === b);
export const greaterOrEqual: Binary = defineCompare("GreaterOrEqual", (a = 0, b = 0) => a >= b);
export const lessOrEqual: Binary = defineCompare("LessOrEqual", (a = 0, b = 0) => a <= b);
/** Whether an element is not a number. */
export const isNan: Op<[x: Value]> = defineOp<[x: Value]>("IsNaN", {
  infer: ([x]) => ({ dtype: "bool", shape: x.shape }),
  vjp: "zero",
});
export const and: Binary = defineCompare("And", (a, b) => a !== 0 && b !== 0);
export const or: Binary = defineCompare("Or", (a, b) => a !== 0 || b !== 0);
