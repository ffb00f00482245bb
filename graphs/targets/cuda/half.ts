/**
 * Mixed precision: activations of a network, and gradients to them, lie in float16, half the bytes of each pass; convolutions
 * and matrix products compute in it (and sum in float32, as cuDNN and cuBLAS do). Parameters, statistics, sums over a batch,
 * losses and optimizers stay float32.
 *
 * Gradients are lifted by a power of two, which rounds nothing: those of a mean over a large batch are smaller than float16's
 * digits. So lifted, its range ends at 16; a mean's weight gradients are far below.
 */
import { type Attributes, apply, isAbsent, type Type, type Value } from "../../onnx/graph.ts";
import {
  add,
  batchNormalization,
  batchNormTraining,
  batchNormTrainingGrad,
  cast,
  conv,
  convGradInput,
  convGradWeight,
  div,
  gemm,
  matMul,
  mul,
  type OpDefinition,
  relu,
  reluGrad,
  reshape,
} from "../../ops/index.ts";
import { batchNormGrad, inverseDeviation, type PixelDots, shifted } from "../gpu.ts";
import { type Layout, type Lowered, type Placed, sameShape } from "../layout.ts";
import type { Lowering } from "../lower.ts";
import { trainingInHalf } from "./batch-norm.ts";
import type { Way } from "./convolution.ts";

const LIFT = 4096;

const toHalf = (x: Value): Value => cast(x, { to: "float16" });
const toSingle = (x: Value): Value => cast(x, { to: "float32" });

/** An activation in float16. */
const half: Layout = {
  name: "float16",
  pack: (x) => [toHalf(x)],
  unpack: ([x]) => toSingle(x as Value),
};

/** A gradient in float16, LIFT times as large. */
const lifted: Layout = {
  name: `float16 × ${LIFT}`,
  pack: (x) => [toHalf(mul(x, LIFT))],
  unpack: ([x]) => div(toSingle(x as Value), LIFT),
};

const part = (x: Lowered | undefined, layout: Layout): Value => (x as Lowered).one(layout);
const isIn = (x: Lowered | undefined, layout: Layout): boolean => x?.layout.name === layout.name;
const layoutOf = (x: Lowered | undefined): Layout | undefined => [half, lifted].find((layout) => isIn(x, layout));
const isSingle = (types: readonly Type[]): boolean => types.every(({ dtype }) => dtype === "float32");

/** A matrix product of operands that are rounded to float16; what comes out is float32. */
const product =
  (definition: OpDefinition): Lowering =>
  ({ inputs, attributes, types }) => {
    if (!isSingle(types)) return undefined;
    const operands = inputs.map((x) => (isAbsent(x.plain) ? x.plain : toHalf(x.plain)));
    return [toSingle(apply(definition, operands, attributes as Attributes)[0] as Value)];
  };

const convolution: Lowering = ({ inputs, attributes, types }) => {
  if (!isSingle(types)) return undefined;
  const operands = inputs.map((x) => (isAbsent(x.plain) ? x.plain : part(x, half)));
  return [{ layout: half, parts: apply(conv.definition, operands, attributes as Attributes) }];
};

const gradInput =
  (way: Way): Lowering =>
  ({ inputs: [dy, w], attributes, types }) =>
    isSingle(types)
      ? [{ layout: lifted, parts: [way([part(dy, lifted), part(w, half)], attributes as Attributes, types)] }]
      : undefined;

const gradWeight =
  (way: Way): Lowering =>
  ({ inputs: [x, dy], attributes, types }) =>
    isSingle(types)
      ? [div(toSingle(way([part(x, half), part(dy, lifted)], attributes as Attributes, types)), LIFT)]
      : undefined;

const evaluation: Lowering = ({ inputs: [x, scale, bias, mean, variance], attributes }) => {
  if (!isIn(x, half)) return undefined;
  const { epsilon = 1e-5 } = attributes as { epsilon?: number };
  const factor = mul((scale as Lowered).plain, part(variance, inverseDeviation(epsilon)));
  return [{ layout: half, parts: [shifted(part(x, half), (mean as Lowered).plain, factor, (bias as Lowered).plain)] }];
};

const activation: Lowering = ({ inputs: [x] }) =>
  isIn(x, half) ? [{ layout: half, parts: [relu(part(x, half))] }] : undefined;

const activationGrad =
  (way: Way): Lowering =>
  ({ inputs: [y, dy], attributes, types }) =>
    isIn(y, half)
      ? [{ layout: lifted, parts: [way([part(y, half), part(dy, lifted)], attributes as Attributes, types)] }]
      : undefined;

/** Of two activations, or of two gradients. */
const addition: Lowering = ({ inputs: [a, b] }) => {
  const layout = layoutOf(a);
  if (layout === undefined || !isIn(b, layout) || !sameShape((a as Lowered).type, (b as Lowered).type))
    return undefined;
  return [{ layout, parts: [add(part(a, layout), part(b, layout))] }];
};

/** By one number a channel, as the gradient of a batch norm with given statistics has it. */
const scaling: Lowering = ({ inputs: [x, factor], types: [y] }) => {
  const layout = layoutOf(x);
  if (layout === undefined || !sameShape((x as Lowered).type, y as Type)) return undefined;
  const { shape } = (factor as Lowered).type;
  const perChannel = [1, (y as Type).shape[1], 1, 1].join() === shape.join();
  return perChannel ? [{ layout, parts: [mul(part(x, layout), part(factor, half))] }] : undefined;
};

const regroup: Lowering = ({ inputs: [x], types: [y] }) => {
  const layout = layoutOf(x);
  return layout && [{ layout, parts: [reshape(part(x, layout), (y as Type).shape)] } satisfies Placed];
};

export interface HalfOptions {
  readonly gradWeight: Way;
  readonly gradInput: Way;
  readonly reluGrad: Way;
  /** Whether batch norms take float16, and how they sum products; else they are as in float32, with casts around them. */
  readonly dots?: PixelDots | undefined;
}

export const halfLowerings = (options: HalfOptions): readonly (readonly [OpDefinition, Lowering])[] => [
  [conv.definition, convolution],
  [convGradInput.definition, gradInput(options.gradInput)],
  [convGradWeight.definition, gradWeight(options.gradWeight)],
  ...[matMul, gemm].map(({ definition }) => [definition, product(definition)] as const),
  ...(options.dots
    ? ([
        [batchNormTraining.definition, trainingInHalf(half)],
        [
          batchNormTrainingGrad.definition,
          batchNormGrad({ dots: options.dots, activation: half, gradient: lifted, lift: LIFT }),
        ],
        [batchNormalization.definition, evaluation],
      ] as const)
    : []),
  [relu.definition, activation],
  [reluGrad.definition, activationGrad(options.reluGrad)],
  [add.definition, addition],
  [mul.definition, scaling],
  [reshape.definition, regroup],
];
