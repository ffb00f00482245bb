/**
 * Batch norm in the pixel-major layout. Sums over an image's pixels are products with a row of ones; what a branch does to
 * a channel is one factor and one term an image and channel, a row [1, c·C] that broadcasts over the pixels of a chunk.
 *
 * Forward (Ioffe & Szegedy 2015): y = f·x + t with f = scale/σ, t = bias - mean·f, σ² = E[x²] - mean² + ε.
 * Backward: with x̂ = (x - mean)/σ and means over a branch's channel, dx = f·(dy - mean(dy) - x̂·mean(dy·x̂)), that is
 * dx = f·dy + p·x + q with p = -f·mean(dy·x̂)/σ and q = -f·mean(dy) - p·mean; where that is one pass, f·(dy + (p/f)·x + q/f).
 */
import type { Type, Value } from "../../onnx/graph.ts";
import {
  add,
  type BranchedNorm,
  batchNormalization,
  batchNormTraining,
  batchNormTrainingGrad,
  concat,
  div,
  matMul,
  max,
  meansOverRanks,
  mul,
  neg,
  type OpDefinition,
  split,
  sqrt,
  statisticsOverRanks,
  sub,
  transpose,
} from "../../ops/index.ts";
import type { Lowered, Placed } from "../layout.ts";
import type { Lowering } from "../lower.ts";
import { branchRows, type ChunkedLayout, type Followed, fromImageRows, isChunked, type Known } from "./chunked.ts";
import { row, shaped } from "./contrib.ts";

/** Means over the pixels of each image, [N,C]. */
export const pixelMeans = (parts: readonly Value[], layout: ChunkedLayout, channels: number): Value =>
  fromImageRows(
    parts.map((part) => layout.means(part)),
    channels,
  );

/** `factor` times the means over the images of each branch, [nb,C], of what there is for each image, [N,C]. */
const branchMeans = (perImage: Value, branches: number, factor = 1): Value => {
  const [n, c] = [perImage.dim(0), perImage.dim(1)];
  const each = n / branches;
  return shaped(matMul(row(each, factor / each), shaped(perImage, [each, branches * c])), [branches, c]);
};

/** A value in chunks, [N,C,H,W]. */
interface Chunked {
  readonly parts: readonly Value[];
  readonly layout: ChunkedLayout;
  readonly shape: readonly number[];
}

/** Two rows [1, c·C] for each chunk, and by what they come to means over pixels. */
interface Pairs {
  readonly rows: readonly (readonly [Value, Value])[];
  readonly scales: readonly [number, number];
}

/** Means over the pixels of parts and of their products with others. */
const momentsWith = ({ parts, layout, shape }: Chunked, other: readonly Value[]): Pairs => {
  const pixels = shape[2]! * shape[3]!;
  const { moments, productSums } = layout;
  if (moments !== undefined)
    return {
      rows: parts.map((part, i) => moments(part, other[i] === part ? undefined : other[i])),
      scales: [1 / pixels, 1 / pixels],
    };
  return {
    rows: parts.map((part, i) => [
      layout.means(part),
      productSums?.(part, other[i]!) ?? layout.means(mul(part, other[i]!)),
    ]),
    scales: [1, productSums === undefined ? 1 : 1 / pixels],
  };
};

/**
 * Means over each branch of such rows, [nb,C] each. Equal chunks give both to one concatenation, chunk by chunk: the engine computes
 * what a node needs in the order of its inputs, and so both while a chunk is near.
 */
const branchPair = ({ rows, scales }: Pairs, { layout, shape }: Chunked, branches: number): [Value, Value] => {
  const [images = 0, channels = 0] = shape;
  const { chunks } = layout;
  if (rows.length === 1 || chunks.some((size) => size !== chunks[0]))
    return [0, 1].map((k) => {
      const perImage = fromImageRows(
        rows.map((pair) => pair[k]!),
        channels,
      );
      return branchMeans(perImage, branches, scales[k]);
    }) as [Value, Value];
  const pairs = concat(rows.flat(), { axis: 0 });
  const apart = transpose(shaped(pairs, [rows.length, 2, pairs.dim(1)]), { perm: [1, 0, 2] });
  const each = images / branches;
  const both = matMul(row(each, scales[0] / each), shaped(apart, [2, each, branches * channels]));
  const [first, second] = split(shaped(both, [2 * branches, channels]), { axis: 0, sizes: [branches, branches] });
  return [first!, scales[1] === scales[0] ? second! : mul(second!, scales[1] / scales[0])];
};

const training: Lowering = ({ inputs: [x, scale, bias], attributes, types: [y] }) => {
  const layout = (x as Lowered).layout;
  if (!isChunked(layout)) return undefined;
  const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
  const parts = (x as Lowered).in(layout);
  const [images = 0] = (y as Type).shape;
  const chunked: Chunked = { parts, layout, shape: (y as Type).shape };
  const [own, squares] = branchPair(momentsWith(chunked, parts), chunked, branches);
  const ownVariance = max(sub(squares, mul(own, own)), 0);
  const [mean, variance] = statisticsOverRanks(own, ownVariance, ranks);
  const factor = div((scale as Lowered).plain, sqrt(add(variance, epsilon)));
  const term = sub((bias as Lowered).plain, mul(mean, factor));
  return [affine(parts, factor, term, layout, images), mean, variance];
};

/** factor·x + term with [nb,C] each, which can be computed anew from x. */
const affine = (
  parts: readonly Value[],
  factor: Value,
  term: Value,
  layout: ChunkedLayout,
  images: number,
): Placed & Required<Pick<Placed, "recompute">> => {
  const [factors, terms] = [branchRows(factor, layout, images), branchRows(term, layout, images)];
  const recompute = () => parts.map((part, i) => layout.affine(part, factors[i]!, terms[i]!));
  const { fused } = layout;
  const followed: Followed | undefined =
    fused &&
    (({ plus, activation, times }) =>
      parts.map((part, i) => fused(part, factors[i]!, terms[i]!, { plus: plus?.[i], activation, times: times?.[i] })));
  const known: Known | undefined = followed && { followed, again: followed };
  return { layout, parts: recompute(), recompute, ...(known && { known }) };
};

/** What the gradient to x is made of, [nb,C] each but for the chunks: f·(dy - meanG - x̂·meanGN), x̂ = (x - centre)/sigma. */
interface Gradient {
  readonly x: readonly Value[];
  readonly dy: Chunked;
  readonly f: Value;
  readonly sigma: Value;
  readonly centre: Value;
  readonly meanG: Value;
  readonly meanGN: Value;
}

/** f·(dy + slope·x + term), in one pass. */
const combinedGrad = (
  { x, dy, f, sigma, centre, meanG, meanGN }: Gradient,
  rowsOf: (perBranch: Value) => readonly Value[],
  combined: NonNullable<ChunkedLayout["combined"]>,
): readonly Value[] => {
  const slope = neg(div(meanGN, sigma));
  const term = neg(add(meanG, mul(slope, centre)));
  const [factors, slopes, terms] = [rowsOf(f), rowsOf(slope), rowsOf(term)];
  return dy.parts.map((part, i) => combined(part, x[i]!, { factor: factors[i]!, slope: slopes[i]!, term: terms[i]! }));
};

/** f·dy + p·x + q. */
const affineGrad = (
  { x, dy: { parts, layout }, f, sigma, centre, meanG, meanGN }: Gradient,
  rowsOf: (perBranch: Value) => readonly Value[],
): readonly Value[] => {
  const p = neg(div(mul(f, meanGN), sigma));
  const q = neg(add(mul(f, meanG), mul(p, centre)));
  const [fs, ps, qs] = [rowsOf(f), rowsOf(p), rowsOf(q)];
  return x.map((part, i) => layout.affine(part, ps[i]!, qs[i]!, layout.scaled(parts[i]!, fs[i]!)));
};

const trainingGrad: Lowering = ({ inputs: [x, dy, scale, mean, variance], attributes, types: [dx] }) => {
  const layout = (x as Lowered).layout;
  if (!isChunked(layout)) return undefined;
  const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
  const { shape } = dx as Type;
  const [images = 0, , h = 0, w = 0] = shape;
  const parts = (x as Lowered).in(layout);
  const sigma = sqrt(add((variance as Lowered).plain, epsilon));
  const centre = (mean as Lowered).plain;
  const f = div((scale as Lowered).plain, sigma);
  const g: Chunked = { parts: (dy as Lowered).in(layout), layout, shape };
  const [ownG, ownGX] = branchPair(momentsWith(g, parts), g, branches);
  const ownGN = div(sub(ownGX, mul(centre, ownG)), sigma);
  const [meanG, meanGN] = meansOverRanks([ownG, ownGN], ranks) as [Value, Value];
  const gradient: Gradient = { x: parts, dy: g, f, sigma, centre, meanG, meanGN };
  const rowsOf = (perBranch: Value) => branchRows(perBranch, layout, images);
  const { combined } = layout;
  const made = combined === undefined ? affineGrad(gradient, rowsOf) : combinedGrad(gradient, rowsOf, combined);
  const count = (images / branches) * h * w;
  return [{ layout, parts: made }, mul(ownGN, count), mul(ownG, count)];
};

/** Evaluation mode: the same affine map with given statistics. */
const evaluation: Lowering = ({ inputs: [x, scale, bias, mean, variance], attributes, types: [y] }) => {
  const layout = (x as Lowered).layout;
  if (!isChunked(layout)) return undefined;
  const factor = div((scale as Lowered).plain, sqrt(add((variance as Lowered).plain, attributes.epsilon ?? 1e-5)));
  const term = sub((bias as Lowered).plain, mul((mean as Lowered).plain, factor));
  const [images = 0, c = 0] = (y as Type).shape;
  const single = (v: Value) => shaped(v, [1, c]);
  const { recompute: _, ...kept } = affine((x as Lowered).in(layout), single(factor), single(term), layout, images);
  return [kept];
};

export const batchNorms: readonly [OpDefinition, Lowering][] = [
  [batchNormTraining.definition, training],
  [batchNormTrainingGrad.definition, trainingGrad],
  [batchNormalization.definition, evaluation],
];
