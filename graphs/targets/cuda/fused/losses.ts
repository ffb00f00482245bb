/** What losses do to matrices of similarities and logits, and to lists of views. */
import type { Type } from "../../../onnx/graph.ts";
import { sizeOf } from "../../../onnx/tensor.ts";
import {
  axisOf,
  concat,
  type OpDefinition,
  type Reduction,
  reduceLogSumExp,
  reduceLogSumExpGrad,
  split,
} from "../../../ops/index.ts";
import type { Layout, Lowered } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { logSumExp, logSumExpGrad } from "../kernels/log-sum-exp.ts";

/** Whether a reduction is over the last axis, and that one alone, of a value in float32. */
const isOfRows = ({ dtype, shape }: Type, { axes }: Reduction): boolean => {
  const reduced = (axes ?? shape.map((_, i) => i)).map((axis) => axisOf(axis, shape.length));
  return dtype === "float32" && shape.length > 0 && reduced.join() === String(shape.length - 1);
};

const reduction: Lowering = ({ inputs, attributes }) => {
  const [x] = inputs as [Lowered];
  const { keepdims = 1 } = attributes as Reduction;
  return isOfRows(x.type, attributes) ? [logSumExp(x.plain, { keepdims })] : undefined;
};

const reductionGrad: Lowering = ({ inputs, attributes }) => {
  const [x, y, dy] = inputs as [Lowered, Lowered, Lowered];
  return isOfRows(x.type, attributes) ? [logSumExpGrad(x.plain, y.plain, dy.plain)] : undefined;
};

/** Pieces that onnxruntime's kernels for pieces of one size have room for. */
const MOST_PIECES = 32;
/** Elements of the whole: more take longer to read and write once more than what that saves. */
const MOST_ELEMENTS = 1 << 22;

/**
 * The size along an axis of equal pieces that make up parts of different ones; undefined where they are equal already. For
 * different ones onnxruntime copies four tables from the host in each Concat and Split, for equal ones none.
 */
const pieceOf = (parts: readonly Type[], axis: number): number | undefined => {
  if (parts.reduce((sum, { shape }) => sum + sizeOf(shape), 0) > MOST_ELEMENTS) return undefined;
  const sizes = parts.map(({ shape }) => shape[axis]!);
  const divisor = sizes.reduce((a, b) => {
    let [m, n] = [a, b];
    while (n > 0) [m, n] = [n, m % n];
    return m;
  });
  const pieces = sizes.reduce((sum, size) => sum + size, 0) / divisor;
  return sizes.some((size) => size !== sizes[0]) && pieces <= MOST_PIECES ? divisor : undefined;
};

/** Cut along an axis: a value that several join, as steps of an attack do, is cut once. */
const cut = (axis: number, size: number): Layout => ({
  name: `pieces of ${size} along axis ${axis}`,
  pack: (x) => (x.dim(axis) === size ? [x] : split(x, { axis, sizes: Array<number>(x.dim(axis) / size).fill(size) })),
  unpack: (pieces) => (pieces.length === 1 ? pieces[0]! : concat(pieces, { axis })),
});

const joining: Lowering = ({ inputs, attributes, types: [y] }) => {
  const axis = axisOf(attributes.axis as number, (y as Type).shape.length);
  const piece = pieceOf(
    inputs.map(({ type }) => type),
    axis,
  );
  return piece === undefined
    ? undefined
    : [
        concat(
          inputs.flatMap((x) => x.in(cut(axis, piece))),
          { axis },
        ),
      ];
};

const cutting: Lowering = ({ inputs, attributes, types }) => {
  const [x] = inputs as [Lowered];
  const axis = axisOf((attributes.axis as number | undefined) ?? 0, x.type.shape.length);
  const piece = pieceOf(types, axis);
  if (piece === undefined) return undefined;
  const layout = cut(axis, piece);
  const pieces = x.in(layout);
  let used = 0;
  return types.map(({ shape }) => {
    const from = used;
    used += shape[axis]! / piece;
    return { layout, parts: pieces.slice(from, used) };
  });
};

export const lossLowerings: readonly (readonly [OpDefinition, Lowering])[] = [
  [reduceLogSumExp.definition, reduction],
  [reduceLogSumExpGrad.definition, reductionGrad],
  [concat.definition, joining],
  [split.definition, cutting],
];
