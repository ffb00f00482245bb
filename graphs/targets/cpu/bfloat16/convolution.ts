/** Convolutions of networks in bfloat16, where that is worth while; what declines is computed in float32 as ever. */
import { isAbsent, type Type } from "../../../onnx/graph.ts";
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
} from "../../../ops/index.ts";
import { type Lowered, rowMajor } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { depthOf } from "../blocked/depth.ts";
import { shaped } from "../contrib.ts";
import { shapeOf } from "../convolution.ts";
import type { PixelLayout } from "../pixel.ts";
import type { ConvShape } from "../ways.ts";
import { bfloat16Conv, bfloat16GradInput, bfloat16GradWeight, type Convolution } from "./ops.ts";

type Volumes = (type: Type) => PixelLayout;

/** Channels of images at most: what has so few is read and made row-major, as a network's images come. */
const FEW = 4;

/** A convolution between values of two types, and the layouts of both; of images where those have few channels. */
const planOf = (volumes: Volumes, shape: ConvShape, [input, output]: readonly [Type, Type], depth = [1, 1]) => {
  const images = input.shape[1]! <= FEW;
  const [from, to] = [volumes(input), volumes(output)];
  const convolution: Convolution = {
    inputChunks: images ? [shape.images] : from.chunks,
    outputChunks: to.chunks,
    channels: [shape.inputChannels, shape.outputChannels],
    ...shape.geometry,
    depth: images ? depth : [],
    narrow: 0,
  };
  return { from: images ? rowMajor : from, to, convolution };
};

const forward =
  (volumes: Volumes): Lowering =>
  ({ inputs: [x, w, bias], attributes, types: [y], node }) => {
    const [input, filter, type] = [(x as Lowered).type, (w as Lowered).type, y as Type];
    const window = windowOf(attributes as ConvAttributes, input.shape.slice(2), filter.shape.slice(2));
    const shape = shapeOf(input, type, window, filter.shape.slice(2));
    if (shape === undefined) return undefined;
    const { from, to, convolution } = planOf(volumes, shape, [input, type]);
    let parts = bfloat16Conv.outputs((w as Lowered).plain, ...(x as Lowered).in(from), convolution);
    if (!isAbsent(node.inputs[2])) {
      const row = (bias as Lowered).plain;
      parts = parts.map((part) => shaped(add(shaped(part, [-1, shape.outputChannels]), row), part.shape));
    }
    return [{ layout: to, parts }];
  };

const gradInput =
  (volumes: Volumes): Lowering =>
  ({ inputs: [dy, w], attributes, types: [x] }) => {
    const { size: _, ...window } = attributes as GradInput;
    const [output, filter, type] = [(dy as Lowered).type, (w as Lowered).type, x as Type];
    const shape = shapeOf(type, output, window as unknown as Window, filter.shape.slice(2));
    if (shape === undefined) return undefined;
    // To few channels most of a vector would stay empty: of a stride's 2 by 2 pixels at once it takes a third of the time (Zen 4).
    const deep = type.shape[1]! <= FEW ? depthOf(shape) : undefined;
    const { strides } = shape.geometry;
    const { from, to, convolution } = planOf(volumes, deep?.shape ?? shape, [type, output], deep && [...strides]);
    const filters = deep === undefined ? (w as Lowered).plain : (w as Lowered).one(deep.filter(rowMajor));
    const parts = bfloat16GradInput.outputs(filters, ...(dy as Lowered).in(to), convolution);
    return [{ layout: from, parts }];
  };

const gradWeight =
  (volumes: Volumes): Lowering =>
  ({ inputs: [x, dy], attributes }) => {
    const { kernel, ...window } = attributes as GradWeight;
    const [input, output] = [(x as Lowered).type, (dy as Lowered).type];
    const shape = shapeOf(input, output, window as unknown as Window, kernel);
    if (shape === undefined) return undefined;
    const { from, to, convolution } = planOf(volumes, shape, [input, output]);
    return [bfloat16GradWeight(...(x as Lowered).recomputed(from), ...(dy as Lowered).in(to), convolution)];
  };

/** Entries for the three ops, each of which may decline, with where their values lie. */
export const bfloat16Convolutions = (volumes: Volumes): readonly [OpDefinition, Lowering][] => [
  [conv.definition, forward(volumes)],
  [convGradInput.definition, gradInput(volumes)],
  [convGradWeight.definition, gradWeight(volumes)],
];
