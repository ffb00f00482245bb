/**
 * Resizing as two matrix products: with fixed sizes each axis is a constant linear map, whatever the interpolation, and
 * its gradient is the transposed map.
 */
import { check } from "../onnx/error.ts";
import { constant, type Value } from "../onnx/graph.ts";
import { float32 } from "../onnx/tensor.ts";
import { matMul } from "../ops/index.ts";

export interface Interpolation {
  /** Whether each pixel of a smaller image is the weighted mean of all that it covers. */
  readonly antialias: boolean;
  /** Whether pixels beyond the border have no weight, as PyTorch has it, instead of the border's value. */
  readonly excludeOutside: boolean;
  readonly mode: string;
  /** Of cubic interpolation: the attribute cubic_coeff_a. */
  readonly cubicSlope: number;
  readonly coordinate_transformation_mode: string;
  readonly nearest_mode: string;
}

/** Place in the input of pixel `i` of the output. */
const sourceOf = (i: number, from: number, to: number, scale: number, rule: string): number => {
  switch (rule) {
    case "half_pixel":
      return (i + 0.5) / scale - 0.5;
    case "pytorch_half_pixel":
      return to > 1 ? (i + 0.5) / scale - 0.5 : 0;
    case "align_corners":
      return to > 1 ? (i * (from - 1)) / (to - 1) : 0;
    case "half_pixel_symmetric": {
      // The size that the scale gives before rounding, about the middle.
      const offset = (from / 2) * (1 - to / (scale * from));
      return offset + (i + 0.5) / scale - 0.5;
    }
    case "asymmetric":
      return i / scale;
    default:
      check(false, "unsupported", `coordinate_transformation_mode ${rule} is not supported`);
  }
};

const roundings: ReadonlyMap<string, (x: number) => number> = new Map([
  ["round_prefer_floor", (x) => Math.ceil(x - 0.5)],
  ["round_prefer_ceil", (x) => Math.floor(x + 0.5)],
  ["floor", Math.floor],
  ["ceil", Math.ceil],
]);

/** How much a pixel counts by its distance, and the distance from which on it does not. */
interface Filter {
  readonly reach: number;
  at(distance: number): number;
}

const triangle: Filter = { reach: 1, at: (d) => Math.max(0, 1 - Math.abs(d)) };

/** Keys' cubic convolution (1981), whose slope at distance 1 is `a`. */
const cubic = (a: number): Filter => ({
  reach: 2,
  at: (distance) => {
    const d = Math.abs(distance);
    if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
  },
});

/** Weights of the pixels around a place, `shrink` of a pixel apart; they sum to 1. Some may lie outside. */
const around = (
  { reach, at: weigh }: Filter,
  x: number,
  from: number,
  shrink: number,
  inside: boolean,
): ReadonlyMap<number, number> => {
  const found = new Map<number, number>();
  let total = 0;
  for (let at = Math.ceil(x - reach / shrink); at <= Math.floor(x + reach / shrink); at++) {
    if (inside && (at < 0 || at >= from)) continue;
    const weight = weigh((at - x) * shrink);
    found.set(at, weight);
    total += weight;
  }
  for (const [at, weight] of found) found.set(at, weight / total);
  return found;
};

/** Weights of one axis: [to, from], or transposed. */
const weights = (from: number, to: number, scale: number, how: Interpolation, transposed: boolean): Float32Array => {
  const out = new Float32Array(to * from);
  const give = (row: number, at: number, weight: number) => {
    const column = Math.min(Math.max(at, 0), from - 1);
    const place = transposed ? column * to + row : row * from + column;
    out[place] = out[place]! + weight;
  };
  for (let i = 0; i < to; i++) {
    const x = sourceOf(i, from, to, scale, how.coordinate_transformation_mode);
    if (how.mode === "nearest") {
      const round = roundings.get(how.nearest_mode);
      check(round !== undefined, "unsupported", `nearest_mode ${how.nearest_mode} is not supported`);
      give(i, round(x), 1);
    } else {
      const filter = how.mode === "linear" ? triangle : how.mode === "cubic" ? cubic(how.cubicSlope) : undefined;
      check(filter !== undefined, "unsupported", `mode ${how.mode} is not supported, only nearest, linear and cubic`);
      const shrink = how.antialias ? Math.min(1, scale) : 1;
      for (const [at, weight] of around(filter, x, from, shrink, how.excludeOutside)) give(i, at, weight);
    }
  }
  return out;
};

/** Elements of one axis's map: 2048 to 2048 pixels. */
const LARGEST_MAP = 2 ** 22;

/** Images [N,C,H,W] to [N,C,...size]; `scales` are those of the axes, which rounding of the sizes may not give exactly. */
export const resize = (x: Value, size: readonly number[], scales: readonly number[], how: Interpolation): Value => {
  check(x.rank === 4, "unsupported", "only images (rank 4) are resized");
  const [h, w] = x.shape.slice(2) as [number, number];
  const [toH, toW] = size as [number, number];
  check(
    size.every((d) => d > 0) && toH * h <= LARGEST_MAP && toW * w <= LARGEST_MAP,
    "unsupported",
    `resizing ${h}×${w} to ${toH}×${toW} is not supported`,
  );
  let y = x;
  if (toH !== h) y = matMul(constant(float32([toH, h], weights(h, toH, scales[0]!, how, false))), y);
  if (toW !== w) y = matMul(y, constant(float32([w, toW], weights(w, toW, scales[1]!, how, true))));
  return y;
};
