/**
 * Where values lie for oneDNN: in the pixel-major layout, whose chunks are volumes of H by W by images to it, and maps
 * factor·x + term by rows with what follows them are one pass.
 */
import type { Value } from "../../../onnx/graph.ts";
import type { CombinedRows, Then } from "../chunked.ts";
import { row } from "../contrib.ts";
import { CHUNK, equalChunks, MOST_CHUNKS, type PixelLayout, pixelChunks } from "../pixel.ts";
import { type Mapped, rowMap, rowSums } from "./ops.ts";

/**
 * Images of a chunk at least. Rows of a matrix unit (AMX) are 16; without one, products of 32 rows take 0.96 of the time at width 32 and as
 * long at width 64 (Zen 4).
 */
export type ChunkImages = 16 | 32;

/** Values of a chunk from which on it has 16 images: caches hold more of it (Zen 4). */
const LARGEST = 2 ** 23;

const fused = (part: Value, factor: Value, term: Value | undefined, { plus, activation, times }: Then): Value => {
  const operands = [part, factor, term, plus, times].filter((value) => value !== undefined);
  const does: Mapped = {
    term: Number(term !== undefined),
    plus: Number(plus !== undefined),
    activation: activation ?? "none",
    times: Number(times !== undefined),
    gain: 0,
    narrow: 0,
  };
  return rowMap(...operands, does);
};

const combined = (part: Value, other: Value, { factor, slope, term }: CombinedRows): Value =>
  rowMap(other, slope, term, part, factor, { term: 1, plus: 1, activation: "none", times: 0, gain: 1, narrow: 0 });

/** A row that a product with it leaves a part as it is. */
const unit = (part: Value): Value => row(part.dim(1), 1);

/** How values [N,C,H,W] are cut in chunks of so many images at least. */
export const volumes = (images: ChunkImages): ((type: { readonly shape: readonly number[] }) => PixelLayout) => {
  const cut = ({ shape }: { readonly shape: readonly number[] }): PixelLayout => {
    const [n = 0, c = 0, h = 0, w = 0] = shape;
    const few = images * c * h * w > LARGEST ? 16 : images;
    const least = 2 ** Math.floor(Math.log2(Math.max(few, CHUNK / (c * h * w))));
    const chunks = equalChunks(n, Math.max(least, Math.ceil(n / MOST_CHUNKS / few) * few));
    return {
      ...pixelChunks(chunks),
      ...inVolumes,
      name: `volume(${chunks.length}×${chunks[0]},${chunks.at(-1)})`,
      cut,
    };
  };
  return cut;
};

/** What is one pass of oneDNN over a chunk. */
const inVolumes = {
  affine: (part, factor, term, plus) => fused(part, factor, term, { plus }),
  scaled: (part, factor) => fused(part, factor, undefined, {}),
  fused,
  gates: true,
  gated: (y, dy) => fused(y, unit(y), undefined, { activation: "positive", times: dy }),
  sum: (a, b) => fused(a, unit(a), undefined, { plus: b }),
  moments: (part, other) =>
    rowSums.outputs(...[part, ...(other === undefined ? [] : [other])]) as unknown as readonly [Value, Value],
  combined,
} satisfies Partial<PixelLayout>;
