/**
 * Winograd's F(m×m, 3×3) of Lavin & Gray 2015 (arXiv 1509.09308) in the pixel-major layout, from plain matrix products.
 *
 * A tile of m×m outputs needs a window of (m+2)×(m+2) inputs: y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A. With m = 4 that is 36 products for a pair of
 * channels where the direct sum has 144; images that tiles of 4 don't fill, of 3×3 or 6×6 pixels, take less products by smaller ones.
 * With T tiles an axis, P = (m+2)² places and c images in a chunk,
 *   V [P, T·T·c, Ci] = Bᵀ along rows, then along columns, M = V·Uᵀ with U [P, Co, Ci], y = Aᵀ along both of M.
 * A transform to the windows of an axis is a Conv with one channel (kernel m+2, stride m, Bᵀ's rows as filters); one from
 * them is a product with Aᵀ, after which one gather puts the pixels in order.
 * Measured by `advcl bench --what lowerings`; rounding is about ten times that of the direct sum.
 */
import { constant, type Value } from "../../onnx/graph.ts";
import { tensor } from "../../onnx/tensor.ts";
import { gather, gemm, matMul } from "../../ops/index.ts";
import { fusedMatMul } from "../contrib.ts";
import type { Layout } from "../layout.ts";
import { shaped, slide } from "./contrib.ts";

type Rows = readonly (readonly number[])[];
type Size = readonly [number, number];

const shapedConstant = (rows: Rows, shape: readonly number[]): Value =>
  constant(tensor("float32", shape, Float32Array.from(rows.flat())));
const matrix = (rows: Rows): Value => shapedConstant(rows, [rows.length, rows[0]!.length]);
/** A row for each filter of `slide`. */
const slidFilters = (rows: Rows): Value => shapedConstant(rows, [rows.length, 1, 1, rows[0]!.length, 1]);

/** Kronecker product. */
const kron = (a: Rows, b: Rows): number[][] =>
  a.flatMap((ra) => b.map((rb) => ra.flatMap((x) => rb.map((y) => x * y))));

const turned = (rows: Rows): number[][] => rows[0]!.map((_, i) => rows.map((row) => row[i]!));

/** Σ aᵢxⁱ times (x - point). */
const timesRoot = (a: readonly number[], point: number): number[] =>
  [...a, 0].map((_, i) => (a[i - 1] ?? 0) - point * (a[i] ?? 0) || 0);

/**
 * Aᵀ [m, m+2], Bᵀ [m+2, m+2] and G [m+2, 3] by Toom and Cook: products of polynomials from their values at m + 1 points and infinity.
 * Bᵀ has the polynomials that are zero at all points but one, and G what those are there as denominators.
 */
const matricesOf = (tile: number): { readonly at: Rows; readonly bt: Rows; readonly g: Rows } => {
  const points = [0, 1, -1, 2, -2].slice(0, tile + 1);
  const others = (point: number) => points.filter((other) => other !== point);
  const finite = points.map((point) => [...others(point).reduce(timesRoot, [1]), 0]);
  return {
    at: Array.from({ length: tile }, (_, k) => [...points.map((point) => point ** k), Number(k === tile - 1)]),
    bt: [...finite, points.reduce(timesRoot, [1])],
    g: [
      ...points.map((point) => {
        const scale = others(point).reduce((product, other) => product * (point - other), 1);
        return [1, point, point ** 2].map((power) => power / scale);
      }),
      [0, 0, 1],
    ],
  };
};

/** Filters in Winograd's domain, [P, Co, Ci]. They are computed from weights; weights are computed from their gradient. */
const filterForm = (name: string, places: number, transform: Value): Layout => ({
  name,
  pack: (w) => {
    const u = gemm(transform, shaped(w, [w.dim(0) * w.dim(1), 9]), { transB: 1 });
    return [shaped(u, [places, w.dim(0), w.dim(1)])];
  },
  unpack: ([u], { shape }) => shaped(gemm(shaped(u as Value, [places, -1]), transform, { transA: 1 }), shape),
});

const cached = <K, T>(make: (key: K) => T): ((key: K) => T) => {
  const known = new Map<K, T>();
  return (key) => {
    const found = known.get(key) ?? make(key);
    known.set(key, found);
    return found;
  };
};

/** The transforms of one size of tile. */
class Winograd {
  /** U = G w Gᵀ for the convolution, which takes it transposed; a gradient dU goes back as Gᵀ dU G. */
  readonly filter: Layout;
  /** The same of the kernel turned by 180°, for the gradient to the input. */
  readonly turned: Layout;
  readonly #tile: number;
  readonly #window: number;
  readonly #output: Value;
  readonly #windowFilters: Value;
  readonly #tileFilters: Value;
  readonly #denseInput: (size: number) => Value;
  readonly #denseOutputGrad: (size: number) => Value;
  readonly #orders = new Map<string, Value>();

  constructor(tile: number) {
    const { at, bt, g } = matricesOf(tile);
    [this.#tile, this.#window] = [tile, tile + 2];
    const gg = kron(g, g);
    this.filter = filterForm(`winograd${tile}-filter`, gg.length, matrix(gg));
    const reversed = gg.map((row) => [...row].reverse());
    this.turned = filterForm(`winograd${tile}-turned`, gg.length, matrix(reversed));
    this.#output = matrix(at);
    this.#windowFilters = slidFilters(bt);
    this.#tileFilters = slidFilters(turned(at));
    this.#denseInput = cached((size) => matrix(this.#dense(bt, -1, size)));
    this.#denseOutputGrad = cached((size) => matrix(this.#dense(turned(at), 0, size)));
  }

  /** Convolution of a chunk [H·W, c·Ci] of c images with a 3×3 kernel, padding 1: [H·W, c·Co]. */
  conv(x: Value, u: Value, size: Size, images: number): Value {
    return this.#outputs(fusedMatMul(this.#windows(x, size, images), u, { transB: 1 }), size, images);
  }

  /** Its gradient to the input: the convolution of dy with the turned kernel, [H·W, c·Co] to [H·W, c·Ci]. */
  gradInput(dy: Value, u: Value, size: Size, images: number): Value {
    return this.#outputs(matMul(this.#windows(dy, size, images), u), size, images);
  }

  /**
   * Its gradient to the filters, dU [P, Co, Ci] = Σ (A dy Aᵀ)ᵀ·V over tiles and images. V is computed anew rather than
   * kept since the forward pass: of tiles of 4 it is 2¼ times x.
   */
  gradFilter(x: Value, dy: Value, size: Size, images: number): Value {
    const places = this.#transformed((part, axis) => this.#toPlaces(part, axis), dy, size, images);
    return fusedMatMul(places, this.#windows(x, size, images), { transA: 1 });
  }

  #windows(x: Value, size: Size, images: number): Value {
    return this.#transformed((part, axis) => this.#toWindows(part, axis), x, size, images);
  }

  /** Tiles along an axis. */
  #tiles(size: number): number {
    return Math.ceil(size / this.#tile);
  }

  /** [(m+2)·T, size]: row k·T + t holds what place k of tile t takes from each pixel; `first` is a tile's first pixel. */
  #dense(rows: Rows, first: number, size: number): number[][] {
    return rows.flatMap((row) =>
      Array.from({ length: this.#tiles(size) }, (_, t) =>
        Array.from({ length: size }, (_, at) => row[at - (this.#tile * t + first)] ?? 0),
      ),
    );
  }

  /** Bᵀ along the size of [n, a, size, b]: [n, m+2, a, T, b]; of two tiles at most, where a is 1, as a product. */
  #toWindows(x: Value, size: number): Value {
    const tiles = this.#tiles(size);
    const pads = [1, this.#tile * tiles + 1 - size] as const;
    return (
      this.#product(this.#denseInput, x, size) ??
      slide(x, this.#windowFilters, { kernel: this.#window, stride: this.#tile, pads })
    );
  }

  /** A along the size of [n, a, size, b]: [n, m+2, a, T, b]. */
  #toPlaces(x: Value, size: number): Value {
    const pads = [0, this.#tile * this.#tiles(size) - size] as const;
    return (
      this.#product(this.#denseOutputGrad, x, size) ??
      slide(x, this.#tileFilters, { kernel: this.#tile, stride: this.#tile, pads })
    );
  }

  #product(dense: (size: number) => Value, x: Value, size: number): Value | undefined {
    const [n, a, , b] = x.shape as [number, number, number, number];
    const tiles = this.#tiles(size);
    if (tiles > 2 || a !== 1) return undefined;
    return shaped(matMul(dense(size), shaped(x, [n, size, b])), [n, this.#window, 1, tiles, b]);
  }

  /** A transform along rows, then along columns, of a chunk [H·W, c·C]: [P, T·T'·c, C]. */
  #transformed(along: (x: Value, size: number) => Value, x: Value, [h, w]: Size, images: number): Value {
    const row = x.dim(1);
    const first = along(shaped(x, [1, 1, h, w * row]), h);
    const second = along(shaped(first, [this.#window, this.#tiles(h), w, row]), w);
    return shaped(second, [this.#window ** 2, this.#tiles(h) * this.#tiles(w) * images, row / images]);
  }

  /** y [H·W, c·C] of M [P, T·T'·c, C]. */
  #outputs(m: Value, [h, w]: Size, images: number): Value {
    const [tile, window] = [this.#tile, this.#window];
    const row = this.#tiles(h) * this.#tiles(w) * images * m.dim(-1);
    const first = matMul(this.#output, shaped(m, [window, window * row]));
    const second = matMul(this.#output, shaped(first, [tile, window, row]));
    const rows = shaped(second, [tile * tile * this.#tiles(h) * this.#tiles(w), images * m.dim(-1)]);
    return h === tile && w === tile ? rows : gather(rows, this.#order(h, w), { axis: 0 });
  }

  /** Where the pixels lie after the transform from windows along both axes: [m,m,T,T'] each cut where tiles reach beyond. */
  #order(h: number, w: number): Value {
    const key = `${h}×${w}`;
    const known = this.#orders.get(key);
    if (known !== undefined) return known;
    const [tile, th, tw] = [this.#tile, this.#tiles(h), this.#tiles(w)];
    const order = Int32Array.from({ length: h * w }, (_, i) => {
      const [y, x] = [Math.floor(i / w), i % w];
      const within = (y % tile) * tile + (x % tile);
      return (within * th + Math.floor(y / tile)) * tw + Math.floor(x / tile);
    });
    const made = constant(tensor("int32", [h * w], order));
    this.#orders.set(key, made);
    return made;
  }
}

/** Sides of tiles; on a tie the earlier, whose rounding is less. */
const TILES = [2, 3, 4];
const winogradWith = cached((tile: number) => new Winograd(tile));

const tilesOf = ([h, w]: Size, tile: number): number => Math.ceil(h / tile) * Math.ceil(w / tile);
/** Products of a pair of channels for an image. */
const productsOf = (size: Size, tile: number): number => tilesOf(size, tile) * (tile + 2) ** 2;
const bestTile = (size: Size): number =>
  TILES.reduce((best, tile) => (productsOf(size, tile) < productsOf(size, best) ? tile : best));

/** The transforms by which images of a size take the least products. */
export const winogradFor = (size: Size): Winograd => winogradWith(bestTile(size));

/** Tiles of an image. */
export const tilesOfImage = (size: Size): number => tilesOf(size, bestTile(size));
