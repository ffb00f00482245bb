/** Ops that move elements without computing on them. */
import { check } from "../onnx/error.ts";
import { constantInts, ints, isAbsent, type Type, type Value } from "../onnx/graph.ts";
import { sizeOf } from "../onnx/tensor.ts";
import { axisOf, broadcast, defineOp, type Op, type Reader, sameDtype, type Variadic, variadic } from "./define.ts";
import { eachIndex, foldAxis, foldEach, foldSame, stridesOf } from "./fold.ts";
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

export const fixedInts = (values: readonly number[]) => ({
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
        out[flat] = x.values[index.reduce((at, n, i) => at + n * strides[perm[i]!]!, 0)]!;
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
    return { dtype: x.dtype, shape: x.shape.map((d, i) => d * r[i]!) };
  },
  vjp: ({ inputs: [x, repeats], cotangent: dy }) => {
    const r = constantInts(repeats, "repeats");
    const split = reshape(
      dy,
      x.shape.flatMap((d, i) => [r[i]!, d]),
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
