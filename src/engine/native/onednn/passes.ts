/** Passes over tensors of one shape: what is done behind a product or a sum is done of each element while it is at hand. */
import type { Mapped } from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import {
  DIFF_DST,
  DIFF_SCALE,
  DIFF_SHIFT,
  DIFF_SRC,
  DST,
  MEAN,
  postOperand,
  SCALE,
  SRC,
  SRC_1,
  VARIANCE,
} from "./arguments.ts";
import type { Maker, Operand, Operation, Run, Type } from "./maker.ts";

/** `dnnl_alg_kind_t`. */
const [ADD, MUL, MAX, MIN] = [0x1fff0, 0x1fff1, 0x1fff2, 0x1fff3] as const;
const [RELU, LINEAR, CLIP] = [0x20, 0x26, 0x2e] as const;

/** Types of what a map of rows reads and makes; rows are float32. */
export interface MapTypes {
  readonly x: Type;
  readonly plus: Type;
  readonly times: Type;
  readonly result: Type;
}

/** Times this, any positive number but a subnormal one is about 1 or more. */
const HUGE = 1e38;

/** The tensors of what is done behind a pass. */
const operandsOf = (after: readonly Operation[]): readonly Operand[] =>
  after.flatMap(([, operand, beta], i): Operand[] => (beta === undefined ? [[postOperand(i), operand]] : []));

/**
 * A product with a row, and what follows it as operations behind the same pass. oneDNN has fast code for results of the first factor's
 * type alone: another type comes of ones of it, the last operand, times x, and the row is the first of the operations.
 */
export const rowMap = (maker: Maker, does: Mapped, rows: number, columns: number, types: MapTypes): Run => {
  const { term, plus, activation, times, gain } = does;
  const matrix = (height: number, type: Type = "float32") =>
    maker.tensor({ dims: [height, columns], strides: [columns, 1], type });
  const row = matrix(1);
  const [whole, result] = [matrix(rows, types.x), matrix(rows, types.result)];
  const direct = types.x === types.result;
  const after: Operation[] = [];
  if (!direct) after.push([MUL, row]);
  if (term === 1) after.push([ADD, row]);
  if (plus === 1) after.push([ADD, matrix(rows, types.plus)]);
  if (activation === "relu") after.push([RELU, 0, 0]);
  if (activation === "positive") after.push([LINEAR, HUGE, 0], [CLIP, 0, 1]);
  if (times === 1) after.push([MUL, matrix(rows, types.times)]);
  if (gain === 1) after.push([MUL, row]);
  const operands = operandsOf(after);
  if (direct)
    return maker.bound(maker.product(whole, row, after), [[SRC, whole], [SRC_1, row], ...operands, [DST, result]]);
  return maker.bound(maker.product(result, whole, after), [[SRC_1, whole], ...operands, [DST, result], [SRC, result]]);
};

/**
 * The gradient of a batch norm of mean 0 and variance 1 over pixels, where each column is a channel: to its shift the sums of y, to its
 * scale those of y·x. That to its input is not read.
 */
export const rowSums = (
  maker: Maker,
  { rows, columns, type }: { readonly rows: number; readonly columns: number; readonly type: Type },
  zeros: bigint,
  ones: bigint,
): Run => {
  const pixels = maker.tensor({
    dims: [1, columns, rows, 1],
    strides: [rows * columns, 1, columns, columns],
    type,
  });
  const row = maker.tensor({ dims: [columns], strides: [1], type: "float32" });
  const run = maker.bound(maker.normGradient(pixels), [
    [DIFF_DST, pixels],
    [SRC, pixels],
    [DIFF_SRC, pixels],
    [DIFF_SHIFT, row],
    [DIFF_SCALE, row],
    [SCALE, row],
    [MEAN, row],
    [VARIANCE, row],
  ]);
  return (...addresses) => run(...addresses, ones, zeros, ones);
};

/** Times this twice, any number but 0 is at least 1 or at most -1: 1.4e-45, the smallest, becomes 1.4e15. */
export const FAR = 1e30;

/** `boundedStep` over `size` pixels: `far` holds FAR; then the gradient, x, least, most and the result. */
export const boundedStep = (maker: Maker, size: number, stepSize: number, far: bigint): Run => {
  const pixels = maker.tensor({ dims: [1, size], strides: [size, 1], type: "float32" });
  const one = maker.tensor({ dims: [1, 1], strides: [1, 1], type: "float32" });
  const after: readonly Operation[] = [
    [LINEAR, FAR, 0],
    [CLIP, -1, 1],
    [LINEAR, stepSize, 0],
    [ADD, pixels],
    [MAX, pixels],
    [MIN, pixels],
    [CLIP, 0, 1],
  ];
  const run = maker.bound(maker.product(pixels, one, after), [
    [SRC_1, one],
    [SRC, pixels],
    ...operandsOf(after),
    [DST, pixels],
  ]);
  return (...addresses) => run(far, ...addresses);
};
