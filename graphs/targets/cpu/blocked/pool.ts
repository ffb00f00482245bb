/**
 * Max pooling and its gradient in the blocked layout, an axis after the other: the largest of each row of a window, then of those. Of
 * equal pixels the first in row-major order is the first of its row in the first such row, so each axis gives dy back by itself.
 *
 * onnxruntime's MaxPool with places and a scatter take row-major images, one thread and twice the time (ResNet-18 on 224×224 images).
 */
import { constant, type Type, type Value } from "../../../onnx/graph.ts";
import { float32 } from "../../../onnx/tensor.ts";
import {
  add,
  type ConvAttributes,
  maxPool,
  maxPoolGrad,
  mul,
  type OpDefinition,
  sub,
  windowOf,
} from "../../../ops/index.ts";
import type { Lowered } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { type Known, mask, type Phases, type Place } from "../chunked.ts";
import { shaped } from "../contrib.ts";
import { inChunks, joined, recut } from "./cut.ts";
import { blockedLayout, isBlocked } from "./layout.ts";
import { activated, blockedConv, blockedMaxPool } from "./nchwc.ts";

/** An axis of images: 0 from the top to the bottom, 1 from left to right. */
type Axis = 0 | 1;

/** A window of two pixels, or of three of which the first is the last of the window before; both begin anew every two pixels. */
type Reach = 2 | 3;

/** The windows along both axes; undefined where an axis has others. */
const reachesOf = (attributes: ConvAttributes, size: readonly number[]): readonly [Reach, Reach] | undefined => {
  const kernel = attributes.kernel_shape as readonly number[];
  const { pads, strides, dilations } = windowOf(attributes, size, kernel);
  const reaches = ([0, 1] as const).map((axis) => {
    const [before, after] = [pads[axis], pads[axis + 2]!];
    const even = size[axis]! % 2 === 0 && strides[axis] === 2 && dilations[axis] === 1;
    if (even && kernel[axis] === 2 && before === 0 && after === 0) return 2;
    // What lies behind the last pixel is never reached.
    return even && kernel[axis] === 3 && before === 1 && after <= 1 ? 3 : undefined;
  });
  return reaches.includes(undefined) ? undefined : (reaches as [Reach, Reach]);
};

/** [rows, columns] of which the other axis has one. */
const along = (axis: Axis, value: number, other: number): [number, number] =>
  axis === 0 ? [value, other] : [other, value];

const windowAlong = (axis: Axis, size: number, before: number, after: number, stride: number) => ({
  kernel_shape: along(axis, size, 1),
  pads: [...along(axis, before, 0), ...along(axis, after, 0)] as [number, number, number, number],
  strides: along(axis, stride, 1),
  dilations: [1, 1] as const,
});

const largest = new WeakMap<Value, Map<string, Value>>();

/** The largest pixel of each window along an axis; once for all that ask. */
const largestAlong = (x: Value, axis: Axis, reach: Reach): Value => {
  const known = largest.get(x) ?? new Map<string, Value>();
  largest.set(x, known);
  const key = `${axis} ${reach}`;
  const made = known.get(key) ?? blockedMaxPool(x, windowAlong(axis, reach, reach - 2, 0, 2));
  known.set(key, made);
  return made;
};

/** activation(Σ taps·x + plus) of each channel by itself, along an axis. */
const tapped = (
  x: Value,
  axis: Axis,
  block: number,
  taps: readonly number[],
  [before, after, stride]: readonly [number, number, number],
  plus: Value,
  activation?: "positive",
): Value => {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const filters = constant(float32([n * c, 1, ...along(axis, taps.length, 1)], filterOf(taps, n * c, block)));
  const wide = shaped(plus, [1, n * c, ...plus.shape.slice(2)]);
  const result = blockedConv([shaped(x, [1, n * c, h, w]), filters, undefined, wide], {
    ...windowAlong(axis, taps.length, before, after, stride),
    group: n * c,
    ...activated(activation),
  });
  return shaped(result, plus.shape);
};

/** Gradients of windows along an axis. */
interface Along {
  readonly axis: Axis;
  readonly reach: Reach;
  readonly block: number;
  /** Whether dy is 0 where no pixel is above 0: what lies before the first pixel, a zero, takes nothing from the others then. */
  readonly positive: boolean;
}

/** dx along an axis of windows, of which y are the largest pixels; x has twice as many pixels along it. */
const gradientAlong = (x: Value, y: Value, dy: Value, { axis, reach, block, positive }: Along): Value => {
  const back = (even: Value, odd: Value): Value => {
    const phases: Phases = axis === 0 ? [[even], [odd]] : [[even, odd]];
    return joined(phases, x.shape, block);
  };
  /** dy but where the pixel that taps take is the largest. */
  const butFor = (taps: readonly number[], before: number, given: Value, most: Value) =>
    mul(given, tapped(x, axis, block, taps, [before, 0, 2], most, "positive"));
  if (reach === 2) {
    const odd = butFor([-1], 0, dy, y);
    return back(sub(dy, odd), odd);
  }
  const rest = butFor([-1, 0], 1, dy, positive ? y : beyondEdge(y, axis, block));
  const third = butFor([-1], 0, rest, y);
  // Each first pixel of a window is the third of the one before.
  const odd = tapped(sub(dy, rest), axis, block, [0, 1], [0, 1, 1], third);
  return back(sub(rest, third), odd);
};

/** One number for each tap, as filters of each channel by itself lie in blocks: [channels / b, taps, b] of equal rows. */
const filterOf = (taps: readonly number[], channels: number, block: number): number[] =>
  Array.from({ length: taps.length * channels }, (_, i) => taps[Math.floor(i / block) % taps.length]!);

/** More than any pixel: what lies before the first one is never the largest. */
const BEYOND = 1e30;

/** y with the first along the axis raised beyond every pixel, where a window's first pixel is padding. */
const beyondEdge = (y: Value, axis: Axis, block: number): Value => {
  const [n, c, h, w] = y.shape as [number, number, number, number];
  const edge = Float32Array.from({ length: axis === 0 ? h : w * block }, (_, i) =>
    i < (axis === 0 ? 1 : block) ? BEYOND : 0,
  );
  const rows = (n * c) / block;
  const [view, raised] =
    axis === 0
      ? [
          [rows, h, w * block],
          [1, h, 1],
        ]
      : [
          [rows * h, w * block],
          [1, w * block],
        ];
  return shaped(add(shaped(y, view), constant(float32(raised, edge))), y.shape);
};

/** The largest pixels of windows along rows, then of those. */
const pooled = (x: Value, [down, across]: readonly [Reach, Reach]): Value =>
  largestAlong(largestAlong(x, 1, across), 0, down);

const forward =
  (block: number, place: Place): Lowering =>
  ({ inputs: [x], attributes, types: [y] }) => {
    const { layout, type } = x as Lowered;
    const reaches = reachesOf(attributes, type.shape.slice(2));
    if (!isBlocked(layout) || reaches === undefined) return undefined;
    const parts = (x as Lowered).in(layout).map((part) => pooled(part, reaches));
    const own = blockedLayout(block, y as Type);
    const cut = recut(parts, own.chunks);
    const to = place(y as Type);
    return [
      isBlocked(to) ? { layout: to, parts: cut } : { layout: to, parts: to.take?.(own, cut, y as Type) as Value[] },
    ];
  };

const gradient =
  (block: number): Lowering =>
  ({ inputs: [x, , dy], attributes }) => {
    const { layout, type } = x as Lowered;
    const reaches = reachesOf(attributes, type.shape.slice(2));
    if (!isBlocked(layout) || reaches === undefined) return undefined;
    const [down, across] = reaches;
    const back = inChunks(dy as Lowered, block, layout.chunks);
    // Computed anew if that is cheap, rather than kept since the forward pass.
    const gradients = (positive: boolean) =>
      (x as Lowered).recomputed(layout).map((part, i) => {
        const rows = largestAlong(part, 1, across);
        const most = largestAlong(rows, 0, down);
        const given = positive ? mul(back[i]!, mask(most)) : back[i]!;
        const sides = gradientAlong(rows, most, given, { axis: 0, reach: down, block, positive });
        return gradientAlong(part, rows, sides, { axis: 1, reach: across, block, positive });
      });
    // No pixel is taken that is not the largest, so that a ReLU's mask of those, a quarter of them, is that of all.
    const known: Known = { masked: { of: x as Lowered, parts: () => gradients(true) } };
    return [{ layout, parts: gradients(false), known }];
  };

/** Entries for max pooling on a processor with blocks of `block` channels. */
export const blockedPools = (block: number, place: Place): readonly [OpDefinition, Lowering][] => [
  [maxPool.definition, forward(block, place)],
  [maxPoolGrad.definition, gradient(block)],
];
