/** Convolutions and their gradients in the blocked layout; what it does not serve is left to the pixel-major one. */
import { isAbsent, type Type, type Value } from "../../../onnx/graph.ts";
import {
  add,
  type ConvAttributes,
  concat,
  conv,
  convGradInput,
  convGradWeight,
  type GradInput,
  type GradWeight,
  type OpDefinition,
  slice,
  type Window,
  windowOf,
} from "../../../ops/index.ts";
import type { Lowered } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import type { Followed, Known, Phases, Place, Then } from "../chunked.ts";
import { shaped } from "../contrib.ts";
import { shapeOf } from "../convolution.ts";
import type { Geometry } from "../im2col.ts";
import { finer } from "../pixel.ts";
import type { ConvShape } from "../ways.ts";
import { inChunks, joined, recut } from "./cut.ts";
import { type Depth, depthOf } from "./depth.ts";
import { blockedFilter, filledFilter, sharedFilter, stemFilter, turnedFilter, wholeFilter } from "./filters.ts";
import { blockedLayout, isBlocked, sharing } from "./layout.ts";
import { activated, type BlockedConv, blockedConv, fromBlocked } from "./nchwc.ts";
import { placesGradWeight, stemGradWeight, upTo } from "./weight-gradient.ts";

/** Row-major images of so many chunks. */
const imageChunks = (x: Lowered, chunks: readonly number[]): readonly Value[] => {
  let start = 0;
  return chunks.map((images) => {
    const end = start + images;
    const part = chunks.length === 1 ? x.plain : slice(x.plain, [{ axis: 0, start, end }]);
    start = end;
    return part;
  });
};

/** How a convolution is served: of images that share blocks, as one of s times the channels. */
interface Served {
  /** Whether x stays row-major, since its channels don't fill a block. */
  readonly stem: boolean;
  readonly together: number;
  /** Of the images that share blocks. */
  readonly shape: ConvShape;
}

const isStrided = ({ geometry }: ConvShape): boolean => geometry.strides.some((s) => s !== 1);

const servedAs = (
  block: number,
  place: Place,
  [x, y]: readonly [Type, Type],
  shape: ConvShape | undefined,
): Served | undefined => {
  if (shape === undefined) return undefined;
  const stem = !isBlocked(place(x)) && shape.inputChannels < block;
  // A strided stem is faster so even where its results are brought to pixels: there every place of its kernel is a copy.
  if (!isBlocked(place(y)) && (stem ? !isStrided(shape) : !isBlocked(place(x)))) return undefined;
  const [own, its] = [stem ? 1 : sharing(block, x.shape), sharing(block, y.shape)];
  if (own * its === 0) return undefined;
  const together = Math.max(own, its);
  const { images, inputChannels, outputChannels } = shape;
  if (stem && inputChannels * together >= block) return undefined;
  return {
    stem,
    together,
    shape: {
      ...shape,
      images: images / together,
      inputChannels: inputChannels * together,
      outputChannels: outputChannels * together,
    },
  };
};

/** Parts of images that share blocks by `together`, whose channels are `channels` then. */
const viewed = (parts: readonly Value[], channels: number): readonly Value[] =>
  parts.map((part) => {
    const [, , h, w] = part.shape as [number, number, number, number];
    return shaped(part, [part.size / (channels * h * w), channels, h, w]);
  });

const forward =
  (block: number, place: Place, onlyForward: boolean): Lowering =>
  ({ inputs: [x, w, bias], attributes, types: [y], node }) => {
    const [input, filter, type] = [(x as Lowered).type, (w as Lowered).type, y as Type];
    const kernel = filter.shape.slice(2);
    const window = windowOf(attributes as ConvAttributes, input.shape.slice(2), kernel);
    const served = servedAs(block, place, [input, type], shapeOf(input, type, window, kernel));
    if (served === undefined) return undefined;
    const { stem, together, shape } = served;
    const layout = blockedLayout(block, type);
    const cut: BlockedConv = {
      kernel_shape: shape.geometry.kernel,
      pads: window.pads as unknown as BlockedConv["pads"],
      strides: shape.geometry.strides,
      dilations: shape.geometry.dilations,
      group: 1,
    };
    const filters = (w as Lowered).one(sharedFilter(blockedFilter(block), together));
    const shift = isAbsent(node.inputs[2]) ? undefined : tiled((bias as Lowered).plain, together);
    // Chunks of the input where it has more of them: to join results, which a stride makes smaller, is less to copy.
    const chunks = stem ? layout.chunks : finer(layout, blockedLayout(block, input));
    const given = stem ? imageChunks(x as Lowered, chunks) : inChunks(x as Lowered, block, chunks);
    const seen = viewed(given, shape.inputChannels);
    const results = ({ plus, activation }: Parameters<Followed>[0]) => {
      const added = plus && viewed(plus, shape.outputChannels);
      const each = seen.map((part, i) =>
        blockedConv([part, filters, shift, added?.[i]], { ...cut, ...activated(activation) }),
      );
      return recut(viewed(each, Math.max(block, type.shape[1]!)), layout.chunks);
    };
    const parts = results({});
    // What follows a strided stem follows it in blocks, max pooling above all.
    const to = stem && isStrided(shape) ? layout : place(type);
    if (!isBlocked(to)) return [{ layout: to, parts: to.take?.(layout, parts, type) as Value[] }];
    // A sum and a ReLU behind it are the last of the convolution's passes; an operand that is kept for a pass back would be copied first.
    const known: Known = onlyForward && chunks.length === layout.chunks.length ? { followed: results } : {};
    return [{ layout, parts, known }];
  };

const tiled = (bias: Value, together: number): Value =>
  together === 1 ? bias : concat(Array<Value>(together).fill(bias), { axis: 0 });

type Activation = Then["activation"];

/** Rows or columns of the input that a stride reaches alike, from one place of the kernel on, and how they are convolved. */
interface Phase {
  /** Places of the kernel along the axis. */
  readonly places: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** The phases of an axis; undefined where one is not a convolution with padding. */
const phasesOf = (g: Geometry, axis: 0 | 1): readonly Phase[] | undefined => {
  const [k, s, p, d] = [g.kernel[axis], g.strides[axis], g.pads[axis], g.dilations[axis]];
  if (s === 1) {
    const begin = d * (k - 1) - p;
    const end = g.input[axis] + d * (k - 1) - begin - g.output[axis];
    return begin < 0 || end < 0 ? undefined : [{ places: upTo(k), begin, end }];
  }
  if (d !== 1 || g.input[axis] % s !== 0) return undefined;
  const size = g.input[axis] / s;
  const phases = upTo(s).map((phase): Phase => {
    const first = (phase + p) % s;
    const places = upTo(k).filter((place) => place % s === first);
    const begin = places.length - 1 - (phase + p - first) / s;
    return { places, begin, end: size + places.length - 1 - begin - g.output[axis] };
  });
  return phases.some(({ places, begin, end }) => places.length > 0 && (begin < 0 || end < 0)) ? undefined : phases;
};

/** A strided stem as a convolution of stride 1 whose channels don't fill more than a block. */
const deepened = (block: number, shape: ConvShape): Depth | undefined => {
  const deep = depthOf(shape);
  return deep !== undefined && deep.shape.inputChannels <= block ? deep : undefined;
};

const gradInput =
  (block: number, place: Place): Lowering =>
  ({ inputs: [dy, w], attributes, types: [x] }) => {
    const { size: _, ...window } = attributes as GradInput;
    const [output, filter, type] = [(dy as Lowered).type, (w as Lowered).type, x as Type];
    const own = shapeOf(type, output, window as unknown as Window, filter.shape.slice(2));
    const served = servedAs(block, place, [type, output], own);
    if (served === undefined || !(served.stem || isBlocked(place(type)))) return undefined;
    const { stem, together } = served;
    const deep = stem ? deepened(block, served.shape) : undefined;
    const { shape } = deep ?? served;
    const { geometry: g } = shape;
    const [down, across] = [phasesOf(g, 0), phasesOf(g, 1)];
    if (down === undefined || across === undefined || (stem && down.length * across.length > 1)) return undefined;
    const layout = blockedLayout(block, stem ? output : type);
    const filled = Math.ceil(shape.inputChannels / block) * block;
    const given = viewed(inChunks(dy as Lowered, block, layout.chunks), shape.outputChannels);
    const single = down.length * across.length === 1;
    const gradients = (
      added: (chunk: number, row: number, column: number) => Value | undefined,
      activation?: Activation,
    ) =>
      given.map((part, i) =>
        down.map((row, a) =>
          across.map((column, b) => {
            const plus = added(i, a, b);
            if (row.places.length * column.places.length === 0) return plus;
            const turned = turnedFilter(block, row.places, column.places);
            const filters = sharedFilter(deep?.filter(turned) ?? turned, together);
            return blockedConv([part, (w as Lowered).one(filters), undefined, plus], {
              kernel_shape: [row.places.length, column.places.length],
              pads: [row.begin, column.begin, row.end, column.end],
              strides: [1, 1],
              dilations: g.dilations,
              group: 1,
              ...activated(activation),
            });
          }),
        ),
      );
    const whole = (phases: readonly Phases[]) =>
      phases.map((each, i) => joined(each, [given[i]!.dim(0), filled, ...g.input], block));
    const phases = gradients(() => undefined);
    const parts = whole(phases);
    if (!stem) {
      const seen = (each: readonly Value[]) => viewed(each, Math.max(block, type.shape[1]!));
      // What another way brings to the same images is added as the last of the convolution's sums.
      const followed: Followed = ({ plus, activation }) => {
        const added = plus && viewed(plus, filled);
        return seen(whole(gradients((i) => added?.[i], activation)));
      };
      const withPhases = (other: readonly Phases[]) => seen(whole(gradients((i, a, b) => other[i]![a]![b])));
      const known: Known = single ? { followed } : { phased: { phases, withPhases } };
      return [{ layout, parts: seen(parts), known }];
    }
    const images = parts.map((part) => fromBlocked(part, shape.inputChannels));
    const all = images.length === 1 ? images[0]! : concat(images, { axis: 0 });
    return [shaped(deep?.flat(all) ?? all, type.shape)];
  };

const gradWeight =
  (block: number, place: Place): Lowering =>
  ({ inputs: [x, dy], attributes }) => {
    const { kernel, ...window } = attributes as GradWeight;
    const [input, output] = [(x as Lowered).type, (dy as Lowered).type];
    const served = servedAs(block, place, [input, output], shapeOf(input, output, window as unknown as Window, kernel));
    if (served === undefined || !(served.stem || isBlocked(place(input)))) return undefined;
    const { stem, together, shape } = served;
    const { geometry: g } = shape;
    const deep = stem ? deepened(block, shape) : undefined;
    if (stem && deep === undefined && isStrided(shape)) return undefined;
    const { chunks } = blockedLayout(block, stem ? output : input);
    const given = viewed(inChunks(dy as Lowered, block, chunks), shape.outputChannels);
    // Computed anew if that is cheap, rather than kept since the forward pass.
    const images = stem ? imageChunks(x as Lowered, chunks) : inChunks(x as Lowered, block, chunks, true);
    const seen = viewed(images, shape.inputChannels);
    if (deep !== undefined) {
      const blocks = seen.map((part) => deep.inBlock(part, block));
      const whole = placesGradWeight(blocks, given, block, shape.outputChannels, deep.shape.geometry);
      return [{ layout: sharedFilter(deep.filter(filledFilter(block)), together), parts: [whole] }];
    }
    if (stem) {
      const each = seen.map((part, i) => stemGradWeight(part, given[i]!, block, g));
      return [{ layout: sharedFilter(stemFilter, together), parts: [each.reduce((a, b) => add(a, b))] }];
    }
    const whole = placesGradWeight(seen, given, block, shape.outputChannels, g);
    return [{ layout: sharedFilter(wholeFilter, together), parts: [whole] }];
  };

/** Entries for the three ops on a processor with blocks of `block` channels; `onlyForward` of graphs without a pass back. */
export const blockedConvolutions = (
  block: number,
  place: Place,
  onlyForward: boolean,
): readonly [OpDefinition, Lowering][] => [
  [conv.definition, forward(block, place, onlyForward)],
  [convGradInput.definition, gradInput(block, place)],
  [convGradWeight.definition, gradWeight(block, place)],
];
