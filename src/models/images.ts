/** Images as models take them: bytes become pixels here and nowhere else. */
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import type { Dataset } from "../data/dataset.ts";

/** Bytes 0 to 255 as pixels in [0, 1], written into `out` from `at` on. */
export const pixelsOf = (
  bytes: Uint8Array,
  out: Float32Array = new Float32Array(bytes.length),
  at = 0,
): Float32Array => {
  for (let i = 0; i < bytes.length; i++) out[at + i] = bytes[i]! / 255;
  return out;
};

type Images = Pick<Dataset, "count" | "height" | "width" | "images">;

const bytesAt = ({ images, height, width }: Images, position: number): Uint8Array => {
  const length = 3 * height * width;
  return images.subarray(position * length, (position + 1) * length);
};

/** One image of a dataset, [3,H,W] in [0, 1]. */
export const imageAt = (dataset: Images, position: number): Float32Array => pixelsOf(bytesAt(dataset, position));

/** Images `from` … of a dataset as float32 [batch,3,H,W] in [0, 1]; what lies beyond the last is filled with it. */
export const imageBatch = (dataset: Images, from: number, batch: number): Tensor<"float32"> => {
  const { height, width, count } = dataset;
  const length = 3 * height * width;
  const data = new Float32Array(batch * length);
  for (let row = 0; row < batch; row++) pixelsOf(bytesAt(dataset, Math.min(from + row, count - 1)), data, row * length);
  return tensor("float32", [batch, 3, height, width], data);
};

/** Images [3,H,W] to [H,W,3], the other way round where `planar`. */
const reordered = (source: Uint8Array, plane: number, planar: boolean, out: Uint8Array): Uint8Array => {
  for (let p = 0; p < plane; p++)
    for (let c = 0; c < 3; c++) {
      if (planar) out[c * plane + p] = source[p * 3 + c]!;
      else out[p * 3 + c] = source[c * plane + p]!;
    }
  return out;
};

/** Rows of RGB bytes [H,W,3] as planes [3,H,W]. */
export const planesOf = (bytes: Uint8Array): Uint8Array =>
  reordered(bytes, bytes.length / 3, true, new Uint8Array(bytes.length));

/** Images `from` … of a dataset as uint8 [n,H,W,3], as photographs come. */
export const photoBatch = (dataset: Images, from: number, n: number): Tensor<"uint8"> => {
  const { height, width } = dataset;
  const plane = height * width;
  const data = new Uint8Array(n * 3 * plane);
  for (let row = 0; row < n; row++)
    reordered(bytesAt(dataset, from + row), plane, false, data.subarray(row * 3 * plane, (row + 1) * 3 * plane));
  return tensor("uint8", [n, height, width, 3], data);
};
