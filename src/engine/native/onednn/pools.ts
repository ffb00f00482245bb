/** Max pooling over chunks, and its gradient. */
import { type Convolution, madeOf } from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import {
  bothRoundingsOf,
  type Compute,
  chunksOf,
  gathered,
  heldAs,
  imagesOf,
  piecesOf,
  roundingsOf,
  type Side,
  shapeOf,
  type Tools,
  type Types,
} from "./chunks.ts";
import type { Type as DataType, Run } from "./maker.ts";
import { BYTES, bytesOf, volume } from "./primitives.ts";

/** Shapes of the chunks of a side. */
const shapesOf = (c: Convolution, side: Side): readonly (readonly number[])[] =>
  chunksOf(c, side).map((count) => shapeOf(c, side, count));

/** A pooling of `count` images. */
const prepare = ({ primitives, scratch }: Tools, c: Convolution, count: number) => {
  const [x, y] = [imagesOf(c, "input", count), imagesOf(c, "output", count)];
  const { kernel, strides, dilations, pads } = c;
  const prepared = primitives.pooling({ x, y, kernel, strides, dilations, pads });
  scratch.reserve("given", bytesOf(volume(x, "bfloat16")));
  scratch.reserve("pooled", bytesOf(volume(y, "bfloat16")));
  scratch.reserve("known", prepared.knownBytes);
  return prepared;
};

/** Brings images in bfloat16, `count` from `first` on, to the chunks of a side. */
const spread = (
  { primitives }: Tools,
  c: Convolution,
  side: Side,
  type: DataType,
  [first, count]: readonly [first: number, count: number],
): ((near: bigint, made: readonly bigint[]) => void) => {
  const [, channels] = imagesOf(c, side, 1);
  const chunks = chunksOf(c, side);
  const pieces = piecesOf(chunks, first, count).map((piece) => {
    const images = imagesOf(c, side, piece.count);
    const run: Run = primitives.reorder(volume(images, "bfloat16", count), volume(images, type, chunks[piece.chunk]!));
    const [skipped, before] = [
      BigInt(piece.to * channels * BYTES.bfloat16),
      BigInt(piece.from * channels * BYTES[type]),
    ];
    return { chunk: piece.chunk, run: (near: bigint, made: bigint) => run(near + skipped, made + before) };
  });
  return (near, made) => {
    for (const { chunk, run } of pieces) run(near, made[chunk]!);
  };
};

/** Parts of y from the parts of x. */
export const poolBy = (tools: Tools, c: Convolution, types: Types): Compute => {
  const { primitives, scratch } = tools;
  const type = heldAs(madeOf(c.narrow));
  const direct = type === "bfloat16" && c.inputChunks.join() === c.outputChunks.join();
  const shapes = shapesOf(c, "output");
  let first = 0;
  const chunks = c.inputChunks.map((count) => {
    const range = [first, count] as const;
    first += count;
    const roundings = roundingsOf(primitives, c, "input", types, range);
    return { prepared: prepare(tools, c, count), roundings, deliver: spread(tools, c, "output", type, range) };
  });
  return ({ inputs: parts, output }) => {
    const made = shapes.map((shape, i) => output(i, shape));
    for (const [i, { prepared, roundings, deliver }] of chunks.entries()) {
      const near = direct ? made[i]! : scratch.at("pooled");
      prepared.run(gathered(roundings, parts, scratch.at("given")), near, scratch.at("known"));
      if (!direct) deliver(near, made);
    }
  };
};

/** Parts of dx from the parts of x, pooled anew for what there is to know, and then those of dy. */
export const poolGradientBy = (tools: Tools, c: Convolution, types: Types): Compute => {
  const { primitives, scratch } = tools;
  const type = heldAs(madeOf(c.narrow));
  const shapes = shapesOf(c, "input");
  const inputs = c.inputChunks.length;
  let first = 0;
  const chunks = c.inputChunks.map((count) => {
    const range = [first, count] as const;
    first += count;
    scratch.reserve("output", bytesOf(volume(imagesOf(c, "output", count), "bfloat16")));
    scratch.reserve("input", bytesOf(volume(imagesOf(c, "input", count), "bfloat16")));
    return {
      prepared: prepare(tools, c, count),
      ...bothRoundingsOf(primitives, c, types, range),
      deliver: spread(tools, c, "input", type, range),
    };
  });
  return ({ inputs: parts, output }) => {
    const made = shapes.map((shape, i) => output(i, shape));
    const [pooled, known] = [scratch.at("pooled"), scratch.at("known")];
    for (const [i, { prepared, x, dy, deliver }] of chunks.entries()) {
      prepared.run(gathered(x, parts, scratch.at("given")), pooled, known);
      const near = type === "bfloat16" ? made[i]! : scratch.at("input");
      prepared.gradient(gathered(dy, parts.slice(inputs), scratch.at("output")), known, near);
      if (type !== "bfloat16") deliver(near, made);
    }
  };
};
