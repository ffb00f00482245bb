/** Chunks of images as oneDNN reads them: some of them as one volume in bfloat16, as they lie or rounded and brought together. */
import type { Type } from "../../../../graphs/onnx/graph.ts";
import { type Convolution, NARROW, ofImages } from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import type { KernelRun } from "../custom-op.ts";
import { fromImages } from "./images.ts";
import type { Type as DataType } from "./maker.ts";
import { BYTES, type Images, type Primitives, volume } from "./primitives.ts";
import type { Scratch } from "./scratch.ts";

export type Compute = (run: KernelRun) => void;

/** What computes with. */
export interface Tools {
  readonly primitives: Primitives;
  readonly scratch: Scratch;
}

export type Side = "input" | "output";

export const imagesIn = ({ inputChunks }: Convolution): number => inputChunks.reduce((a, b) => a + b, 0);

export const chunksOf = (c: Convolution, side: Side): readonly number[] =>
  side === "input" ? c.inputChunks : c.outputChunks;

export const imagesOf = (c: Convolution, side: Side, count: number): Images => {
  const [h = 0, w = 0] = c[side];
  return [count, c.channels[side === "input" ? 0 : 1]!, h, w];
};

/** The shape of a chunk of `count` images, as the layout has it. */
export const shapeOf = (c: Convolution, side: Side, count: number): readonly number[] => {
  const [, channels, h, w] = imagesOf(c, side, count);
  return [h * w, count * channels];
};

/** Some images of a chunk, and where they go among those that are computed at once. */
export interface Piece {
  readonly chunk: number;
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

/** Which chunks hold images `first` to `first + count`. */
export const piecesOf = (chunks: readonly number[], first: number, count: number): readonly Piece[] => {
  let start = 0;
  return chunks.flatMap((held, chunk) => {
    const [from, end] = [Math.max(first, start), Math.min(first + count, start + held)];
    const piece = { chunk, from: from - start, to: from - first, count: end - from };
    start += held;
    return end > from ? [piece] : [];
  });
};

/** Rounds some images of a chunk, and brings them to their place. */
export interface Rounding {
  readonly chunk: number;
  readonly run: (from: bigint, to: bigint) => void;
  /** The chunk is all images, in bfloat16 already. */
  readonly done: boolean;
}

/** Types of the chunks of a side, of which some are bfloat16. */
export type Types = readonly Type["dtype"][];

/** A type as oneDNN calls it. */
export const heldAs = (dtype: Type["dtype"] | undefined): DataType => (dtype === NARROW ? "bfloat16" : "float32");

/** Where the images lie in bfloat16: as they came, or rounded to `near`. */
export const gathered = (roundings: readonly Rounding[], parts: readonly bigint[], near: bigint): bigint => {
  const [first] = roundings;
  if (roundings.length === 1 && first?.done) return parts[first.chunk]!;
  for (const { chunk, run } of roundings) run(parts[chunk]!, near);
  return near;
};

/** What brings `count` images from `first` on to memory of their own, in bfloat16. */
export const roundingsOf = (
  primitives: Primitives,
  c: Convolution,
  side: Side,
  types: Types,
  [first, count]: readonly [first: number, count: number],
): readonly Rounding[] => {
  const chunks = chunksOf(c, side);
  const channels = imagesOf(c, side, 1)[1];
  if (side === "input" && ofImages(c)) return [{ chunk: 0, run: fromImages(primitives, c, first, count), done: false }];
  return piecesOf(chunks, first, count).map((piece) => {
    const images = imagesOf(c, side, piece.count);
    const [held, type] = [chunks[piece.chunk]!, heldAs(types[piece.chunk])];
    const narrow = type === "bfloat16";
    const near = volume(images, type, held);
    const run = primitives.reorder(near, volume(images, "bfloat16", count));
    const [skipped, before] = [
      BigInt(piece.from * channels * BYTES[type]),
      BigInt(piece.to * channels * BYTES.bfloat16),
    ];
    const done = narrow && piece.count === count && held === count;
    return { chunk: piece.chunk, run: (from, to) => run(from + skipped, to + before), done };
  });
};

/** The same of x and of dy, the types of whose chunks follow each other. */
export const bothRoundingsOf = (
  primitives: Primitives,
  c: Convolution,
  types: Types,
  range: readonly [first: number, count: number],
): { readonly x: readonly Rounding[]; readonly dy: readonly Rounding[] } => {
  const inputs = c.inputChunks.length;
  return {
    x: roundingsOf(primitives, c, "input", types.slice(0, inputs), range),
    dy: roundingsOf(primitives, c, "output", types.slice(inputs), range),
  };
};
