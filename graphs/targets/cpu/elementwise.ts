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
  hardSigmoid,
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
import { shaped } from "./contrib.ts";
import { branchRows, imageRows, isPixel, type PixelLayout, pixelLayout, rechunk } from "./pixel.ts";

/** Applied to each chunk where the operand is in chunks. */
const unary =
  (one: (part: Value, attributes: never) => Value): Lowering =>
  ({ inputs: [x], attributes }) => {
    const { layout } = x as Lowered;
    return isPixel(layout)
      ? [{ layout, parts: (x as Lowered).in(layout).map((part) => one(part, attributes as never)) }]
      : undefined;
  };

/** ReLU of what can be computed anew can be computed anew. */
const activation: Lowering = ({ inputs: [x] }) => {
  const { layout, recomputable, sums } = x as Lowered;
  if (!isPixel(layout)) return undefined;
  const all = (parts: readonly Value[]) => parts.map((part) => relu(part));
  const parts = all((x as Lowered).in(layout));
  const recompute = () => all((x as Lowered).recomputed(layout));
  return [recomputable ? { layout, parts, recompute, sums } : { layout, parts }];
};

/**
 * The sum that ends a residual block can be computed anew from what its branches are computed anew from, but not from
 * another such sum: else the first layer of a backward pass would compute all sums below it, and keep them.
 */
const addition: Lowering = (call) => {
  const results = binary(add)(call);
  const [a, b] = call.inputs as readonly [Lowered, Lowered];
  const [sum] = (results ?? []) as readonly Placed[];
  if (sum === undefined || a.layout.name !== b.layout.name || !a.recomputable || !b.recomputable || a.sums + b.sums > 0)
    return results;
  const recompute = () => {
    const [left, right] = [a.recomputed(a.layout), b.recomputed(b.layout)];
    return left.map((part, i) => add(part, right[i]!));
  };
  return [{ ...sum, recompute, sums: 1 }];
};

/** dy where y is positive. y is computed anew if that is cheap, rather than kept since the forward pass. */
const activationGrad: Lowering = ({ inputs: [y, dy] }) => {
  const { layout } = y as Lowered;
  if (!isPixel(layout) || !sameShape((y as Lowered).type, (dy as Lowered).type)) return undefined;
  const outputs = (y as Lowered).recomputed(layout);
  const parts = (dy as Lowered).in(layout).map((part, i) => mul(part, mask(outputs[i]!)));
  return [{ layout, parts }];
};

/** What an operand gives each chunk of a result [N,C,H,W] in the layout; undefined where it does not broadcast so. */
const operand = (x: Lowered, result: Type, layout: PixelLayout): readonly Value[] | undefined => {
  if (sameShape(x.type, result)) return x.in(layout);
  const { shape } = x.type;
  if (shape.every((d) => d === 1)) {
    const single = shaped(x.plain, []);
    return layout.chunks.map(() => single);
  }
  const [n = 0, c = 0] = result.shape;
  if (shape.join() === [n, c, 1, 1].join()) return imageRows(shaped(x.plain, [n, c]), layout.chunks);
  // [1,C,1,1] or [C,1,1]: one number a channel.
  if (
    x.type.shape.length >= 3 &&
    x.type.shape.length <= 4 &&
    [1, c, 1, 1].slice(4 - shape.length).join() === shape.join()
  )
    return branchRows(shaped(x.plain, [1, c]), layout, n);
  return undefined;
};

const binary =
  (one: (a: Value, b: Value) => Value): Lowering =>
  ({ inputs, types: [y] }) => {
    const type = y as Type;
    const chunked = inputs.find((x) => isPixel(x.layout) && sameShape(x.type, type));
    if (chunked === undefined) return undefined;
    const layout = chunked.layout as PixelLayout;
    const [a, b] = inputs.map((x) => operand(x, type, layout));
    if (a === undefined || b === undefined) return undefined;
    return [{ layout, parts: a.map((part, i) => one(part, b[i]!)) }];
  };

/** 1 where y = relu(x) is positive, else 0: one pass, where a comparison and a cast take two. */
const mask = (y: Value): Value => hardSigmoid(y, { alpha: 1e38, beta: 0 });

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
    if (!isPixel(layout) || !pixelAxes(axes, type.shape.length)) return undefined;
    const [, c = 0, h = 0, w = 0] = type.shape;
    const means = pixelMeans((x as Lowered).in(layout), c);
    const scale = factor(h * w);
    return [shaped(scale === 1 ? means : mul(means, scale), (y as Type).shape)];
  };

/** One number an image and channel spread over the pixels: the gradient of a mean over them. */
const spread: Lowering = ({ inputs: [x], types: [y] }) => {
  const [n = 0, c = 0, h = 0, w = 0] = (y as Type).shape;
  if ((y as Type).shape.length !== 4 || (x as Lowered).type.shape.join() !== [n, c, 1, 1].join() || h * w === 1)
    return undefined;
  const layout = pixelLayout(y as Type);
  const rows = imageRows(shaped((x as Lowered).plain, [n, c]), layout.chunks);
  return [{ layout, parts: rows.map((part) => expand(part, [h * w, part.dim(1)])) }];
};

/** Reshapes that only regroup images and channels, as interleaved branches do, leave every pixel's row as it is. */
const regroup: Lowering = ({ inputs: [x], types: [y] }) => {
  const { layout, type } = x as Lowered;
  const [from, to] = [type.shape, (y as Type).shape];
  if (!isPixel(layout) || to.length !== 4 || from.slice(2).join() !== to.slice(2).join()) return undefined;
  const regrouped = pixelLayout(y as Type);
  const elements = (l: PixelLayout, c: number) => l.chunks.map((images) => images * c);
  const [before, after] = [elements(layout, from[1]!), elements(regrouped, to[1]!)];
  return [{ layout: regrouped, parts: rechunk((x as Lowered).in(layout), before, after, 1) } satisfies Placed];
};

const passed = unary((part) => part);

export const elementwise: readonly [OpDefinition, Lowering][] = [
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
  [expand.definition, spread],
  [reshape.definition, regroup],
];
