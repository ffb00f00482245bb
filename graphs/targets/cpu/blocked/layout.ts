/**
 * The blocked layout: chunks [c, C/b, H, W, b] of images for the processor's block of b channels, the vector of ONNX Runtime's
 * direct convolutions. Where channels are few, those beat Winograd's products, which are too thin there; and a map factor·x +
 * term with a sum and a ReLU behind it is one pass, as a 1×1 convolution of each image and channel by itself.
 *
 * Images of less channels than a block share one: [N/s, s·C, H, W] for s images. A convolution of them has s copies of its
 * filters along a diagonal, and takes s times as many multiplications at several times the rate.
 */
import type { Type, Value } from "../../../onnx/graph.ts";
import { concat, expand, transpose } from "../../../ops/index.ts";
import type { Layout } from "../../layout.ts";
import { type ChunkedLayout, rechunk, type Then } from "../chunked.ts";
import { shaped } from "../contrib.ts";
import { CHUNK, isPixel, MOST_CHUNKS, type PixelLayout } from "../pixel.ts";
import { activated, type BlockedConv, blockedConv, blockedMeans, fromBlocked, toBlocked } from "./nchwc.ts";

export interface BlockedLayout extends ChunkedLayout {
  readonly block: number;
}

export const isBlocked = (layout: Layout): layout is BlockedLayout => "block" in layout;

/** Images that share a block: of less channels than one, those of some images fill it. 0 where they don't. */
export const sharing = (block: number, [images = 0, channels = 0]: readonly number[]): number => {
  if (channels % block === 0) return 1;
  const together = block / channels;
  return Number.isInteger(together) && images % together === 0 ? together : 0;
};

/** The shape of a tensor of images that share blocks: [N/s, s·C, H, W]. */
export const shared = ([n = 0, c = 0, ...size]: readonly number[], together: number): number[] => [
  n / together,
  c * together,
  ...size,
];

/** Whether so many images of whole blocks can be channels themselves, as in the gradient to the filters (weight-gradient.ts). */
export const fillsBlocks = (block: number, images: number): boolean => images < block || images % block === 0;

/** How a value [N,C,H,W] is cut: into equal chunks, a power of two of them, so that interleaved branches start each alike. */
export const blockedLayout = (block: number, { shape }: { readonly shape: readonly number[] }): BlockedLayout => {
  const [n = 0, c = 0, h = 0, w = 0] = shape;
  const together = sharing(block, shape);
  let count = 1;
  const halves = () => n % (2 * count * together) === 0;
  const fits = (images: number) => fillsBlocks(block, images / together);
  while (count < MOST_CHUNKS && halves() && (n / (2 * count)) * c * h * w >= CHUNK) count *= 2;
  if (count > 1 && halves() && !fits(n / count) && fits(n / (2 * count))) count *= 2;
  return blockedChunks(block, Array<number>(count).fill(n / count), together);
};

/** Factors and terms are a filter of one place for each image and channel. */
const perChannel = (part: Value, factor: Value, term: Value | undefined, { plus, activation }: Then): Value => {
  const [n, c, h, w] = part.shape as [number, number, number, number];
  const wide = shaped(part, [1, n * c, h, w]);
  const attributes: BlockedConv = {
    kernel_shape: [1, 1],
    pads: [0, 0, 0, 0],
    strides: [1, 1],
    dilations: [1, 1],
    group: n * c,
    ...activated(activation),
  };
  const inputs = [
    wide,
    shaped(factor, [n * c, 1, 1, 1]),
    term && shaped(term, [n * c]),
    plus && shaped(plus, wide.shape),
  ] as const;
  return shaped(blockedConv(inputs, attributes), part.shape);
};

/** A convolution of each image and channel by itself with a filter as large as the image: what the other part holds there. */
const productSums = (a: Value, b: Value): Value => {
  const [n, c, h, w] = a.shape as [number, number, number, number];
  const attributes: BlockedConv = {
    kernel_shape: [h, w],
    pads: [0, 0, 0, 0],
    strides: [1, 1],
    dilations: [1, 1],
    group: n * c,
  };
  return shaped(blockedConv([shaped(a, [1, n * c, h, w]), shaped(b, [n * c, 1, h, w])], attributes), [1, n * c]);
};

const blockedChunks = (block: number, chunks: readonly number[], together: number): BlockedLayout => ({
  name: `blocked${block}(${chunks.length}×${chunks[0]},${together})`,
  block,
  chunks,
  pack: (x) => {
    const whole = toBlocked(shaped(x, shared(x.shape, together)));
    return rechunk([whole], [x.dim(0)], chunks, 1 / together, 0);
  },
  unpack: (parts, { shape }: Type) => {
    const whole = parts.length === 1 ? parts[0]! : concat(parts, { axis: 0 });
    return shaped(fromBlocked(whole, shape[1]! * together), shape);
  },
  take: (from, parts, type) => (isPixel(from) ? fromPixels(block, chunks, together, from, parts, type) : undefined),
  pixels: (parts, { shape: [, , h = 0, w = 0] }) =>
    parts.map((part) => {
      const row = part.size / (h * w);
      return shaped(transpose(shaped(part, [row / block, h * w, block]), { perm: [1, 0, 2] }), [h * w, row]);
    }),
  means: (part) => shaped(blockedMeans(part), [1, part.dim(0) * part.dim(1)]),
  productSums,
  affine: (part, factor, term, plus) => perChannel(part, factor, term, { plus }),
  fused: perChannel,
  scaled: (part, factor) => perChannel(part, factor, undefined, {}),
  byRow: (one, part, row) => {
    const [n, c, h, w] = part.shape as [number, number, number, number];
    const blocks = (n * c) / block;
    return shaped(one(shaped(part, [blocks, h * w, block]), shaped(row, [blocks, 1, block])), part.shape);
  },
  spread: (row, { shape: [, c = 0, h = 0, w = 0] }) => {
    const blocks = row.size / block;
    const spread = expand(shaped(row, [blocks, 1, block]), [blocks, h * w, block]);
    return shaped(spread, shared([row.size / c, c, h, w], together));
  },
});

/** Of pixels [H·W, c·C/b, b] rows of a block lie by pixel first, here by image and block first. */
const fromPixels = (
  block: number,
  chunks: readonly number[],
  together: number,
  from: PixelLayout,
  parts: readonly Value[],
  { shape }: Type,
): readonly Value[] => {
  const [, c = 0, h = 0, w = 0] = shape;
  return rechunk(parts, from.chunks, chunks, c).map((part, i) => {
    const turned = transpose(shaped(part, [h * w, (chunks[i]! * c) / block, block]), { perm: [1, 0, 2] });
    return shaped(turned, shared([chunks[i]!, c, h, w], together));
  });
};
