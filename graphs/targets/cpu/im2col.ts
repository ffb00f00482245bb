/**
 * Any convolution without groups in the pixel-major layout, as one gather of rows and one matrix product.
 *
 * A chunk is read as rows [H·W·c, Ci] with a row of zeros behind them, which stands for the padding. The gather lays the
 * k places that a pixel sees side by side, [P·c, k·Ci], and the product with the weights [k·Ci, Co] sums over both. The
 * gradient to the weights is the product of the same rows with dy. The gradient to the input gathers from dy instead:
 * under a stride, input pixels of different phase (row and column modulo the stride) are reached through different
 * places of the kernel, so each phase is a small convolution of its own.
 */
import { constant, filled, type Value } from "../../onnx/graph.ts";
import { tensor } from "../../onnx/tensor.ts";
import { concat, gather, gemm, matMul, transpose } from "../../ops/index.ts";
import type { Layout } from "../layout.ts";
import { shaped } from "./contrib.ts";

/** One convolution's geometry. Sizes are [height, width]. */
export interface Geometry {
  readonly input: readonly [number, number];
  readonly output: readonly [number, number];
  readonly kernel: readonly [number, number];
  readonly pads: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
}

/** Weights [Co, k, Ci], a place's channels side by side. */
export const tapMajorFilter: Layout = {
  name: "tap-major-filter",
  pack: (w) => {
    const taps = w.dim(2) * w.dim(3);
    const flat = shaped(w, [w.dim(0), w.dim(1), taps]);
    return [taps === 1 ? shaped(flat, [w.dim(0), 1, w.dim(1)]) : transpose(flat, { perm: [0, 2, 1] })];
  },
  unpack: ([w], { shape }) => {
    const [co = 0, ci = 0, kh = 0, kw = 0] = shape;
    const taps = shaped(w as Value, [co, kh * kw, ci]);
    return shaped(taps.dim(1) === 1 ? taps : transpose(taps, { perm: [0, 2, 1] }), shape);
  },
};

/** Weights [k·Ci, Co], as their gradient is computed. */
export const columnFilter: Layout = {
  name: "column-filter",
  pack: (w) => [shaped(transpose(shaped(w, [w.dim(0), w.dim(1), -1]), { perm: [2, 1, 0] }), [-1, w.dim(0)])],
  unpack: ([w], { shape }) => {
    const [co = 0, ci = 0, kh = 0, kw = 0] = shape;
    return shaped(transpose(shaped(w as Value, [kh * kw, ci, co]), { perm: [2, 1, 0] }), shape);
  },
};

/** Weights [k·Co, Ci], each place a matrix. */
export const tapFirstFilter: Layout = {
  name: "tap-first-filter",
  pack: (w) => {
    const taps = w.dim(2) * w.dim(3);
    const flat = shaped(w, [w.dim(0), w.dim(1), taps]);
    return [shaped(taps === 1 ? flat : transpose(flat, { perm: [2, 0, 1] }), [taps * w.dim(0), w.dim(1)])];
  },
  unpack: () => {
    throw new Error("internal: weights are never computed in this form");
  },
};

const known = new Map<string, Value | null>();
/** A constant of rows, kept by key so that equal ones are one initializer; null where row i of the source is row i. */
const rowsConstant = (key: string, make: () => Int32Array, identity = -1): Value | null => {
  const found = known.get(key);
  if (found !== undefined) return found;
  const rows = make();
  const made =
    rows.length === identity && rows.every((row, i) => row === i)
      ? null
      : constant(tensor("int32", [rows.length], rows));
  known.set(key, made);
  return made;
};

const describe = (g: Geometry): string =>
  [g.input, g.output, g.kernel, g.pads, g.strides, g.dilations].map((p) => p.join("×")).join(" ");

const zeroRows = new Map<number, Value>();
/** Rows and one of zeros behind them, which stands for the padding. */
export const withZeroRow = (rows: Value): Value => {
  const width = rows.dim(1);
  const zeros = zeroRows.get(width) ?? constant(filled("float32", [1, width], 0));
  zeroRows.set(width, zeros);
  return concat([rows, zeros], { axis: 0 });
};

/** [P·c, k·Ci]: what each output pixel of a chunk [H·W, c·Ci] sees. */
const columns = (x: Value, g: Geometry, images: number): Value => {
  const [h, w] = g.input;
  const taps = g.kernel[0] * g.kernel[1];
  const channels = x.dim(1) / images;
  const outside = h * w * images;
  const index = rowsConstant(
    `columns ${describe(g)} ${images}`,
    () => {
      const [oh, ow] = g.output;
      const index = new Int32Array(oh * ow * images * taps);
      let next = 0;
      for (let p = 0; p < oh * ow; p++)
        for (let n = 0; n < images; n++)
          for (let k = 0; k < taps; k++) {
            const y = Math.floor(p / ow) * g.strides[0] - g.pads[0] + Math.floor(k / g.kernel[1]) * g.dilations[0];
            const z = (p % ow) * g.strides[1] - g.pads[1] + (k % g.kernel[1]) * g.dilations[1];
            index[next++] = y >= 0 && y < h && z >= 0 && z < w ? (y * w + z) * images + n : outside;
          }
      return index;
    },
    outside,
  );
  const rows = shaped(x, [outside, channels]);
  return index === null
    ? rows
    : shaped(gather(withZeroRow(rows), index, { axis: 0 }), [g.output[0] * g.output[1] * images, taps * channels]);
};

/** Forward: chunk [H·W, c·Ci] and weights [Co, k, Ci] to [H'·W', c·Co]. */
export const im2colConv = (x: Value, w: Value, g: Geometry, images: number): Value => {
  const y = gemm(columns(x, g, images), shaped(w, [w.dim(0), w.dim(1) * w.dim(2)]), { transB: 1 });
  return shaped(y, [g.output[0] * g.output[1], images * w.dim(0)]);
};

/** Gradient to the weights, [k·Ci, Co], of one chunk added to what earlier chunks gave. */
export const im2colGradWeight = (x: Value, dy: Value, g: Geometry, images: number, sum: Value | undefined): Value => {
  const rows = shaped(dy, [dy.size / (dy.dim(1) / images), dy.dim(1) / images]);
  const cols = columns(x, g, images);
  return sum === undefined ? gemm(cols, rows, { transA: 1 }) : gemm(cols, rows, sum, { transA: 1 });
};

interface Phase {
  /** Input pixels of this phase, by row and by column. */
  readonly rows: readonly number[];
  readonly columns: readonly number[];
  /** Places of the kernel that reach them. */
  readonly taps: readonly (readonly [number, number])[];
}

const phasesOf = (g: Geometry): Phase[] =>
  Array.from({ length: g.strides[0] * g.strides[1] }, (_, i) => {
    const [py, px] = [Math.floor(i / g.strides[1]), i % g.strides[1]];
    const along = (axis: 0 | 1, phase: number) => ({
      at: Array.from({ length: g.input[axis] }, (_, a) => a).filter((a) => a % g.strides[axis] === phase),
      taps: Array.from({ length: g.kernel[axis] }, (_, k) => k).filter(
        (k) => (phase + g.pads[axis] - k * g.dilations[axis]) % g.strides[axis] === 0,
      ),
    });
    const [y, x] = [along(0, py), along(1, px)];
    return { rows: y.at, columns: x.at, taps: y.taps.flatMap((a) => x.taps.map((b) => [a, b] as const)) };
  });

/** Gradient to the input: chunk [H'·W', c·Co] and weights [k·Co, Ci] to [H·W, c·Ci]. */
export const im2colGradInput = (dy: Value, w: Value, g: Geometry, images: number): Value => {
  const [h, width] = g.input;
  const [oh, ow] = g.output;
  const [co, ci] = [dy.dim(1) / images, w.dim(1)];
  const outside = oh * ow * images;
  const source = shaped(dy, [outside, co]);
  const padded = withZeroRow(source);
  const weights = shaped(w, [g.kernel[0] * g.kernel[1], co, ci]);
  const place = new Int32Array(h * width).fill(-1);
  const parts: Value[] = [];
  let placed = 0;
  phasesOf(g).forEach((phase, i) => {
    const pixels = phase.rows.length * phase.columns.length;
    if (phase.taps.length === 0 || pixels === 0) return;
    const index = rowsConstant(
      `phase ${i} ${describe(g)} ${images}`,
      () => {
        const index = new Int32Array(pixels * images * phase.taps.length);
        let next = 0;
        for (const y of phase.rows)
          for (const x of phase.columns)
            for (let n = 0; n < images; n++)
              for (const [ky, kx] of phase.taps) {
                const a = (y + g.pads[0] - ky * g.dilations[0]) / g.strides[0];
                const b = (x + g.pads[1] - kx * g.dilations[1]) / g.strides[1];
                index[next++] = a >= 0 && a < oh && b >= 0 && b < ow ? (a * ow + b) * images + n : outside;
              }
        return index;
      },
      outside,
    );
    const cols = index === null ? source : shaped(gather(padded, index, { axis: 0 }), [-1, phase.taps.length * co]);
    const taps = phase.taps.map(([a, b]) => a * g.kernel[1] + b);
    const all = taps.every((tap, at) => tap === at) && taps.length === weights.dim(0);
    const used = all ? weights : gather(weights, constant(tensor("int32", [taps.length], Int32Array.from(taps))));
    parts.push(shaped(matMul(cols, shaped(used, [taps.length * co, ci])), [pixels, images * ci]));
    phase.rows.forEach((y, a) => {
      phase.columns.forEach((x, b) => {
        place[y * width + x] = placed + a * phase.columns.length + b;
      });
    });
    placed += pixels;
  });
  // Pixels that no output sees have no gradient: they read a row of zeros behind all others.
  const unseen = place.includes(-1);
  const order = rowsConstant(`order ${describe(g)}`, () => place.map((at) => (at === -1 ? placed : at)), placed);
  const joined = parts.length === 1 ? parts[0]! : concat(parts, { axis: 0 });
  return order === null ? joined : gather(unseen ? withZeroRow(joined) : joined, order, { axis: 0 });
};
