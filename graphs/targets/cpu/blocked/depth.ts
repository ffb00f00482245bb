/**
 * Strided convolutions of few channels as such of stride 1: the pixels that a stride s jumps over are channels, [N, s·s·C, H/s, W/s]. A
 * gradient to the input then takes all of them from one pass over dy, where a block of channels is full sooner than by the image's own three.
 */
import { absent, constant, type Value } from "../../../onnx/graph.ts";
import { tensor } from "../../../onnx/tensor.ts";
import { convTranspose, pad, slice, transpose } from "../../../ops/index.ts";
import type { Layout } from "../../layout.ts";
import { shaped } from "../contrib.ts";
import type { Geometry } from "../im2col.ts";
import type { ConvShape } from "../ways.ts";
import { blockedConv } from "./nchwc.ts";

/** A strided convolution as one of stride 1. */
export interface Depth {
  readonly shape: ConvShape;
  /** Filters [Co,Ci,k,k] as [Co, s·s·Ci, T, T], in a layout of such filters. */
  readonly filter: (layout: Layout) => Layout;
  /**
   * Images [N, s·s·C, H/s, W/s] as [N,C,H,W]: by filters of ones and zeros, whose convolution, transposed, takes a fifth of a Transpose's
   * time (4.5 and 21 ms for 32 images of 224×224).
   */
  readonly flat: (x: Value) => Value;
  /** Images [N,C,H,W] with those channels in one block, [N, block, H/s, W/s], of which the last are zero: such filters too. */
  readonly inBlock: (x: Value, block: number) => Value;
}

/** What an axis of the kernel becomes: T places, with so many zeros before and after the kernel's own, and the padding. */
interface Axis {
  readonly places: number;
  readonly before: number;
  readonly after: number;
  readonly pad: number;
}

/** Place k of the kernel sees pixel s·r + k - p: of channel (k - p) mod s, floor((k - p)/s) pixels further. */
const axisOf = (g: Geometry, axis: 0 | 1): Axis => {
  const [k, s, p] = [g.kernel[axis], g.strides[axis], g.pads[axis]];
  const [first, last] = [Math.floor(-p / s), Math.floor((k - 1 - p) / s)];
  return { places: last - first + 1, before: -p - s * first, after: s * (last + 1) - (k - p), pad: -first };
};

/** Such a convolution as one of stride 1; undefined where it has none, or is dilated or its images are not whole numbers of strides. */
export const depthOf = (shape: ConvShape): Depth | undefined => {
  const { geometry: g, inputChannels: channels } = shape;
  const [sy, sx] = g.strides;
  if (sy * sx === 1 || g.dilations.some((d) => d !== 1) || g.input[0] % sy !== 0 || g.input[1] % sx !== 0)
    return undefined;
  const [down, across] = [axisOf(g, 0), axisOf(g, 1)];
  const widened = (w: Value): Value => {
    const co = w.dim(0);
    const begin = { 2: down.before, 3: across.before };
    const padded = pad(w, { begin, end: { 2: down.after, 3: across.after } });
    const apart = shaped(padded, [co, channels, down.places, sy, across.places, sx]);
    const turned = transpose(apart, { perm: [0, 3, 5, 1, 2, 4] });
    return shaped(turned, [co, sy * sx * channels, down.places, across.places]);
  };
  const narrowed = (w: Value): Value => {
    const co = w.dim(0);
    const apart = shaped(w, [co, sy, sx, channels, down.places, across.places]);
    const turned = transpose(apart, { perm: [0, 3, 4, 1, 5, 2] });
    return slice(shaped(turned, [co, channels, sy * down.places, sx * across.places]), [
      { axis: 2, start: down.before, end: down.before + g.kernel[0] },
      { axis: 3, start: across.before, end: across.before + g.kernel[1] },
    ]);
  };
  const [h, w] = [g.input[0] / sy, g.input[1] / sx];
  const jumped = sy * sx * channels;
  /** Which channel a pixel of a stride's window becomes; pixels are counted channel by channel. */
  const channelOf = (pixel: number): number => (pixel % (sy * sx)) * channels + Math.floor(pixel / (sy * sx));
  return {
    shape: {
      ...shape,
      inputChannels: jumped,
      geometry: {
        ...g,
        input: [h, w],
        kernel: [down.places, across.places],
        pads: [down.pad, across.pad],
        strides: [1, 1],
      },
    },
    filter: (layout) => ({
      name: `depth(${[g.kernel, g.strides, g.pads].join()}) of ${layout.name}`,
      pack: (given) => layout.pack(widened(given)),
      unpack: (parts, { dtype, shape: [co = 0] }) => {
        const wide = [co, sy * sx * channels, down.places, across.places];
        return narrowed(layout.unpack(parts, { dtype, shape: wide }));
      },
    }),
    flat: (x) => {
      const values = Float32Array.from({ length: jumped * jumped }, (_, i) =>
        Number(Math.floor(i / jumped) === channelOf(i % jumped)),
      );
      const filters = constant(tensor("float32", [jumped, channels, sy, sx], values));
      return convTranspose(x, filters, absent, { kernel_shape: [sy, sx], strides: [sy, sx] });
    },
    inBlock: (x, block) => {
      const values = Float32Array.from({ length: jumped * block }, (_, i) =>
        Number(i % block === channelOf(Math.floor(i / block))),
      );
      return blockedConv([x, constant(tensor("float32", [block, channels, sy, sx], values))], {
        kernel_shape: [sy, sx],
        pads: [0, 0, 0, 0],
        strides: [sy, sx],
        dilations: [1, 1],
        group: 1,
      });
    },
  };
};
