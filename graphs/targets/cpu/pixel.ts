/**
 * The pixel-major layout: rows are pixels, [H·W, c·C], in chunks of c images that are tensors of their own.
 *
 * A linear map over pixels (a Winograd transform, a mean) is then a plain MatMul from the left, one over channels a
 * MatMul from the right on [H·W·c, C], and both without a transpose. Chunks are as large as the cache likes, so that a
 * convolution, the normalisation after it and the statistics of its output run while the chunk is near.
 * Interleaved branches need nothing: what differs by image is a row [1, c·C].
 */
import type { Type } from "../../onnx/graph.ts";
import { add, concat, expand, matMul, mul, transpose } from "../../ops/index.ts";
import type { Layout } from "../layout.ts";
import { type ChunkedLayout, isChunked, rechunk } from "./chunked.ts";
import { row, shaped } from "./contrib.ts";

/** A layout whose tensors hold `chunks[i]` images each, as [H·W, chunks[i]·C]. */
export interface PixelLayout extends ChunkedLayout {
  readonly rows: "pixels";
  /** The layout of the same kind of a value of another type. */
  readonly cut: (type: { readonly shape: readonly number[] }) => PixelLayout;
}

export const isPixel = (layout: Layout): layout is PixelLayout => "rows" in layout;

/** Elements of a chunk at least, 1 MiB: less is all overhead. */
export const CHUNK = 2 ** 18;
/** Rows that a tile place of a Winograd product has at least, or packing the filters costs more than using them. */
const ROWS = 256;
/**
 * Chunks of a value at most. Each costs about 60 nodes a convolution and its gradients, hence session creation time: a step
 * of width 64 at batch 32 takes 4.4, 3.8 and 3.7 s with 4, 8 and 16, and loads in 1.4, 1.7 and 2.6 s; at batch 128 it peaks
 * at 4.85 GB with 4 and at 3.85 GB with 8 (Zen 4, 1 MiB of L2 a core, `advcl bench`).
 */
export const MOST_CHUNKS = 8;

/** How a value [N,C,H,W] is cut; it depends on the shape alone, so that equal shapes meet in equal layouts. */
export const pixelLayout = ({ shape }: { readonly shape: readonly number[] }): PixelLayout => {
  const [n = 0, c = 0, h = 0, w = 0] = shape;
  const least = Math.max(1, CHUNK / (c * h * w), ROWS / (Math.ceil(h / 4) * Math.ceil(w / 4)));
  return pixelChunks(equalChunks(n, Math.max(2 ** Math.floor(Math.log2(least)), Math.ceil(n / MOST_CHUNKS))));
};

/** Chunks of `size` images, the last one of what is left. */
export const equalChunks = (n: number, size: number): number[] =>
  Array.from({ length: Math.ceil(n / size) }, (_, i) => Math.min(size, n - i * size));

/** The layout that cuts so. */
export const pixelChunks = (chunks: readonly number[]): PixelLayout => ({
  name: `pixel(${chunks.length}×${chunks[0]},${chunks.at(-1)})`,
  rows: "pixels",
  cut: pixelLayout,
  chunks,
  take: (from, parts, type) =>
    isChunked(from) && from.pixels !== undefined
      ? rechunk(from.pixels(parts, type), from.chunks, chunks, type.shape[1]!)
      : undefined,
  means: (part) => matMul(row(part.dim(0), 1 / part.dim(0)), part),
  affine: (part, factor, term, plus) => {
    const mapped = add(mul(part, factor), term);
    return plus === undefined ? mapped : add(mapped, plus);
  },
  scaled: (part, factor) => mul(part, factor),
  byRow: (one, part, given) => one(part, given),
  spread: (given, { shape: [, , h = 0, w = 0] }) => expand(given, [h * w, given.dim(1)]),
  pack: (x) => {
    const [n = 0, c = 0, h = 0, w = 0] = x.shape;
    const rows = transpose(shaped(x, [n, c, h * w]), { perm: [2, 0, 1] });
    return rechunk([shaped(rows, [h * w, n * c])], [n], chunks, c);
  },
  unpack: (parts, { shape }: Type) => {
    const [n = 0, c = 0, h = 0, w = 0] = shape;
    const rows = parts.length === 1 ? parts[0]! : concat(parts, { axis: 1 });
    return shaped(transpose(shaped(rows, [h * w, n, c]), { perm: [1, 2, 0] }), shape);
  },
});

/** The finer of two ways to cut the same images. */
export const finer = (a: Pick<ChunkedLayout, "chunks">, b: Pick<ChunkedLayout, "chunks">): readonly number[] =>
  a.chunks.length >= b.chunks.length ? a.chunks : b.chunks;
