/** Ops that follow the layout of their operands: elementwise ones, and reductions and spreads over the pixels. */
import type { Type, Value } from "../../onnx/graph.ts";
import { apply } from "../../onnx/graph.ts";
import {
  abs,
  add,
  div,
  exp,
  expand,
  globalAveragePool,
  identity,
  leakyRelu,
  max,
  min,
  mul,
  neg,
  type OpDefinition,
  type Reduction,
  reduceMean,
  reduceSum,
  relu,
  reluGrad,
  reshape,
  sigmoid,
  sqrt,
  stopGradient,
  sub,
  tanh,
} from "../../ops/index.ts";
import { type Lowered, type Placed, sameShape } from "../layout.ts";
import type { Lowering } from "../lower.ts";
import { pixelMeans } from "./batch-norm.ts";
import {
  branchRows,
  type ChunkedLayout,
  imageRows,
  isChunked,
  type Known,
  knownOf,
  mask,
  type Phased,
  type Phases,
  type Place,
  rechunk,
} from "./chunked.ts";
import { shaped } from "./contrib.ts";
import { isPixel, type PixelLayout } from "./pixel.ts";

/** Applied to each chunk where the operand is in chunks. */
const unary =
  (one: (part: Value, attributes: never) => Value): Lowering =>
  ({ inputs: [x], attributes }) => {
    const { layout } = x as Lowered;
    return isChunked(layout)
      ? [{ layout, parts: (x as Lowered).in(layout).map((part) => one(part, attributes as never)) }]
      : undefined;
  };

/** ReLU of what can be computed anew can be computed anew; where it follows an affine map in one pass, so can its mask. */
const activation: Lowering = ({ inputs: [x] }) => {
  const { layout, recomputable, sums } = x as Lowered;
  if (!isChunked(layout)) return undefined;
  const { followed, again } = knownOf(x as Lowered);
  const apart = (parts: readonly Value[]) => parts.map((part) => relu(part));
  const parts = followed?.({ activation: "relu" }) ?? apart((x as Lowered).in(layout));
  if (!recomputable) return [{ layout, parts }];
  if (again === undefined) return [{ layout, parts, sums, recompute: () => apart((x as Lowered).recomputed(layout)) }];
  const known: Known = { positive: (times) => again({ activation: "positive", times }) };
  return [{ layout, parts, sums, recompute: () => again({ activation: "relu" }), known }];
};

/**
 * The sum that ends a residual block can be computed anew from what its branches are computed anew from, but not from
 * another such sum: else the first layer of a backward pass would compute all sums below it, and keep them.
 */
const addition: Lowering = (call) => {
  const [a, b] = call.inputs as readonly [Lowered, Lowered];
  const sum =
    inPhases(a, b) ??
    inPhases(b, a) ??
    follow(a, b) ??
    follow(b, a) ??
    (binary(add, sumIn)(call) as readonly [Placed] | undefined)?.[0];
  if (sum === undefined) return undefined;
  if (a.layout.name !== b.layout.name || !a.recomputable || !b.recomputable || a.sums + b.sums > 0) {
    const { again: _, ...known } = (sum.known ?? {}) as Known;
    return [{ ...sum, known }];
  }
  const recompute = () => {
    const [left, right] = [a.recomputed(a.layout), b.recomputed(b.layout)];
    const sum = sumIn(a.layout as ChunkedLayout);
    return left.map((part, i) => sum(part, right[i]!));
  };
  return [{ ...sum, recompute, sums: 1 }];
};

/** a + b of gradients that a stride cuts alike, the phases of b added in the convolutions of those of a. */
const inPhases = (a: Lowered, b: Lowered): Placed | undefined => {
  const [one, other] = [knownOf(a).phased, knownOf(b).phased];
  if (one === undefined || other === undefined || a.layout.name !== b.layout.name) return undefined;
  if (!sameShape(a.type, b.type) || countOf(one) < countOf(other) || shapesOf(one) !== shapesOf(other))
    return undefined;
  return { layout: a.layout, parts: one.withPhases(other.phases) };
};

/** How many phases there are that are not zero. */
const countOf = ({ phases: [first] }: Phased): number => (first as Phases).flat().filter((p) => p !== undefined).length;

/** Rows and columns of phases, and the shape of each. */
const shapesOf = ({ phases: [first] }: Phased): string => {
  const rows = first as Phases;
  const some = rows.flat().find((phase) => phase !== undefined);
  return [rows.length, rows[0]?.length, some?.shape].join();
};

/** a + b as one pass where a is an affine map. */
const follow = (a: Lowered, b: Lowered): Placed | undefined => {
  const { followed, again = followed } = knownOf(a);
  if (followed === undefined || again === undefined || !sameShape(a.type, b.type)) return undefined;
  const plus = b.in(a.layout);
  const known: Known = {
    followed: (then) => followed({ ...then, plus }),
    again: (then) => again({ ...then, plus: b.recomputed(a.layout) }),
  };
  return { layout: a.layout, parts: followed({ plus }), known };
};

/** dy where y is positive. y is computed anew if that is cheap, rather than kept since the forward pass. */
const activationGrad: Lowering = ({ inputs: [y, dy] }) => {
  const { layout } = y as Lowered;
  if (!isChunked(layout) || !sameShape((y as Lowered).type, (dy as Lowered).type)) return undefined;
  const { masked } = knownOf(dy as Lowered);
  if (masked !== undefined && masked.of === y && layout.name === (dy as Lowered).layout.name)
    return [{ layout, parts: masked.parts() }];
  const back = (dy as Lowered).in(layout);
  const { positive } = knownOf(y as Lowered);
  if (layout.gates && positive !== undefined) return [{ layout, parts: positive(back) }];
  if (layout.gated !== undefined)
    return [{ layout, parts: (y as Lowered).recomputed(layout).map((part, i) => layout.gated!(part, back[i]!)) }];
  const masks = positive?.() ?? (y as Lowered).recomputed(layout).map(mask);
  return [{ layout, parts: back.map((part, i) => mul(part, masks[i]!)) }];
};

/** What an operand gives a result [N,C,H,W] in the layout: parts as large, rows, or one number; undefined where it does not broadcast so. */
const operand = (
  x: Lowered,
  result: Type,
  layout: ChunkedLayout,
): { readonly parts: readonly Value[]; readonly rows?: true } | undefined => {
  if (sameShape(x.type, result)) return { parts: x.in(layout) };
  const { shape } = x.type;
  if (shape.every((d) => d === 1)) {
    const single = shaped(x.plain, []);
    return { parts: layout.chunks.map(() => single) };
  }
  const [n = 0, c = 0] = result.shape;
  if (shape.join() === [n, c, 1, 1].join())
    return { parts: imageRows(shaped(x.plain, [n, c]), layout.chunks), rows: true };
  // [1,C,1,1] or [C,1,1]: one number a channel.
  if (
    x.type.shape.length >= 3 &&
    x.type.shape.length <= 4 &&
    [1, c, 1, 1].slice(4 - shape.length).join() === shape.join()
  )
    return { parts: branchRows(shaped(x.plain, [1, c]), layout, n), rows: true };
  return undefined;
};

type Binary = (a: Value, b: Value) => Value;

const sumIn = (layout: ChunkedLayout): Binary => layout.sum ?? add;

/** An op by parts; `whole` is how a layout has it for two parts as large. */
const binary =
  (one: Binary, whole: (layout: ChunkedLayout) => Binary = () => one): Lowering =>
  ({ inputs, types: [y] }) => {
    const type = y as Type;
    const chunked = inputs.find((x) => isChunked(x.layout) && sameShape(x.type, type));
    if (chunked === undefined) return undefined;
    const layout = chunked.layout as ChunkedLayout;
    const [a, b] = inputs.map((x) => operand(x, type, layout));
    if (a === undefined || b === undefined) return undefined;
    const both = (i: number): Value => {
      const [left, right] = [a.parts[i]!, b.parts[i]!];
      if (a.rows) return layout.byRow((part, given) => one(given, part), right, left);
      if (b.rows) return layout.byRow(one, left, right);
      return sameShape(left, right) ? whole(layout)(left, right) : one(left, right);
    };
    return [{ layout, parts: a.parts.map((_, i) => both(i)) }];
  };

const pixelAxes = ({ axes }: Reduction, rank: number): boolean =>
  rank === 4 &&
  axes?.length === 2 &&
  axes
    .map((a) => (a < 0 ? a + rank : a))
    .sort()
    .join() === "2,3";

const pixelReduction =
  (factor: (pixels: number) => number): Lowering =>
  ({ inputs: [x], attributes, types: [y], node }) => {
    const { layout, type } = x as Lowered;
    const axes = node.definition === globalAveragePool.definition ? { axes: [2, 3] } : (attributes as Reduction);
    if (!isChunked(layout) || !pixelAxes(axes, type.shape.length)) return undefined;
    const [, c = 0, h = 0, w = 0] = type.shape;
    const means = pixelMeans((x as Lowered).in(layout), layout, c);
    const scale = factor(h * w);
    return [shaped(scale === 1 ? means : mul(means, scale), (y as Type).shape)];
  };

/** One number an image and channel spread over the pixels: the gradient of a mean over them. */
const spread =
  (place: Place): Lowering =>
  ({ inputs: [x], types: [y] }) => {
    const [n = 0, c = 0, h = 0, w = 0] = (y as Type).shape;
    if ((y as Type).shape.length !== 4 || (x as Lowered).type.shape.join() !== [n, c, 1, 1].join() || h * w === 1)
      return undefined;
    const layout = place(y as Type);
    const rows = imageRows(shaped((x as Lowered).plain, [n, c]), layout.chunks);
    return [{ layout, parts: rows.map((part) => layout.spread(part, y as Type)) }];
  };

/** Reshapes that only regroup images and channels, as interleaved branches do, leave every pixel's row as it is. */
const regroup: Lowering = ({ inputs: [x], types: [y] }) => {
  const { layout, type } = x as Lowered;
  const [from, to] = [type.shape, (y as Type).shape];
  if (!isPixel(layout) || to.length !== 4 || from.slice(2).join() !== to.slice(2).join()) return undefined;
  const regrouped = layout.cut(y as Type);
  const elements = (l: PixelLayout, c: number) => l.chunks.map((images) => images * c);
  const [before, after] = [elements(layout, from[1]!), elements(regrouped, to[1]!)];
  return [{ layout: regrouped, parts: rechunk((x as Lowered).in(layout), before, after, 1) } satisfies Placed];
};

const passed = unary((part) => part);

/** Entries for these ops, with where a value of a type lies that none of their operands places. */
export const elementwise = (place: Place): readonly [OpDefinition, Lowering][] => [
  ...[neg, abs, exp, sqrt, sigmoid, tanh].map(({ definition }): [OpDefinition, Lowering] => [
    definition,
    unary((part, attributes) => apply(definition, [part], attributes)[0] as Value),
  ]),
  [leakyRelu.definition, unary((part, attributes) => leakyRelu(part, attributes))],
  [identity.definition, passed],
  [stopGradient.definition, passed],
  [add.definition, addition],
  ...[sub, mul, div, min, max].map((op): [OpDefinition, Lowering] => [op.definition, binary(op)]),
  [relu.definition, activation],
  [reluGrad.definition, activationGrad],
  [reduceMean.definition, pixelReduction(() => 1)],
  [globalAveragePool.definition, pixelReduction(() => 1)],
  [reduceSum.definition, pixelReduction((pixels) => pixels)],
  [expand.definition, spread(place)],
  [reshape.definition, regroup],
];
