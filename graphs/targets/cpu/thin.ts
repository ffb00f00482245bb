/**
 * Convolutions with few input channels (the stem), stride 1, on images laid out as [Ci, H·W·c]: a chunk's images innermost.
 *
 * There a shift by one pixel is a shift within a row of the tensor, so the k·Ci rows of the column matrix are k shifted
 * copies of a small tensor: y = colsᵀ·W. The gradient to the input makes the column matrix's gradient by one product and
 * adds its k shifted parts, never touching k times the output.
 */
import type { Value } from "../../onnx/graph.ts";
import { concat, gemm, pad, slice, sum, transpose } from "../../ops/index.ts";
import type { Layout } from "../layout.ts";
import { shaped } from "./contrib.ts";
import type { Geometry } from "./im2col.ts";

/** Chunks [C, H·W·c] of the given numbers of images. */
export const thinLayout = (chunks: readonly number[]): Layout => ({
  name: `thin(${chunks.join()})`,
  pack: (x) => {
    const [n = 0, c = 0, h = 0, w = 0] = x.shape;
    let start = 0;
    return chunks.map((images) => {
      const end = start + images;
      const part = images === n ? x : slice(x, [{ axis: 0, start, end }]);
      start = end;
      return shaped(transpose(shaped(part, [images, c, h * w]), { perm: [1, 2, 0] }), [c, h * w * images]);
    });
  },
  unpack: (parts, { shape }) => {
    const [, c = 0, h = 0, w = 0] = shape;
    const images = parts.map((part, i) =>
      shaped(transpose(shaped(part, [c, h * w, chunks[i]!]), { perm: [2, 0, 1] }), [-1, c, h, w]),
    );
    return images.length === 1 ? images[0]! : concat(images, { axis: 0 });
  },
});

/** For each place of the kernel, how far its pixels lie below and to the right of the output's. */
const shifts = (g: Geometry): (readonly [number, number])[] =>
  Array.from({ length: g.kernel[0] * g.kernel[1] }, (_, k) => [
    Math.floor(k / g.kernel[1]) * g.dilations[0] - g.pads[0],
    (k % g.kernel[1]) * g.dilations[1] - g.pads[1],
  ]);

/** [k·Ci, H'·W'·c] of a chunk [Ci, H·W·c]. */
const columns = (x: Value, g: Geometry, images: number): Value => {
  const [h, w] = g.input;
  const [oh, ow] = g.output;
  const plane = shaped(x, [x.dim(0), h, w * images]);
  const parts = shifts(g).map(([down, right]) =>
    pad(plane, {
      begin: { 1: -down, 2: -right * images },
      end: { 1: oh + down - h, 2: (ow + right - w) * images },
    }),
  );
  return shaped(concat(parts, { axis: 0 }), [-1, oh * ow * images]);
};

/** Forward: chunk [Ci, H·W·c] and weights [Co, k, Ci] to [H'·W', c·Co]. */
export const thinConv = (x: Value, w: Value, g: Geometry, images: number): Value => {
  const y = gemm(columns(x, g, images), shaped(w, [w.dim(0), -1]), { transA: 1, transB: 1 });
  return shaped(y, [g.output[0] * g.output[1], images * w.dim(0)]);
};

/** Gradient to the weights, [k·Ci, Co], of one chunk added to what earlier chunks gave. */
export const thinGradWeight = (x: Value, dy: Value, g: Geometry, images: number, sum: Value | undefined): Value => {
  const rows = shaped(dy, [-1, dy.dim(1) / images]);
  const cols = columns(x, g, images);
  return sum === undefined ? gemm(cols, rows) : gemm(cols, rows, sum);
};

/** Gradient to the input: chunk [H'·W', c·Co] and weights [Co, k, Ci] to [Ci, H·W·c]. */
export const thinGradInput = (dy: Value, w: Value, g: Geometry, images: number): Value => {
  const [h, width] = g.input;
  const [oh, ow] = g.output;
  const [co, ci] = [w.dim(0), w.dim(2)];
  const cols = gemm(shaped(w, [co, -1]), shaped(dy, [-1, co]), { transA: 1, transB: 1 });
  const parts = shifts(g).map(([down, right], k) =>
    pad(shaped(slice(cols, [{ axis: 0, start: k * ci, end: (k + 1) * ci }]), [ci, oh, ow * images]), {
      begin: { 1: down, 2: right * images },
      end: { 1: h - oh - down, 2: (width - ow - right) * images },
    }),
  );
  return shaped(parts.length === 1 ? parts[0]! : sum(parts, {}), [ci, h * width * images]);
};
