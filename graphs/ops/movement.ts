/** Ops that move elements without computing on them. */
import { check } from "../onnx/error.ts";
import { absent, constantInts, ints, isAbsent, scalar, type Type, type Value } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";
import { axisOf, broadcast, defineOp, type Op, type Reader, sameDtype, type Variadic, variadic } from "./define.ts";
import { eachIndex, type Fold, foldAxis, foldEach, foldSame, stridesOf } from "./fold.ts";
// biome-ignore lint/suspicious/noImportCycles: a rule of one family uses ops of another, and rules run only later
import { reduceSum } from "./reduce.ts";

type WithInts = Op<[x: Value, ints: Value]>;

/** Older opsets give an argument as an attribute, newer ones as an input. */
const fromAttribute =
  (name: string): Reader =>
  ([x, given], { [name]: values, ...attributes }) => ({
    inputs: [x as Value, ...(values !== undefined ? [ints(values as readonly number[])] : given ? [given] : [])],
    attributes,
  });

const fixedInts = (values: readonly number[]) => ({
  shape: [values.length],
  values,
  dtype: "int64" as const,
  fixed: true,
});

const reshapeOp: WithInts & Op<[x: Value, shape: Value], { allowzero?: number }> = defineOp<
  [x: Value, shape: Value],
  { allowzero?: number }
>("Reshape", {
  attributes: { allowzero: "int" },
  infer: ([x, shape], { allowzero = 0 }): Type => {
    const wanted = constantInts(shape, "the shape");
    const dims = wanted.map((d, i) => (d === 0 && allowzero === 0 ? x.dim(i) : d));
    const holes = dims.filter((d) => d === -1).length;
    check(holes <= 1, "shape", `the shape [${wanted.join(", ")}] leaves more than one dimension open`);
    const known = dims.reduce((n, d) => (d === -1 ? n : n * d), 1);
    const full = dims.map((d) => (d === -1 ? x.size / known : d));
    check(
      sizeOf(full) === x.size && full.every(Number.isInteger),
      "shape",
      `${x.size} elements do not fill [${wanted.join(", ")}]`,
    );
    return { dtype: x.dtype, shape: full };
  },
  fold: foldSame,
  vjp: ({ inputs: [x], cotangent: dy }) => [reshape(dy, x.shape), null],
  gradcheck: [{ inputs: [{ shape: [2, 6] }, fixedInts([3, -1])], step: 1 }],
});
/** The same elements in another shape; one dimension may be -1. */
export const reshape = Object.assign((x: Value, shape: readonly number[]): Value => reshapeOp(x, ints(shape)), {
  definition: reshapeOp.definition,
});

export const transpose: Op<[x: Value], { perm: readonly number[] }> = defineOp<[x: Value], { perm: readonly number[] }>(
  "Transpose",
  {
    attributes: { perm: "ints" },
    infer: ([x], { perm }) => {
      check(
        perm.length === x.rank && [...perm].sort((a, b) => a - b).every((p, i) => p === i),
        "attribute",
        `[${perm.join(", ")}] does not permute ${x.rank} axes`,
      );
      return { dtype: x.dtype, shape: perm.map((p) => x.dim(p)) };
    },
    // Without perm the axes are reversed.
    read: ([x], attributes) => ({
      inputs: [x as Value],
      attributes: { perm: x?.shape.map((_, i) => (x as Value).rank - 1 - i), ...attributes },
    }),
    fold: ([x], { shape }, attributes) => {
      if (x === undefined) return undefined;
      const perm = attributes.perm as readonly number[];
      const strides = stridesOf(x.shape);
      const out = new Array<number>(sizeOf(shape));
      eachIndex(shape, (index, flat) => {
        out[flat] = x.values[index.reduce((at, n, i) => at + n * (strides[perm[i] as number] as number), 0)] as number;
      });
      return out;
    },
    vjp: ({ cotangent: dy, attributes: { perm } }) => [transpose(dy, { perm: perm.map((_, i) => perm.indexOf(i)) })],
    gradcheck: [{ inputs: [{ shape: [2, 3, 4] }], attributes: { perm: [2, 0, 1] }, step: 1 }],
  },
);

export const concat: Variadic<{ axis: number }> = variadic(
  defineOp<readonly Value[], { axis: number }>("Concat", {
    attributes: { axis: "int" },
    infer: (inputs, { axis }) => {
      const first = inputs[0];
      check(first !== undefined, "shape", "there is nothing to join");
      const at = axisOf(axis, first.rank);
      for (const x of inputs)
        check(
          x.rank === first.rank && x.shape.every((d, i) => i === at || d === first.dim(i)),
          "shape",
          `shapes differ outside axis ${at}`,
        );
      const total = inputs.reduce((n, x) => n + x.dim(at), 0);
      return { dtype: sameDtype(inputs), shape: first.shape.map((d, i) => (i === at ? total : d)) };
    },
    fold: (inputs, { shape }, attributes) => {
      const axis = foldAxis(attributes, shape.length);
      const out: number[] = [];
      for (let outer = 0; outer < sizeOf(shape.slice(0, axis)); outer++)
        for (const x of inputs) {
          const run = sizeOf(x.shape.slice(axis));
          out.push(...x.values.slice(outer * run, (outer + 1) * run));
        }
      return out;
    },
    vjp: ({ inputs, cotangent: dy, attributes: { axis } }) =>
      split(dy, { axis, sizes: inputs.map((x) => x.dim(axis)) }),
    gradcheck: [{ inputs: [{ shape: [2, 1] }, { shape: [2, 3] }], attributes: { axis: -1 }, step: 1 }],
  }),
);

const splitOp: Op<[x: Value, sizes: Value], { axis?: number }> = defineOp<[x: Value, sizes: Value], { axis?: number }>(
  "Split",
  {
    attributes: { axis: "int" },
    readAttributes: { split: "ints", num_outputs: "int" },
    // Pieces of one size, the last one smaller, where the file does not say.
    read: ([x, given], { split: listed, num_outputs, ...attributes }, { outputs }) => {
      const size = (x as Value).dim(axisOf((attributes.axis as number | undefined) ?? 0, (x as Value).rank));
      const each = Math.ceil(size / outputs);
      const sizes = Array.from({ length: outputs }, (_, i) => Math.max(0, Math.min(each, size - i * each)));
      check(num_outputs === undefined || num_outputs === outputs, "attribute", `num_outputs is ${num_outputs}`);
      const pieces = listed === undefined ? (given ?? ints(sizes)) : ints(listed as readonly number[]);
      return { inputs: [x as Value, pieces], attributes };
    },
    infer: ([x, sizes], { axis = 0 }) => {
      const at = axisOf(axis, x.rank);
      const lengths = constantInts(sizes, "the sizes");
      const total = lengths.reduce((n, d) => n + d, 0);
      check(total === x.dim(at), "shape", `sizes add up to ${total}, the axis has ${x.dim(at)}`);
      return lengths.map((length) => ({ dtype: x.dtype, shape: x.shape.map((d, i) => (i === at ? length : d)) }));
    },
    vjp: ({ outputs, cotangents, attributes: { axis = 0 } }) => [
      concat(
        outputs.map((y, i) => cotangents[i] ?? zerosOf(y)),
        { axis },
      ),
      null,
    ],
    gradcheck: [{ inputs: [{ shape: [2, 5] }, fixedInts([2, 3])], attributes: { axis: 1 }, step: 1 }],
  },
);
/** The pieces of the given sizes along an axis. */
export const split = Object.assign(
  (x: Value, { axis, sizes }: { axis: number; sizes: readonly number[] }): readonly Value[] =>
    splitOp.outputs(x, ints(sizes), { axis }),
  { definition: splitOp.definition },
);

const expandOp: WithInts = defineOp<[x: Value, shape: Value]>("Expand", {
  // The shape is no operand of the arithmetic.
  fold: (inputs, type, attributes) => foldEach((a = 0) => a)(inputs.slice(0, 1), type, attributes),
  infer: ([x, shape]) => ({ dtype: x.dtype, shape: broadcast(x.shape, constantInts(shape, "the shape")) }),
  vjp: ({ cotangent: dy }) => [dy, null],
  gradcheck: [{ inputs: [{ shape: [3, 1] }, fixedInts([2, 3, 4])], step: 1 }],
});
/** x broadcast to `shape` (numpy's rule, both ways). */
export const expand = Object.assign((x: Value, shape: readonly number[]): Value => expandOp(x, ints(shape)), {
  definition: expandOp.definition,
});
/** x broadcast to exactly `shape`; x itself where it has it already. */
export const expandAs = (x: Value, shape: readonly number[]): Value =>
  x.rank === shape.length && x.shape.every((d, i) => d === shape[i]) ? x : expand(x, shape);
const zerosOf = (x: Value): Value => expandAs(reduceSum(reshape(x, [-1]), { axes: [0], keepdims: 0 }), x.shape);

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
    const size = x.shape[axis] as number;
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
      at += ((from[i] as number) + n * (by[i] as number)) * (strides[i] as number);
    });
    out[flat] = x.values[at] as number;
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
    return { inputs: [inputs[0] as Value, ...parts], attributes };
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
    const axis = axisOf(along[i] as number, x.rank);
    const step = by[i] as number;
    const size = x.dim(axis);
    const bound = (at: number) => {
      const counted = at < 0 ? at + size : at;
      return step > 0 ? Math.min(Math.max(counted, 0), size) : Math.min(Math.max(counted, -1), size - 1);
    };
    check(step !== 0, "attribute", "a step of 0");
    return { axis, start: bound(start), end: bound(to[i] as number), step };
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
      full[axis] = some[i] as number;
      full[axis + rank] = some[i + along.length] as number;
    });
    return { inputs: [x as Value, ints(full), value ?? absent], attributes };
  },
  infer: ([x, pads], { mode = "constant" }) => {
    check(mode === "constant", "unsupported", `mode ${mode} is not supported, only constant`);
    const p = constantInts(pads, "pads");
    check(p.length === 2 * x.rank, "shape", `${p.length} pads for rank ${x.rank}`);
    return { dtype: x.dtype, shape: x.shape.map((d, i) => d + (p[i] as number) + (p[i + x.rank] as number)) };
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

const unsqueezeOp: WithInts = defineOp<[x: Value, axes: Value]>("Unsqueeze", {
  fold: foldSame,
  readAttributes: { axes: "ints" },
  read: fromAttribute("axes"),
  infer: ([x, axes]) => {
    const at = constantInts(axes, "axes");
    const rank = x.rank + at.length;
    const added = new Set(at.map((a) => axisOf(a, rank)));
    const left = [...x.shape];
    return {
      dtype: x.dtype,
      shape: Array.from({ length: rank }, (_, i) => (added.has(i) ? 1 : (left.shift() as number))),
    };
  },
  vjp: ({ inputs: [x], cotangent: dy }) => [reshape(dy, x.shape), null],
  gradcheck: [{ inputs: [{ shape: [2, 3] }, fixedInts([0, -1])], step: 1 }],
});
export const unsqueeze = Object.assign((x: Value, axes: readonly number[]): Value => unsqueezeOp(x, ints(axes)), {
  definition: unsqueezeOp.definition,
});

const squeezeOp: WithInts = defineOp<[x: Value, axes: Value]>("Squeeze", {
  fold: foldSame,
  minInputs: 1,
  readAttributes: { axes: "ints" },
  read: fromAttribute("axes"),
  infer: ([x, axes]) => {
    const at = isAbsent(axes)
      ? x.shape.flatMap((d, i) => (d === 1 ? [i] : []))
      : constantInts(axes, "axes").map((a) => axisOf(a, x.rank));
    for (const a of at) check(x.dim(a) === 1, "shape", `axis ${a} has ${x.dim(a)} elements, not 1`);
    return { dtype: x.dtype, shape: x.shape.filter((_, i) => !at.includes(i)) };
  },
  vjp: ({ inputs: [x], cotangent: dy }) => [reshape(dy, x.shape), null],
  gradcheck: [{ inputs: [{ shape: [2, 1, 3, 1] }, fixedInts([1, -1])], step: 1 }],
});
export const squeeze = Object.assign((x: Value, axes: readonly number[]): Value => squeezeOp(x, ints(axes)), {
  definition: squeezeOp.definition,
});

export const flatten: Op<[x: Value], { axis?: number }> = defineOp<[x: Value], { axis?: number }>("Flatten", {
  fold: foldSame,
  attributes: { axis: "int" },
  infer: ([x], { axis = 1 }) => {
    const at = axis < 0 ? axis + x.rank : axis;
    return { dtype: x.dtype, shape: [sizeOf(x.shape.slice(0, at)), sizeOf(x.shape.slice(at))] };
  },
  vjp: ({ inputs: [x], cotangent: dy }) => [reshape(dy, x.shape)],
  gradcheck: [{ inputs: [{ shape: [2, 3, 2] }], step: 1 }],
});

const tileOp: WithInts = defineOp<[x: Value, repeats: Value]>("Tile", {
  infer: ([x, repeats]) => {
    const r = constantInts(repeats, "repeats");
    check(r.length === x.rank, "shape", `${r.length} repeats for rank ${x.rank}`);
    return { dtype: x.dtype, shape: x.shape.map((d, i) => d * (r[i] as number)) };
  },
  vjp: ({ inputs: [x, repeats], cotangent: dy }) => {
    const r = constantInts(repeats, "repeats");
    const split = reshape(
      dy,
      x.shape.flatMap((d, i) => [r[i] as number, d]),
    );
    return [reduceSum(split, { axes: x.shape.map((_, i) => 2 * i), keepdims: 0 }), null];
  },
  gradcheck: [{ inputs: [{ shape: [2, 3] }, fixedInts([2, 1])], step: 1 }],
});
export const tile = Object.assign((x: Value, repeats: readonly number[]): Value => tileOp(x, ints(repeats)), {
  definition: tileOp.definition,
});

type DepthToSpace = { blocksize: number; mode?: string };
/** [N, C·b², H, W] to [N, C, H·b, W·b]. */
export const depthToSpace: Op<[x: Value], DepthToSpace> = defineOp<[x: Value], DepthToSpace>("DepthToSpace", {
  attributes: { blocksize: "int", mode: "string" },
  infer: ([x], { blocksize: b }) => {
    const [n = 0, c = 0, h = 0, w = 0] = x.shape;
    check(x.rank === 4 && c % (b * b) === 0, "shape", `${c} channels do not split in blocks of ${b}×${b}`);
    return { dtype: x.dtype, shape: [n, c / (b * b), h * b, w * b] };
  },
  vjp: ({ inputs: [x], cotangent: dy, attributes: { blocksize: b, mode = "DCR" } }) => {
    const [n = 0, c = 0, h = 0, w = 0] = x.shape;
    const blocks = reshape(dy, [n, c / (b * b), h, b, w, b]);
    return [reshape(transpose(blocks, { perm: mode === "DCR" ? [0, 3, 5, 1, 2, 4] : [0, 1, 3, 5, 2, 4] }), x.shape)];
  },
  gradcheck: ["DCR", "CRD"].map((mode) => ({
    inputs: [{ shape: [1, 8, 2, 3] }],
    attributes: { blocksize: 2, mode },
    step: 1,
  })),
});
