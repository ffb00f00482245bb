/**
 * What the layouts of this target have in common: a value [N,C,H,W] is cut into chunks of images, tensors of their own, and
 * what differs by image and channel, as a batch norm's factors do by branch, is a row [1, c·C] for a chunk of c images.
 */
import type { Type, Value } from "../../onnx/graph.ts";
import { concat, expandAs, hardSigmoid, slice } from "../../ops/index.ts";
import type { Layout, Lowered } from "../layout.ts";
import { shaped } from "./contrib.ts";

/**
 * What a map factor·x + term is followed by: a sum with a tensor as large, then max(0, ·), or 1 where positive and else 0, then
 * a product with a tensor as large, where the layout `gates`.
 */
export interface Then {
  readonly plus?: Value | undefined;
  readonly activation?: "relu" | "positive" | undefined;
  readonly times?: Value | undefined;
}

/** Rows of `combined`. */
export interface CombinedRows {
  readonly factor: Value;
  readonly slope: Value;
  readonly term: Value;
}

export interface ChunkedLayout extends Layout {
  /** Images of each tensor. */
  readonly chunks: readonly number[];
  /** Means over the pixels of each image, a row. */
  means(part: Value): Value;
  /** Sums over the pixels of the products of two parts, a row, where that is one pass over both. */
  readonly productSums?: (a: Value, b: Value) => Value;
  /** Sums over the pixels of a part and of its products with another, or its squares, rows, where that is one pass over both. */
  readonly moments?: (part: Value, other?: Value) => readonly [Value, Value];
  /** factor·(part + slope·other + term) by rows, where that is one pass over both. */
  readonly combined?: (part: Value, other: Value, rows: CombinedRows) => Value;
  /** factor·part + term by rows, and plus a tensor as large. */
  affine(part: Value, factor: Value, term: Value, plus?: Value): Value;
  /** The same with what follows, where that is one pass over the part. */
  readonly fused?: (part: Value, factor: Value, term: Value, then: Then) => Value;
  /** Whether `fused` takes a product behind it. */
  readonly gates?: true;
  /** dy where y is positive, else 0, where that is one pass. */
  readonly gated?: (y: Value, dy: Value) => Value;
  /** The sum of two parts, where that is not onnxruntime's. */
  readonly sum?: (a: Value, b: Value) => Value;
  /** factor·part by a row. */
  scaled(part: Value, factor: Value): Value;
  /** Tensors to which a part and a row broadcast as `one` is applied to them. */
  byRow(one: (part: Value, row: Value) => Value, part: Value, row: Value): Value;
  /** The parts of a value as tensors [H·W, c·C] of the same images, where this is not the pixel-major layout. */
  readonly pixels?: (parts: readonly Value[], type: Type) => readonly Value[];
  /** A row at every pixel of a chunk of a value of the type. */
  spread(row: Value, type: Type): Value;
}

/** Where a value of a type lies. */
export type Place = (type: { readonly shape: readonly number[] }) => ChunkedLayout;

export const isChunked = (layout: Layout): layout is ChunkedLayout => "chunks" in layout;

/** The parts are a map factor·x + term: the same with what follows it, in one pass over x. */
export type Followed = (then: {
  readonly plus?: readonly Value[];
  readonly activation?: Then["activation"];
  readonly times?: readonly Value[] | undefined;
}) => readonly Value[];

/** Rows and columns of images that a stride's gradient reaches alike, [row phase][column phase]; where there is none, it is zero. */
export type Phases = readonly (readonly (Value | undefined)[])[];

/** A gradient that phases make up, for each chunk, and the same with those of another one added before they are joined. */
export interface Phased {
  readonly phases: readonly Phases[];
  readonly withPhases: (other: readonly Phases[]) => readonly Value[];
}

/** What is known of a value's parts in its own layout. */
export interface Known {
  readonly followed?: Followed;
  readonly phased?: Phased;
  /** The same from values that are kept anyway, where the value can be computed anew. */
  readonly again?: Followed;
  /** 1 where the value is positive, else 0, from such values; times tensors as large, where the layout gates. */
  readonly positive?: (times?: readonly Value[]) => readonly Value[];
  /** Of a gradient to what a ReLU gave, `of`: its parts where that is positive, else 0, by less than a mask of them all. */
  readonly masked?: { readonly of: Lowered; readonly parts: () => readonly Value[] };
}

/** 1 where y = relu(x) is positive, else 0: one pass, where a comparison and a cast take two. */
export const mask = (y: Value): Value => hardSigmoid(y, { alpha: 1e38, beta: 0 });

/** What a lowering of this target said of its result. */
export const knownOf = (x: Lowered): Known => (x.known as Known | undefined) ?? {};

/** Tensors that hold `from[i]` images each, with `elements` places an image along the axis, cut anew so that they hold `to[i]`. */
export const rechunk = (
  parts: readonly Value[],
  from: readonly number[],
  to: readonly number[],
  elements: number,
  axis = 1,
): readonly Value[] => {
  if (from.join() === to.join()) return parts;
  let [part, used] = [0, 0];
  return to.map((wanted) => {
    const pieces: Value[] = [];
    for (let missing = wanted; missing > 0; ) {
      const held = from[part]!;
      const taken = Math.min(missing, held - used);
      const whole = parts[part]!;
      pieces.push(
        taken === held ? whole : slice(whole, [{ axis, start: used * elements, end: (used + taken) * elements }]),
      );
      missing -= taken;
      used += taken;
      if (used === held) [part, used] = [part + 1, 0];
    }
    return pieces.length === 1 ? pieces[0]! : concat(pieces, { axis });
  });
};

/** A row for each chunk, [1, c·C], from a value [N, C] that has one for each image. */
export const imageRows = (perImage: Value, chunks: readonly number[]): readonly Value[] => {
  const [n, c] = [perImage.dim(0), perImage.dim(1)];
  return rechunk([shaped(perImage, [1, n * c])], [n], chunks, c);
};

/** Back from rows [1, c·C] to [N, C]. */
export const fromImageRows = (rows: readonly Value[], channels: number): Value =>
  shaped(rows.length === 1 ? rows[0]! : concat(rows, { axis: 1 }), [-1, channels]);

/** The row [1, c·C] of each chunk from a value [nb,C]; chunks that start alike share theirs. */
export const branchRows = (perBranch: Value, { chunks }: ChunkedLayout, images: number): readonly Value[] => {
  const [branches, c] = [perBranch.dim(0), perBranch.dim(1)];
  const aligned = chunks.every((size) => size % branches === 0);
  const period = aligned ? chunks[0]! : images;
  const tiled = shaped(expandAs(perBranch, [period / branches, branches, c]), [1, period * c]);
  if (!aligned) return rechunk([tiled], [images], chunks, c);
  const short = chunks.at(-1) as number;
  const last = short === period ? tiled : (rechunk([tiled], [period], [short, period - short], c)[0] as Value);
  return chunks.map((size) => (size === period ? tiled : last));
};
