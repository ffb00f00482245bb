/**
 * Winograd's F(4×4, 3×3) of Lavin & Gray 2015 (arXiv 1509.09308) in the pixel-major layout, from plain matrix products.
 *
 * A tile of 4×4 outputs needs a window of 6×6 inputs: y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, 36 products for a pair of channels
 * where the direct sum has 144. With T tiles an axis and c images in a chunk,
 *   V [6,T,6,T·c,Ci] = Bᵀ along rows, then along columns, M = V·U with U [6,1,6,Ci,Co], y = Aᵀ along both of M.
 * The transforms along an axis are a Conv with one channel (kernel 6, stride 4, Bᵀ's rows as filters) where there are
 * many tiles, and a product with the dense matrix [6T, size] where there are one or two.
 * Measured by `advcl bench --what lowerings`; rounding is about ten times that of the direct sum.
 */
import { constant, type Value } from "../../onnx/graph.ts";
import { tensor } from "../../onnx/tensor.ts";
import { conv, gather, gemm, matMul, reshape } from "../../ops/index.ts";
import type { Layout } from "../layout.ts";
import { fusedMatMul } from "./contrib.ts";

// biome-ignore format: matrices
const BT = [
  [4, 0, -5, 0, 1, 0],
  [0, -4, -4, 1, 1, 0],
  [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0],
  [0, 2, -1, -2, 1, 0],
  [0, 4, 0, -5, 0, 1],
];
// biome-ignore format: matrices
const AT = [
  [1, 1, 1, 1, 1, 0],
  [0, 1, -1, 2, -2, 0],
  [0, 1, 1, 4, 4, 0],
  [0, 1, -1, 8, -8, 1],
];
// biome-ignore format: matrices
const G = [
  [1 / 4, 0, 0],
  [-1 / 6, -1 / 6, -1 / 6],
  [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6],
  [1 / 24, -1 / 12, 1 / 6],
  [0, 0, 1],
];
const TILE = 4;
const WINDOW = 6;

const matrix = (rows: readonly (readonly number[])[]): Value =>
  constant(tensor("float32", [rows.length, (rows[0] as number[]).length], Float32Array.from(rows.flat())));

/** Kronecker product. */
const kron = (a: readonly (readonly number[])[], b: readonly (readonly number[])[]): number[][] =>
  a.flatMap((ra) => b.map((rb) => ra.flatMap((x) => rb.map((y) => x * y))));

const gg = kron(G, G);
const filterMatrix = matrix(gg);
/** The same for a kernel turned by 180°. */
const turnedFilterMatrix = matrix(gg.map((row) => [...row].reverse()));

const filterForm = (name: string, transform: Value): Layout => ({
  name,
  pack: (w) => {
    const u = gemm(transform, reshape(w, [w.dim(0) * w.dim(1), 9]), { transB: 1 });
    return [reshape(u, [WINDOW, 1, WINDOW, w.dim(0), w.dim(1)])];
  },
  unpack: () => {
    throw new Error("internal: a transformed filter is not transformed back");
  },
});
/** U = G w Gᵀ, [6,1,6,Co,Ci], for the convolution (which takes it transposed). */
export const winogradFilter = filterForm("winograd-filter", filterMatrix);
/** The same of the kernel turned by 180°, for the gradient to the input. */
export const winogradTurned = filterForm("winograd-turned", turnedFilterMatrix);

const tilesOf = (size: number): number => Math.ceil(size / TILE);
const dense = (size: number): boolean => tilesOf(size) <= 2;

const cached = <T>(make: (size: number) => T): ((size: number) => T) => {
  const known = new Map<number, T>();
  return (size) => {
    const found = known.get(size) ?? make(size);
    known.set(size, found);
    return found;
  };
};

/** [6T, size]: row k·T + t is window place k of tile t. */
const denseInput = cached((size) => {
  const tiles = tilesOf(size);
  return matrix(
    BT.flatMap((row) =>
      Array.from({ length: tiles }, (_, t) => Array.from({ length: size }, (_, at) => row[at - (TILE * t - 1)] ?? 0)),
    ),
  );
});
/** [size, 6T]. */
const denseOutput = cached((size) => {
  const tiles = tilesOf(size);
  return matrix(
    Array.from({ length: size }, (_, at) =>
      Array.from({ length: WINDOW * tiles }, (_, i) =>
        i % tiles === Math.floor(at / TILE) ? ((AT[at % TILE] as number[])[Math.floor(i / tiles)] as number) : 0,
      ),
    ),
  );
});
const windowFilters = constant(tensor("float32", [WINDOW, 1, WINDOW, 1], Float32Array.from(BT.flat())));
const tileOutput = matrix(AT);

/** Bᵀ along the first of [n, size, rest]: [n, 6, T, rest]. */
const toWindows = (x: Value, n: number, size: number): Value => {
  const rest = x.size / (n * size);
  const tiles = tilesOf(size);
  if (dense(size)) return matMul(denseInput(size), reshape(x, [n, size, rest]));
  const after = TILE * tiles + 1 - size;
  return conv(reshape(x, [n, 1, size, rest]), windowFilters, {
    kernel_shape: [WINDOW, 1],
    strides: [TILE, 1],
    pads: [1, 0, after, 0],
  });
};

/** Aᵀ along the middle of [n, 6, T, rest]: [n, size, rest], or [n, 4, T, rest] where the form is not dense. */
const fromWindows = (m: Value, n: number, size: number): Value => {
  const tiles = tilesOf(size);
  const rest = m.size / (n * WINDOW * tiles);
  return dense(size)
    ? matMul(denseOutput(size), reshape(m, [n, WINDOW * tiles, rest]))
    : matMul(tileOutput, reshape(m, [n, WINDOW, tiles * rest]));
};

const rowOrders = new Map<string, Value>();
/** Where the pixels lie after fromWindows along both axes. */
const rowOrder = (h: number, w: number): Value => {
  const key = `${h}×${w}`;
  const known = rowOrders.get(key);
  if (known !== undefined) return known;
  const place = (at: number, size: number) => (dense(size) ? at : (at % TILE) * tilesOf(size) + Math.floor(at / TILE));
  const width = dense(w) ? w : TILE * tilesOf(w);
  const order = Array.from({ length: h * w }, (_, i) => place(Math.floor(i / w), h) * width + place(i % w, w));
  const made = constant(tensor("int32", [h * w], Int32Array.from(order)));
  rowOrders.set(key, made);
  return made;
};

/** V [6,T,6,T',c·C] of a chunk [H·W, c·C]. */
const inputTransform = (x: Value, h: number, w: number): Value => toWindows(toWindows(x, 1, h), WINDOW * tilesOf(h), w);

/** y [H·W, c·C] of M [6,T,6,T'·c,C]. */
const outputTransform = (m: Value, h: number, w: number, images: number): Value => {
  const along = (size: number) => (dense(size) ? size : TILE * tilesOf(size));
  const y = fromWindows(fromWindows(m, 1, h), along(h), w);
  const rows = reshape(y, [along(h) * along(w), images * m.dim(-1)]);
  return dense(h) && dense(w) ? rows : gather(rows, rowOrder(h, w), { axis: 0 });
};

/** Convolution of a chunk [H·W, c·Ci] of c images with a 3×3 kernel, padding 1: [H·W, c·Co]. */
export const winogradConv = (x: Value, u: Value, [h, w]: readonly [number, number], images: number): Value => {
  const v = inputTransform(x, h, w);
  const rows = tilesOf(w) * images;
  const laid = reshape(v, [WINDOW, tilesOf(h), WINDOW, rows, u.dim(-1)]);
  return outputTransform(fusedMatMul(laid, u, { transB: 1 }), h, w, images);
};

/** Its gradient to the input: the convolution of dy with the turned kernel, [H·W, c·Co] to [H·W, c·Ci]. */
export const winogradGradInput = (dy: Value, u: Value, [h, w]: readonly [number, number], images: number): Value => {
  const v = inputTransform(dy, h, w);
  const rows = tilesOf(w) * images;
  const laid = reshape(v, [WINDOW, tilesOf(h), WINDOW, rows, u.dim(-2)]);
  return outputTransform(matMul(laid, u), h, w, images);
};
