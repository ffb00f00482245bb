/** Convolutions and their gradients in the pixel-major layout, in the ways of ways.ts. */
import { isAbsent, type Type, type Value } from "../../onnx/graph.ts";
import { visibleNodesOf } from "../../onnx/order.ts";
import {
  add,
  type ConvAttributes,
  conv,
  convGradInput,
  convGradWeight,
  type GradInput,
  type GradWeight,
  type OpDefinition,
  type Window,
  windowOf,
} from "../../ops/index.ts";
import type { Layout, Lowered } from "../layout.ts";
import type { Lowering } from "../lower.ts";
import { rechunk } from "./chunked.ts";
import { shaped } from "./contrib.ts";
import {
  columnFilter,
  im2colConv,
  im2colGradInput,
  im2colGradWeight,
  tapFirstFilter,
  tapMajorFilter,
} from "./im2col.ts";
import { finer, isPixel, type PixelLayout, pixelLayout } from "./pixel.ts";
import { thinConv, thinGradInput, thinGradWeight, thinLayout } from "./thin.ts";
import { type Choose, type ConvShape, fastest, waysFor } from "./ways.ts";
import { winogradFor } from "./winograd.ts";

const pairOf = (v: readonly number[]): readonly [number, number] => [v[0]!, v[1]!];

/** The shape of a convolution of x [N,Ci,H,W] to y [N,Co,H',W'], or undefined where the layout does not serve it. */
export const shapeOf = (x: Type, y: Type, window: Window, kernel: readonly number[]): ConvShape | undefined => {
  if (x.dtype !== "float32" || window.group !== 1 || x.shape.length !== 4) return undefined;
  const [n = 0, ci = 0, h = 0, w = 0] = x.shape;
  if (n === 0) return undefined;
  return {
    images: n,
    inputChannels: ci,
    outputChannels: y.shape[1]!,
    geometry: {
      input: [h, w],
      output: pairOf(y.shape.slice(2)),
      kernel: pairOf(kernel),
      pads: pairOf(window.pads),
      strides: pairOf(window.strides),
      dilations: pairOf(window.dilations),
    },
  };
};

/**
 * Share of a network's multiplications in convolutions that Winograd takes, 0 to 1. Where that is small, as with strided
 * or wide kernels, onnxruntime's own convolutions are faster in a pass forward: a network of two 4×4 convolutions with
 * stride 2 answers Square's questions in half the time (batch 16, Zen 3, `advcl evaluate --attacks square`).
 * @param place where values lie: only those in pixels are Winograd's
 */
export const winogradShare = (outputs: readonly Value[], place: (type: Type) => Layout = pixelLayout): number => {
  let [taken, all] = [0, 0];
  for (const { definition, inputs, outputs: results, attributes } of visibleNodesOf(outputs)) {
    if (definition !== conv.definition) continue;
    const [x, w, y] = [inputs[0], inputs[1], results[0]] as [Value, Value, Value];
    const kernel = w.shape.slice(2);
    const multiplications = y.size * w.shape.slice(1).reduce((a, b) => a * b, 1);
    const shape =
      x.rank === 4
        ? shapeOf(x, y, windowOf(attributes as ConvAttributes, x.shape.slice(2), kernel), kernel)
        : undefined;
    const inPixels = isPixel(place(y));
    if (shape !== undefined && inPixels && fastest("forward", waysFor(shape), shape) === "winograd")
      taken += multiplications;
    all += multiplications;
  }
  return all === 0 ? 0 : taken / all;
};

/** The tensors of a value in its own layout, cut as `chunks` says. */
const cutAs = (
  value: Lowered,
  layout: PixelLayout,
  chunks: readonly number[],
  parts = value.in(layout),
): readonly Value[] => rechunk(parts, layout.chunks, chunks, value.type.shape[1]!);

const forward =
  (choose: Choose): Lowering =>
  ({ inputs: [x, w, bias], attributes, types: [y], node }) => {
    const [input, filter, type] = [(x as Lowered).type, (w as Lowered).type, y as Type];
    const kernel = filter.shape.slice(2);
    const window = windowOf(attributes as ConvAttributes, input.shape.slice(2), kernel);
    const shape = shapeOf(input, type, window, kernel);
    if (shape === undefined) return undefined;
    const { geometry } = shape;
    const [from, to] = [pixelLayout(input), pixelLayout(type)];
    const chunks = finer(from, to);
    const way = choose("forward", waysFor(shape), shape);
    const each = (parts: readonly Value[], one: (part: Value, images: number) => Value) =>
      parts.map((part, i) => one(part, chunks[i]!));
    let parts: readonly Value[];
    if (way === "thin") {
      const form = (w as Lowered).one(tapMajorFilter);
      parts = thinChunks(x as Lowered, to.chunks, (part, images) => thinConv(part, form, geometry, images));
    } else if (way === "winograd") {
      const winograd = winogradFor(geometry.input);
      const u = (w as Lowered).one(winograd.filter);
      parts = each(cutAs(x as Lowered, from, chunks), (part, n) => winograd.conv(part, u, geometry.input, n));
    } else {
      const form = (w as Lowered).one(tapMajorFilter);
      parts = each(cutAs(x as Lowered, from, chunks), (part, n) => im2colConv(part, form, geometry, n));
    }
    parts = rechunk(parts, way === "thin" ? to.chunks : chunks, to.chunks, shape.outputChannels);
    if (!isAbsent(node.inputs[2])) {
      const row = (bias as Lowered).plain;
      parts = parts.map((part) => shaped(add(shaped(part, [-1, shape.outputChannels]), row), part.shape));
    }
    return [{ layout: to, parts }];
  };

/** Maps the chunks of a value of few channels. */
const thinChunks = (
  x: Lowered,
  chunks: readonly number[],
  one: (part: Value, images: number, index: number) => Value,
): readonly Value[] => x.in(thinLayout(chunks)).map((part, i) => one(part, chunks[i]!, i));

const gradInput =
  (choose: Choose): Lowering =>
  ({ inputs: [dy, w], attributes, types: [x] }) => {
    const { size: _, ...window } = attributes as GradInput;
    const [output, filter, type] = [(dy as Lowered).type, (w as Lowered).type, x as Type];
    const shape = shapeOf(type, output, window as unknown as Window, filter.shape.slice(2));
    if (shape === undefined) return undefined;
    const { geometry } = shape;
    const [from, to] = [pixelLayout(output), pixelLayout(type)];
    const way = choose("input", waysFor(shape), shape);
    if (way === "thin") {
      const form = (w as Lowered).one(tapMajorFilter);
      const given = (dy as Lowered).in(from);
      const parts = given.map((part, i) => thinGradInput(part, form, geometry, from.chunks[i]!));
      return [{ layout: thinLayout(from.chunks), parts }];
    }
    const chunks = finer(from, to);
    const given = cutAs(dy as Lowered, from, chunks);
    let parts: readonly Value[];
    if (way === "winograd") {
      const winograd = winogradFor(geometry.input);
      const u = (w as Lowered).one(winograd.turned);
      parts = given.map((part, i) => winograd.gradInput(part, u, geometry.input, chunks[i]!));
    } else {
      const form = (w as Lowered).one(tapFirstFilter);
      parts = given.map((part, i) => im2colGradInput(part, form, geometry, chunks[i]!));
    }
    return [{ layout: to, parts: rechunk(parts, chunks, to.chunks, shape.inputChannels) }];
  };

const gradWeight =
  (choose: Choose): Lowering =>
  ({ inputs: [x, dy], attributes }) => {
    const { kernel, ...window } = attributes as GradWeight;
    const [input, output] = [(x as Lowered).type, (dy as Lowered).type];
    const shape = shapeOf(input, output, window as unknown as Window, kernel);
    if (shape === undefined) return undefined;
    const { geometry } = shape;
    const [from, to] = [pixelLayout(input), pixelLayout(output)];
    const way = choose("weight", waysFor(shape), shape);
    let sum: Value | undefined;
    if (way === "thin") {
      const given = (dy as Lowered).in(to);
      thinChunks(x as Lowered, to.chunks, (part, images, i) => {
        sum = thinGradWeight(part, given[i]!, geometry, images, sum);
        return sum;
      });
      return [{ layout: columnFilter, parts: [sum as Value] }];
    }
    const chunks = finer(from, to);
    const given = cutAs(dy as Lowered, to, chunks);
    // Computed anew if that is cheap, rather than kept since the forward pass.
    cutAs(x as Lowered, from, chunks, (x as Lowered).recomputed(from)).forEach((part, i) => {
      const [back, images] = [given[i]!, chunks[i]!];
      if (way === "im2col") sum = im2colGradWeight(part, back, geometry, images, sum);
      else {
        const one = winogradFor(geometry.input).gradFilter(part, back, geometry.input, images);
        sum = sum === undefined ? one : add(sum, one);
      }
    });
    return [{ layout: way === "im2col" ? columnFilter : winogradFor(geometry.input).filter, parts: [sum as Value] }];
  };

/** Entries for the three ops, with a rule to choose among the ways: by default the cost table. */
export const convolutions = (choose: Choose = fastest): readonly [OpDefinition, Lowering][] => [
  [conv.definition, forward(choose)],
  [convGradInput.definition, gradInput(choose)],
  [convGradWeight.definition, gradWeight(choose)],
];
