/**
 * Winograd's F(4×4, 3×3) of Lavin & Gray 2015 (arXiv 1509.09308) in the pixel-major layout, from plain matrix products.
 *
 * A tile of 4×4 outputs needs a window of 6×6 inputs: y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, 36 products for a pair of channels
 * where the direct sum has 144. With T tiles an axis and c images in a chunk,
 *   V [36, T·T·c, Ci] = Bᵀ along rows, then along columns, M = V·Uᵀ with U [36, Co, Ci], y = Aᵀ along both of M.
 * A transform to the windows of an axis is a Conv with one channel (kernel 6, stride 4, Bᵀ's rows as filters); one from
 * them is a product with Aᵀ, after which one gather puts the pixels in order.
 * Measured by `advcl bench --what lowerings`; rounding is about ten times that of the direct sum.
 */
import { constant, type Value } from "../../onnx/graph.ts";
import { tensor } from "../../onnx/tensor.ts";
import { gather, gemm, matMul } from "../../ops/index.ts";
import { fusedMatMul } from "../contrib.ts";
import type { Layout } from "../layout.ts";
import { shaped, slide } from "./contrib.ts";

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
const PLACES = WINDOW * WINDOW;

const matrix = (rows: readonly (readonly number[])[]): Value =>
  constant(tensor("float32", [rows.length, (rows[0] as number[]).length], Float32Array.from(rows.flat())));

/** Kronecker product. */
const kron = (a: readonly (readonly number[])[], b: readonly (readonly number[])[]): number[][] =>
  a.flatMap((ra) => b.map((rb) => ra.flatMap((x) => rb.map((y) => x * y))));

const gg = kron(G, G);
const filterMatrix = matrix(gg);
/** The same for a kernel turned by 180°. */
const turnedFilterMatrix = matrix(gg.map((row) => [...row].reverse()));

/** Filters in Winograd's domain, [36, Co, Ci]. They are computed from weights; weights are computed from their gradient. */
const filterForm = (name: string, transform: Value): Layout => ({
  name,
  pack: (w) => {
    const u = gemm(transform, shaped(w, [w.dim(0) * w.dim(1), 9]), { transB: 1 });
    return [shaped(u, [PLACES, w.dim(0), w.dim(1)])];
  },
  unpack: ([u], { shape }) => shaped(gemm(shaped(u as Value, [PLACES, -1]), transform, { transA: 1 }), shape),
});
/** U = G w Gᵀ for the convolution, which takes it transposed; a gradient dU goes back as Gᵀ dU G. */
export const winogradFilter = filterForm("winograd-filter", filterMatrix);
/** The same of the kernel turned by 180°, for the gradient to the input. */
export const winogradTurned = filterForm("winograd-turned", turnedFilterMatrix);

/** Tiles along an axis. */
export const tilesOf = (size: number): number => Math.ceil(size / TILE);
const dense = (size: number): boolean => tilesOf(size) <= 2;

const cached = <T>(make: (size: number) => T): ((size: number) => T) => {
  const known = new Map<number, T>();
  return (size) => {
    const found = known.get(size) ?? make(size);
    known.set(size, found);
    return found;
  };
};

/** [6T, size]: row k·T + t holds what place k of tile t takes from each pixel; `first` is a tile's first pixel. */
const denseMatrix = (rows: readonly (readonly number[])[], first: number, size: number): number[][] => {
  const tiles = tilesOf(size);
  return rows.flatMap((row) =>
    Array.from({ length: tiles }, (_, t) => Array.from({ length: size }, (_, at) => row[at - (TILE * t + first)] ?? 0)),
  );
};
const turned = (rows: readonly (readonly number[])[]): number[][] =>
  (rows[0] as number[]).map((_, i) => rows.map((row) => row[i]!));

const denseInput = cached((size) => matrix(denseMatrix(BT, -1, size)));
const denseOutputGrad = cached((size) => matrix(denseMatrix(turned(AT), 0, size)));

const filtersOf = (rows: readonly (readonly number[])[]): Value =>
  reshapeConstant(rows, [rows.length, 1, 1, (rows[0] as number[]).length, 1]);
const reshapeConstant = (rows: readonly (readonly number[])[], shape: readonly number[]): Value =>
  constant(tensor("float32", shape, Float32Array.from(rows.flat())));
const windowFilters = filtersOf(BT);
const tileFilters = filtersOf(turned(AT));
const tileOutput = matrix(AT);

/** Bᵀ along the size of [n, a, size, b]: [n, 6, a, T, b]; where a is 1 also as a product. */
const toWindows = (x: Value, size: number): Value => {
  const [n, a, , b] = x.shape as [number, number, number, number];
  const tiles = tilesOf(size);
  if (dense(size) && a === 1)
    return shaped(matMul(denseInput(size), shaped(x, [n, size, b])), [n, WINDOW, 1, tiles, b]);
  const pads = [1, TILE * tiles + 1 - size] as const;
  return slide(x, windowFilters, { kernel: WINDOW, stride: TILE, pads });
};

/** A along the size of [n, a, size, b]: [n, 6, a, T, b]. */
const toPlaces = (x: Value, size: number): Value => {
  const [n, a, , b] = x.shape as [number, number, number, number];
  const tiles = tilesOf(size);
  if (dense(size) && a === 1)
    return shaped(matMul(denseOutputGrad(size), shaped(x, [n, size, b])), [n, WINDOW, 1, tiles, b]);
  return slide(x, tileFilters, { kernel: TILE, stride: TILE, pads: [0, TILE * tiles - size] });
};

/** A transform along rows, then along columns, of a chunk [H·W, c·C]: [36, T·T'·c, C]. */
const transformed = (
  along: (x: Value, size: number) => Value,
  x: Value,
  [h, w]: readonly [number, number],
  images: number,
): Value => {
  const row = x.dim(1);
  const first = along(shaped(x, [1, 1, h, w * row]), h);
  const second = along(shaped(first, [WINDOW, tilesOf(h), w, row]), w);
  return shaped(second, [PLACES, tilesOf(h) * tilesOf(w) * images, row / images]);
};

const rowOrders = new Map<string, Value>();
/** Where the pixels lie after fromWindows along both axes: [4,4,T,T'] each cut where dense. */
const rowOrder = (h: number, w: number): Value => {
  const key = `${h}×${w}`;
  const known = rowOrders.get(key);
  if (known !== undefined) return known;
  const [th, tw] = [tilesOf(h), tilesOf(w)];
  const order = Array.from({ length: h * w }, (_, i) => {
    const [y, x] = [Math.floor(i / w), i % w];
    const within = (y % TILE) * TILE + (x % TILE);
    return (within * th + Math.floor(y / TILE)) * tw + Math.floor(x / TILE);
  });
  const made = constant(tensor("int32", [h * w], Int32Array.from(order)));
  rowOrders.set(key, made);
  return made;
};

/** y [H·W, c·C] of M [36, T·T'·c, C]. */
const outputTransform = (m: Value, [h, w]: readonly [number, number], images: number): Value => {
  const [th, tw] = [tilesOf(h), tilesOf(w)];
  const row = images * m.dim(-1);
  const first = matMul(tileOutput, shaped(m, [WINDOW, WINDOW * th * tw * row]));
  const second = matMul(tileOutput, shaped(first, [TILE, WINDOW, th * tw * row]));
  const rows = shaped(second, [TILE * TILE * th * tw, row]);
  return th * tw === 1 && h === TILE && w === TILE ? rows : gather(rows, rowOrder(h, w), { axis: 0 });
};

/** Convolution of a chunk [H·W, c·Ci] of c images with a 3×3 kernel, padding 1: [H·W, c·Co]. */
export const winogradConv = (x: Value, u: Value, size: readonly [number, number], images: number): Value =>
  outputTransform(fusedMatMul(transformed(toWindows, x, size, images), u, { transB: 1 }), size, images);

/** Its gradient to the input: the convolution of dy with the turned kernel, [H·W, c·Co] to [H·W, c·Ci]. */
export const winogradGradInput = (dy: Value, u: Value, size: readonly [number, number], images: number): Value =>
  outputTransform(matMul(transformed(toWindows, dy, size, images), u), size, images);

/**
 * Its gradient to the filters, dU [36, Co, Ci] = Σ (A dy Aᵀ)ᵀ·V over tiles and images. V is computed anew rather than
 * kept since the forward pass: it is 2¼ times x.
 */
export const winogradGradFilter = (x: Value, dy: Value, size: readonly [number, number], images: number): Value =>
  fusedMatMul(transformed(toPlaces, dy, size, images), transformed(toWindows, x, size, images), { transA: 1 });
