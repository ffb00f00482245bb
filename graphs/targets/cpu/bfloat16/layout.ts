/**
 * Where values lie for oneDNN: in the pixel-major layout, whose chunks are volumes of H by W by images to it, and maps
 * factor·x + term by rows with what follows them are one pass.
 */
import type { Value } from "../../../onnx/graph.ts";
import type { Then } from "../chunked.ts";
import { row } from "../contrib.ts";
import { CHUNK, equalChunks, MOST_CHUNKS, type PixelLayout, pixelChunks } from "../pixel.ts";
import { type Mapped, rowMap, rowSums } from "./ops.ts";

/** Images of a chunk at least: rows of a matrix unit (AMX) are 16. */
const IMAGES = 16;

const fused = (part: Value, factor: Value, term: Value | undefined, { plus, activation, times }: Then): Value => {
  const operands = [part, factor, term, plus, times].filter((value) => value !== undefined);
  const does: Mapped = {
    term: Number(term !== undefined),
    plus: Number(plus !== undefined),
    activation: activation ?? "none",
    times: Number(times !== undefined),
  };
  return rowMap(...operands, does);
};

/** A row that a product with it leaves a part as it is. */
const unit = (part: Value): Value => row(part.dim(1), 1);

/** How a value [N,C,H,W] is cut. */
export const volumeLayout = ({ shape }: { readonly shape: readonly number[] }): PixelLayout => {
  const [n = 0, c = 0, h = 0, w = 0] = shape;
  const least = 2 ** Math.floor(Math.log2(Math.max(IMAGES, CHUNK / (c * h * w))));
  const chunks = equalChunks(n, Math.max(least, Math.ceil(n / MOST_CHUNKS / IMAGES) * IMAGES));
  const plain = pixelChunks(chunks);
  return {
    ...plain,
    name: `volume(${chunks.length}×${chunks[0]},${chunks.at(-1)})`,
    cut: volumeLayout,
    affine: (part, factor, term, plus) => fused(part, factor, term, { plus }),
    scaled: (part, factor) => fused(part, factor, undefined, {}),
    fused,
    gates: true,
    gated: (y, dy) => fused(y, unit(y), undefined, { activation: "positive", times: dy }),
    sum: (a, b) => fused(a, unit(a), undefined, { plus: b }),
    moments: (part) => rowSums.outputs(part, { scaled: 0 }) as unknown as readonly [Value, Value],
    scaledWithSums: (dy, x, factor) =>
      rowSums.outputs(x, dy, factor, { scaled: 1 }) as unknown as readonly [Value, Value, Value],
  };
};
