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
import { type Laid, type Placed, sameShape } from "../layout.ts";
import type { Lowering } from "../lower.ts";
import { pixelMeans } from "./batch-norm.ts";
import { shaped } from "./contrib.ts";
import { branchRows, imageRows, isPixel, type PixelLayout, pixelLayout, rechunk } from "./pixel.ts";

/** Applied to each chunk where the operand is in chunks. */
const unary =
  (one: (part: Value, attributes: never) => Value): Lowering =>
  ({ inputs: [x], attributes }) => {
    const { home } = x as Laid;
    return isPixel(home)
      ? [{ layout: home, parts: (x as Laid).in(home).map((part) => one(part, attributes as never)) }]
      : undefined;
  };

/** ReLU of what can be computed anew can be computed anew. */
const activation: Lowering = ({ inputs: [x] }) => {
  const { home, renewable, sums } = x as Laid;
  if (!isPixel(home)) return undefined;
  const all = (parts: readonly Value[]) => parts.map((part) => relu(part));
  const parts = all((x as Laid).in(home));
  const again = () => all((x as Laid).anew(home));
  return [renewable ? { layout: home, parts, again, sums } : { layout: home, parts }];
};

/**
 * The sum that ends a residual block can be computed anew from what its branches are computed anew from, but not from
 * another such sum: else the first layer of a backward pass would compute all sums below it, and keep them.
 */
const addition: Lowering = (call) => {
  const results = binary(add)(call);
  const [a, b] = call.inputs as readonly [Laid, Laid];
  const [sum] = (results ?? []) as readonly Placed[];
  if (sum === undefined || a.home.name !== b.home.name || !a.renewable || !b.renewable || a.sums + b.sums > 0)
    return results;
  const again = () => {
    const [left, right] = [a.anew(a.home), b.anew(b.home)];
    return left.map((part, i) => add(part, right[i] as Value));
  };
  return [{ ...sum, again, sums: 1 }];
};

/** dy where y is positive. y is computed anew if that is cheap, rather than kept since the forward pass. */
const activationGrad: Lowering = ({ inputs: [y, dy] }) => {
  const { home } = y as Laid;
  if (!isPixel(home) || !sameShape((y as Laid).type, (dy as Laid).type)) return undefined;
  const again = (y as Laid).anew(home);
  const parts = (dy as Laid).in(home).map((part, i) => mul(part, mask(again[i] as Value)));
  return [{ layout: home, parts }];
};

/** What an operand gives each chunk of a result [N,C,H,W] in the layout; undefined where it does not broadcast so. */
const operand = (x: Laid, result: Type, layout: PixelLayout): readonly Value[] | undefined => {
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
    const chunked = inputs.find((x) => isPixel(x.home) && sameShape(x.type, type));
    if (chunked === undefined) return undefined;
    const layout = chunked.home as PixelLayout;
    const [a, b] = inputs.map((x) => operand(x, type, layout));
    if (a === undefined || b === undefined) return undefined;
    return [{ layout, parts: a.map((part, i) => one(part, b[i] as Value)) }];
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
    const { home, type } = x as Laid;
    const axes = node.definition === globalAveragePool.definition ? { axes: [2, 3] } : (attributes as Reduction);
    if (!isPixel(home) || !pixelAxes(axes, type.shape.length)) return undefined;
    const [, c = 0, h = 0, w = 0] = type.shape;
    const means = pixelMeans((x as Laid).in(home), c);
    const scale = factor(h * w);
    return [shaped(scale === 1 ? means : mul(means, scale), (y as Type).shape)];
  };

/** One number an image and channel spread over the pixels: the gradient of a mean over them. */
const spread: Lowering = ({ inputs: [x], types: [y] }) => {
  const [n = 0, c = 0, h = 0, w = 0] = (y as Type).shape;
  if ((y as Type).shape.length !== 4 || (x as Laid).type.shape.join() !== [n, c, 1, 1].join() || h * w === 1)
    return undefined;
  const layout = pixelLayout(y as Type);
  const rows = imageRows(shaped((x as Laid).plain, [n, c]), layout.chunks);
  return [{ layout, parts: rows.map((part) => expand(part, [h * w, part.dim(1)])) }];
};

/** Reshapes that only regroup images and channels, as interleaved branches do, leave every pixel's row as it is. */
const regroup: Lowering = ({ inputs: [x], types: [y] }) => {
  const { home, type } = x as Laid;
  const [from, to] = [type.shape, (y as Type).shape];
  if (!isPixel(home) || to.length !== 4 || from.slice(2).join() !== to.slice(2).join()) return undefined;
  const layout = pixelLayout(y as Type);
  const elements = (l: PixelLayout, c: number) => l.chunks.map((images) => images * c);
  const [before, after] = [elements(home, from[1] as number), elements(layout, to[1] as number)];
  return [{ layout, parts: rechunk((x as Laid).in(home), before, after, 1) } satisfies Placed];
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
