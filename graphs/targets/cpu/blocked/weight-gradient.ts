/**
 * Gradients to the filters in the blocked layout, as one matrix product over all pixels of a chunk.
 *
 * With stride 1 the columns of the kernel shift the input and its rows shift dy the other way, so that the product of
 * [K, kw·Ci] and [K, kh·Co], K the pixels of a chunk, has every place of the kernel, from kw + kh shifted copies instead of kh·kw.
 */
import { constant, type Value } from "../../../onnx/graph.ts";
import { tensor } from "../../../onnx/tensor.ts";
import { add, concat, gather, gemm, matMul, pad, reduceSum } from "../../../ops/index.ts";
import { fusedMatMul } from "../../contrib.ts";
import { shaped } from "../contrib.ts";
import { type Geometry, withZeroRow } from "../im2col.ts";

const known = new Map<string, Value>();
const kept = (key: string, make: () => Value): Value => {
  const value = known.get(key) ?? make();
  known.set(key, value);
  return value;
};

/** Where a pixel at (row, column) of a grid reads: [row, column], or outside of the image. */
type Place = (row: number, column: number) => readonly [number, number];

/**
 * [n·rows·columns, places·C] of a chunk [n,C,H,W]: what each pixel of the grid reads at each of some places. The key names the
 * places, since equal indices are one constant.
 */
const shifted = (
  key: string,
  x: Value,
  block: number,
  [rows, columns]: readonly [number, number],
  places: readonly Place[],
): Value => {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const blocks = c / block;
  const outside = n * blocks * h * w;
  const index = kept(`${key} of ${x.shape.join()}`, () => {
    const at = new Int32Array(n * rows * columns * places.length * blocks);
    let next = 0;
    for (let image = 0; image < n; image++)
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++)
          for (const place of places) {
            const [y, z] = place(row, column);
            const inside = y >= 0 && y < h && z >= 0 && z < w;
            for (let b = 0; b < blocks; b++) at[next++] = inside ? ((image * blocks + b) * h + y) * w + z : outside;
          }
    return constant(tensor("int32", [at.length], at));
  });
  return shaped(gather(withZeroRow(shaped(x, [outside, block])), index, { axis: 0 }), [
    n * rows * columns,
    places.length * c,
  ]);
};

const asIs: Place = (row, column) => [row, column];

/** A chunk's pixels as rows of all channels, [n·H·W, C]. */
const pixelRows = (x: Value, block: number): Value => {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  return c === block ? shaped(x, [n * h * w, c]) : shifted("rows", x, block, [h, w], [asIs]);
};

/** 0 to n - 1. */
export const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Elements of a product from which on the engine cuts it among its threads, and rows that a part of a smaller one has at least. */
const LARGE = 2 ** 14;
const ROWS = 1024;

/** aᵀ·b over the rows of both, added to a sum. A small result is made in parts of the rows, which run side by side. */
const overRows = (a: Value, b: Value, sum: Value | undefined): Value => {
  const rows = a.dim(0);
  let parts = 1;
  if (a.dim(1) * b.dim(1) < LARGE) while (rows % (2 * parts) === 0 && rows / (2 * parts) >= ROWS) parts *= 2;
  if (parts === 1) return sum === undefined ? gemm(a, b, { transA: 1 }) : gemm(a, b, sum, { transA: 1 });
  const cut = (v: Value) => shaped(v, [parts, rows / parts, v.dim(1)]);
  const one = reduceSum(fusedMatMul(cut(a), cut(b), { transA: 1 }), { axes: [0], keepdims: 0 });
  return sum === undefined ? one : add(sum, one);
};

/** [kw·Ci, kh·Co] of one chunk, stride 1, added to what earlier chunks gave. */
export const crossGradWeight = (x: Value, dy: Value, block: number, g: Geometry, sum: Value | undefined): Value => {
  const [kh, kw] = g.kernel;
  const key = `${g.kernel.join("×")} ${g.pads.join("×")} ${g.dilations.join("×")}`;
  const grid = [g.input[0], g.output[1]] as const;
  const right = upTo(kw).map(
    (k): Place =>
      (row, column) => [row, column + k * g.dilations[1] - g.pads[1]],
  );
  const up = upTo(kh).map(
    (k): Place =>
      (row, column) => [row - k * g.dilations[0] + g.pads[0], column],
  );
  const columns = shifted(`columns ${key} ${grid.join("×")}`, x, block, grid, right);
  const rows = shifted(`rows ${key} ${grid.join("×")}`, dy, block, grid, up);
  return overRows(columns, rows, sum);
};

/** [k·Ci, Co] of one chunk at any stride, added to what earlier chunks gave. */
export const stridedGradWeight = (x: Value, dy: Value, block: number, g: Geometry, sum: Value | undefined): Value => {
  const [kh, kw] = g.kernel;
  const places = upTo(kh).flatMap((a) =>
    upTo(kw).map(
      (b): Place =>
        (row, column) => [
          row * g.strides[0] + a * g.dilations[0] - g.pads[0],
          column * g.strides[1] + b * g.dilations[1] - g.pads[1],
        ],
    ),
  );
  const key = `strided ${[g.kernel, g.pads, g.dilations, g.strides, g.output].map((p) => p.join("×")).join(" ")}`;
  const columns = shifted(key, x, block, g.output, places);
  const rows = pixelRows(dy, block);
  return overRows(columns, rows, sum);
};

/** [Co/b, k·Ci, b] of row-major images [n,Ci,H,W] with few channels and dy, stride 1: a product for each image and block. */
export const stemGradWeight = (x: Value, dy: Value, block: number, g: Geometry): Value => {
  const [n, co] = [dy.dim(0), dy.dim(1)];
  const [h, w] = g.input;
  const [oh, ow] = g.output;
  const places = upTo(g.kernel[0]).flatMap((a) =>
    upTo(g.kernel[1]).map((b) => {
      const [down, right] = [a * g.dilations[0] - g.pads[0], b * g.dilations[1] - g.pads[1]];
      return pad(x, { begin: { 2: -down, 3: -right }, end: { 2: oh + down - h, 3: ow + right - w } });
    }),
  );
  const columns = shaped(concat(places, { axis: 1 }), [n, 1, -1, oh * ow]);
  return reduceSum(matMul(columns, shaped(dy, [n, co / block, oh * ow, block])), { axes: [0], keepdims: 0 });
};
