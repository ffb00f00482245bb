/** What the constants that an op is given make of it, in plain numbers: an op's `fold` rule. */
import { isFloat } from "../onnx/dtype.ts";
import type { Attributes, Type } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";

/** A constant in plain numbers, row-major. */
export interface Numbers extends Type {
  readonly values: readonly number[];
}

/** The elements of the output, row-major; undefined where the rule does not tell them. */
export type Fold = (inputs: readonly Numbers[], type: Type, attributes: Attributes) => readonly number[] | undefined;

export const stridesOf = (shape: readonly number[]): number[] => {
  const strides: number[] = new Array(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * shape[i + 1]!;
  return strides;
};

/** Calls back with the index of each element of a shape. */
export const eachIndex = (shape: readonly number[], visit: (index: readonly number[], flat: number) => void): void => {
  const index = shape.map(() => 0);
  const size = sizeOf(shape);
  for (let flat = 0; flat < size; flat++) {
    visit(index, flat);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = index[axis]! + 1;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
};

/** Acts on each element, inputs broadcast. */
export const foldEach =
  (rule: (...values: readonly number[]) => number): Fold =>
  (inputs, { dtype, shape }) => {
    const strides = inputs.map((x) => {
      const own = stridesOf(x.shape);
      const skipped = shape.length - x.shape.length;
      return shape.map((_, i) => (i < skipped || x.shape[i - skipped] === 1 ? 0 : own[i - skipped]!));
    });
    const out = new Array<number>(sizeOf(shape));
    const round = isFloat(dtype) ? (v: number) => v : Math.trunc;
    eachIndex(shape, (index, flat) => {
      const given = inputs.map((x, k) => {
        let at = 0;
        // biome-ignore lint/plugin: the element is of one of several types, and here of this one
        for (let i = 0; i < index.length; i++) at += index[i]! * ((strides[k] as number[])[i] as number);
        return x.values[at]!;
      });
      out[flat] = round(rule(...given));
    });
    return out;
  };

/** The same elements in another shape. */
export const foldSame: Fold = ([x]) => x?.values;

/** An attribute that names an axis, counted from the front. */
export const foldAxis = ({ axis = 0 }: Attributes, rank: number): number =>
  (axis as number) < 0 ? (axis as number) + rank : (axis as number);
