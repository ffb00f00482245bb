/** Batches of several views: row b·n + j is view j of image b, so that views share their convolutions. */
import type { Value } from "../onnx/graph.ts";
import { concat, reshape, slice } from "../ops/index.ts";

/** Views [B,C,…] as one batch [B·n,C,…]. */
export const interleave = (views: readonly Value[]): Value => {
  const [b = 0, ...rest] = views[0]!.shape;
  return reshape(concat(views, { axis: 1 }), [b * views.length, ...rest]);
};

/** View `index` of `views` interleaved ones. */
export const viewOf = (x: Value, index: number, views: number): Value => {
  if (views === 1) return x;
  const rows = reshape(x, [x.dim(0) / views, views, ...x.shape.slice(1)]);
  return reshape(slice(rows, [{ axis: 1, start: index, end: index + 1 }]), [x.dim(0) / views, ...x.shape.slice(1)]);
};
