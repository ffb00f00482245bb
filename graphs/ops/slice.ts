/** Slice and Pad: parts of a value, and what lies around it. */
import { check } from "../onnx/error.ts";
import { absent, constantInts, ints, isAbsent, scalar, type Value } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";
import { axisOf, defineOp, type Op } from "./define.ts";
import { eachIndex, type Fold, stridesOf } from "./fold.ts";
import { fixedInts, reshape } from "./movement.ts";

interface Range {
  readonly axis: number;
  readonly start: number;
  /** Exclusive; left out it reaches the end. */
  readonly end?: number;
  readonly step?: number;
}
const END = 2 ** 31 - 1;

/** Elements of the slice, from constant starts, ends, axes and steps. */
const foldSlice: Fold = ([x, starts, ends, axes, steps], { shape }) => {
  if (x === undefined || starts === undefined || ends === undefined) return undefined;
  const from = x.shape.map(() => 0);
  const by = x.shape.map(() => 1);
  starts.values.forEach((start, i) => {
    const given = axes?.values[i] ?? i;
    const axis = given < 0 ? given + x.shape.length : given;
    const size = x.shape[axis]!;
    const step = steps?.values[i] ?? 1;
    const counted = start < 0 ? start + size : start;
    from[axis] = step > 0 ? Math.min(Math.max(counted, 0), size) : Math.min(Math.max(counted, -1), size - 1);
    by[axis] = step;
  });
  const strides = stridesOf(x.shape);
  const out = new Array<number>(sizeOf(shape));
  eachIndex(shape, (index, flat) => {
    let at = 0;
    index.forEach((n, i) => {
      at += (from[i]! + n * by[i]!) * strides[i]!;
    });
    out[flat] = x.values[at]!;
  });
  return out;
};

const sliceOp: Op<[x: Value, starts: Value, ends: Value, axes: Value, steps: Value]> = defineOp<
  [x: Value, starts: Value, ends: Value, axes: Value, steps: Value]
>("Slice", {
  minInputs: 3,
  readAttributes: { starts: "ints", ends: "ints", axes: "ints" },
  read: (inputs, { starts, ends, axes, ...attributes }) => {
    if (starts === undefined) return { inputs, attributes };
    const parts = [starts, ends, axes].map((part) => (part === undefined ? absent : ints(part as readonly number[])));
    return { inputs: [inputs[0]!, ...parts], attributes };
  },
  fold: foldSlice,
  infer: ([x, ...parts]) => ({ dtype: x.dtype, shape: sliceShape(x, rangesOf(x, parts)) }),
  vjp: ({ inputs: [x, ...parts], cotangent: dy }) => [sliceGrad(x, rangesOf(x, parts), dy), null, null, null, null],
  gradcheck: [
    {
      inputs: [{ shape: [5, 6] }, fixedInts([1, -2]), fixedInts([4, -7]), fixedInts([0, 1]), fixedInts([2, -2])],
      step: 1,
    },
    { inputs: [{ shape: [5, 6] }, fixedInts([0]), fixedInts([5]), fixedInts([0]), fixedInts([3])], step: 1 },
  ],
});
/** Ranges of a Slice with nothing left open; an end of -1 is before the first element. */
export const rangesOf = (x: Value, [starts, ends, axes, steps]: readonly (Value | undefined)[]): Required<Range>[] => {
  const from = constantInts(starts as Value, "starts");
  const to = constantInts(ends as Value, "ends");
  const along = isAbsent(axes) ? from.map((_, i) => i) : constantInts(axes as Value, "axes");
  const by = isAbsent(steps) ? from.map(() => 1) : constantInts(steps as Value, "steps");
  return from.map((start, i) => {
    const axis = axisOf(along[i]!, x.rank);
    const step = by[i]!;
    const size = x.dim(axis);
    const bound = (at: number) => {
      const counted = at < 0 ? at + size : at;
      return step > 0 ? Math.min(Math.max(counted, 0), size) : Math.min(Math.max(counted, -1), size - 1);
    };
    check(step !== 0, "attribute", "a step of 0");
    return { axis, start: bound(start), end: bound(to[i]!), step };
  });
};
const lengthOf = ({ start, end, step }: Required<Range>): number => Math.max(0, Math.ceil((end - start) / step));
const sliceShape = (x: Value, ranges: readonly Required<Range>[]): number[] =>
  x.shape.map((d, axis) => {
    const range = ranges.find((r) => r.axis === axis);
    return range === undefined ? d : lengthOf(range);
  });
/** Spreads dy back over x: zeros between (for steps), around (for the ends), reversed for negative steps. */
const sliceGrad = (x: Value, ranges: readonly Required<Range>[], dy: Value): Value =>
  ranges.reduce((d, range) => {
    const { axis, start, step } = range;
    const n = lengthOf(range);
    const stride = Math.abs(step);
    let out = step < 0 ? slice(d, [{ axis, start: -1, end: -END, step: -1 }]) : d;
    const first = step < 0 ? start + (n - 1) * step : start;
    if (stride > 1) {
      const shape = [...out.shape];
      shape.splice(axis + 1, 0, 1);
      out = pad(reshape(out, shape), { begin: {}, end: { [axis + 1]: stride - 1 } });
      shape.splice(axis, 2, n * stride);
      out = reshape(out, shape);
      if (stride > 1) out = slice(out, [{ axis, start: 0, end: (n - 1) * stride + 1 }]);
    }
    const used = (n - 1) * stride + 1;
    return pad(out, { begin: { [axis]: first }, end: { [axis]: x.dim(axis) - first - used } });
  }, dy);

/** Parts of x along some axes: [start, end) with a step, counted as in Python. */
export const slice = Object.assign(
  (x: Value, ranges: readonly Range[]): Value =>
    sliceOp(
      x,
      ints(ranges.map((r) => r.start)),
      ints(ranges.map((r) => r.end ?? END)),
      ints(ranges.map((r) => r.axis)),
      ints(ranges.map((r) => r.step ?? 1)),
    ),
  { definition: sliceOp.definition },
);

const padOp: Op<[x: Value, pads: Value, value: Value], { mode?: string }> = defineOp<
  [x: Value, pads: Value, value: Value],
  { mode?: string }
>("Pad", {
  attributes: { mode: "string" },
  minInputs: 2,
  readAttributes: { pads: "ints", value: "float" },
  read: ([x, given, value, axes], { pads: listed, value: filler, ...attributes }) => {
    const rank = (x as Value).rank;
    if (listed !== undefined) {
      const scalarFiller = filler === undefined ? absent : scalar(filler as number, (x as Value).dtype);
      return { inputs: [x as Value, ints(listed as readonly number[]), scalarFiller], attributes };
    }
    if (isAbsent(axes)) return { inputs: [x as Value, given as Value, ...(value ? [value] : [])], attributes };
    // Pads of some axes only.
    const along = constantInts(axes as Value, "axes").map((axis) => axisOf(axis, rank));
    const some = constantInts(given as Value, "pads");
    const full = new Array<number>(2 * rank).fill(0);
    along.forEach((axis, i) => {
      full[axis] = some[i]!;
      full[axis + rank] = some[i + along.length]!;
    });
    return { inputs: [x as Value, ints(full), value ?? absent], attributes };
  },
  infer: ([x, pads], { mode = "constant" }) => {
    check(mode === "constant", "unsupported", `mode ${mode} is not supported, only constant`);
    const p = constantInts(pads, "pads");
    check(p.length === 2 * x.rank, "shape", `${p.length} pads for rank ${x.rank}`);
    return { dtype: x.dtype, shape: x.shape.map((d, i) => d + p[i]! + p[i + x.rank]!) };
  },
  vjp: ({ inputs: [, pads], cotangent: dy }) => [
    padOp(dy, ints(constantInts(pads, "pads").map((n) => -n)), absent),
    null,
    null,
  ],
  gradcheck: [{ inputs: [{ shape: [2, 3] }, fixedInts([0, 1, 2, 1])], step: 1 }],
});
/** x with `value` added (or, where negative, elements removed) before and after along some axes. */
export const pad = Object.assign(
  (
    x: Value,
    { begin, end, value = 0 }: { begin: Record<number, number>; end: Record<number, number>; value?: number },
  ): Value => {
    const pads = [...x.shape.map((_, i) => begin[i] ?? 0), ...x.shape.map((_, i) => end[i] ?? 0)];
    return pads.every((p) => p === 0) ? x : padOp(x, ints(pads), value === 0 ? absent : scalar(value, x.dtype));
  },
  { definition: padOp.definition },
);
