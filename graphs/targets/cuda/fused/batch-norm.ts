/** How batch norms, their ReLUs and sums, and the gradients of those become the fused kernels, each in one op. */
import type { Type, Value } from "../../../onnx/graph.ts";
import {
  add,
  type BranchedNorm,
  batchNormalization,
  batchNormTraining,
  batchNormTrainingGrad,
  mul,
  type OpDefinition,
  relu,
  reluGrad,
  reshape,
  statisticsOverRanks,
} from "../../../ops/index.ts";
import { type Lowered, sameShape } from "../../layout.ts";
import type { Lowering } from "../../lower.ts";
import { batchNormStatistics } from "../kernels/batch-norm.ts";
import { batchNormGradKernel } from "../kernels/batch-norm-grad.ts";
import { Gathered, type Layouts, Normalised, type Term } from "./layouts.ts";

const isSingle = (types: readonly Type[]): boolean => types.every(({ dtype }) => dtype === "float32");
const plainOf = (values: readonly Lowered[]): readonly Value[] => values.map((value) => value.plain);

/** What a ReLU's output was made of, by that output: for the mask of its gradient. */
type Origins = WeakMap<Value, Normalised>;

const training =
  (layouts: Layouts): Lowering =>
  ({ inputs, attributes, types }) => {
    const [x, ...parameters] = inputs as [Lowered, ...Lowered[]];
    if (!isSingle(types) || ![2, 4].includes(x.type.shape.length)) return undefined;
    const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
    const tensor = layouts.activate(x);
    const [ownMean, ownVariance] = batchNormStatistics.outputs(tensor, { branches }) as [Value, Value];
    const [mean, variance] = statisticsOverRanks(ownMean, ownVariance, ranks);
    const [scale, bias] = plainOf(parameters) as [Value, Value];
    const later = new Normalised(
      tensor,
      [mean, variance, scale, bias],
      { branches, epsilon },
      layouts.activationOf(x.type),
    );
    return [{ layout: later, parts: [tensor] }, mean, variance];
  };

const evaluation =
  (layouts: Layouts): Lowering =>
  ({ inputs, attributes, types }) => {
    const [x, ...four] = inputs as [Lowered, ...Lowered[]];
    if (!layouts.isActivation(x) || x.type.shape.length !== 4 || !isSingle(types)) return undefined;
    const { epsilon = 1e-5 } = attributes as { epsilon?: number };
    const [scale, bias, mean, variance] = plainOf(four).map((v) => reshape(v, [1, -1])) as [Value, Value, Value, Value];
    const tensor = layouts.activate(x);
    const later = new Normalised(tensor, [mean, variance, scale, bias], { branches: 1, epsilon }, layouts.activation);
    return [{ layout: later, parts: [tensor] }];
  };

const activation =
  (layouts: Layouts, origins: Origins): Lowering =>
  ({ inputs }) => {
    const [x] = inputs as [Lowered];
    if (x.layout instanceof Normalised) {
      const y = x.layout.apply(1);
      origins.set(y, x.layout);
      return [{ layout: layouts.activationOf(x.type), parts: [y] }];
    }
    return layouts.isActivation(x) ? [{ layout: layouts.activation, parts: [relu(layouts.activate(x))] }] : undefined;
  };

/** Two gradients wait for the kernel that reads them; what is added to a batch norm is added by its kernel. */
const addition =
  (layouts: Layouts): Lowering =>
  ({ inputs, types: [y] }) => {
    const [a, b] = inputs as [Lowered, Lowered];
    if (!sameShape(a.type, y as Type) || !sameShape(b.type, y as Type)) return undefined;
    if (layouts.isGradient(a) || layouts.isGradient(b)) {
      const gathered = new Gathered([layouts.termOf(a), layouts.termOf(b)], a.type, layouts.gradientOf(a.type));
      return [{ layout: gathered, parts: gathered.terms.map(({ value }) => value) }];
    }
    for (const [norm, other] of [
      [a, b],
      [b, a],
    ] as const) {
      if (!(norm.layout instanceof Normalised) || norm.layout.added.length > 0) continue;
      if (norm.layout.norm.branches > 1 && norm.type.shape.length !== 4) continue;
      const { layout: home } = other;
      const same = home instanceof Normalised && home.norm.branches === norm.layout.norm.branches;
      const added =
        same && home.added.length === 0 && home.norm.epsilon === norm.layout.norm.epsilon
          ? [home.x, ...home.four]
          : [layouts.activate(other)];
      return [{ layout: norm.layout.plus(added), parts: [norm.layout.x] }];
    }
    if (!layouts.isActivation(a) || !layouts.isActivation(b)) return undefined;
    return [{ layout: layouts.activation, parts: [add(layouts.activate(a), layouts.activate(b))] }];
  };

/** The gradients that a Gathered without a mask adds up, or the one that it is. */
const termsOf = (layouts: Layouts, dy: Lowered): readonly Term[] =>
  dy.layout instanceof Gathered && dy.layout.output === undefined && dy.layout.known === undefined
    ? dy.layout.terms
    : [layouts.termOf(dy)];

const activationGrad =
  (layouts: Layouts, origins: Origins): Lowering =>
  ({ inputs }) => {
    const [y, dy] = inputs as [Lowered, Lowered];
    const rows = y.type.shape.length !== 4;
    if (!rows && !layouts.isActivation(y)) return undefined;
    const output = layouts.activate(y);
    if (rows && !origins.has(output)) return undefined;
    const gathered = new Gathered(
      termsOf(layouts, dy),
      y.type,
      layouts.gradientOf(y.type),
      output,
      origins.get(output),
    );
    return [{ layout: gathered, parts: gathered.terms.map(({ value }) => value) }];
  };

const trainingGrad =
  (layouts: Layouts): Lowering =>
  ({ inputs, attributes, types }) => {
    const [x, dy, scale, mean, variance] = inputs as [Lowered, Lowered, Lowered, Lowered, Lowered];
    if (!isSingle(types) || ![2, 4].includes(x.type.shape.length)) return undefined;
    const { branches, epsilon, ranks = 1 } = attributes as BranchedNorm;
    // The kernel sums and applies in one; several ranks have to speak in between.
    if (ranks > 1) return undefined;
    const tensor = layouts.activate(x);
    const gathered = dy.layout instanceof Gathered && dy.layout.known === undefined ? dy.layout : undefined;
    const terms = gathered?.terms ?? [layouts.termOf(dy)];
    const { output, origin } = gathered ?? {};
    const own = output !== undefined && origin?.x === tensor && origin.added.length === 0;
    const mask = output === undefined ? "none" : own ? "own" : "output";
    const last = mask === "none" ? [] : [own ? origin.four[3]! : output];
    const writes = output !== undefined && (terms.length > 1 || !own) ? 1 : 0;
    const statistics = plainOf([mean, variance, scale]);
    const lift = layouts.liftOf(x.type);
    const operands = [...terms.map(({ value }) => value), tensor, ...statistics, ...last] as readonly Value[];
    const results = batchNormGradKernel.outputs(
      ...([
        ...operands,
        { branches, epsilon, strides: terms.map(({ stride }) => stride), mask, writes, lift },
      ] as never),
    ) as readonly Value[];
    const [dx, dScale, dBias, masked] = results as [Value, Value, Value, Value];
    if (writes) gathered?.isWrittenAs(masked);
    return [{ layout: layouts.gradientOf(x.type), parts: [dx] }, dScale, dBias];
  };

/** By one number a channel, as the gradient of a batch norm with given statistics has it. */
const scaling =
  (layouts: Layouts): Lowering =>
  ({ inputs, types: [y] }) => {
    const [dy, factor] = inputs as [Lowered, Lowered];
    if (!layouts.isGradient(dy) || dy.type.shape.length !== 4 || !sameShape(dy.type, y as Type)) return undefined;
    const { shape } = factor.type;
    if ([1, (y as Type).shape[1], 1, 1].join() !== shape.join()) return undefined;
    const last = reshape(factor.one(layouts.activation), [1, 1, 1, shape[1]!]);
    return [{ layout: layouts.gradient, parts: [mul(layouts.descend(dy), last)] }];
  };

/** Lowerings of one precision. */
export const normLowerings = (layouts: Layouts): readonly (readonly [OpDefinition, Lowering])[] => {
  const origins: Origins = new WeakMap();
  return [
    [batchNormTraining.definition, training(layouts)],
    [batchNormTrainingGrad.definition, trainingGrad(layouts)],
    [batchNormalization.definition, evaluation(layouts)],
    [relu.definition, activation(layouts, origins)],
    [reluGrad.definition, activationGrad(layouts, origins)],
    [add.definition, addition(layouts)],
    [mul.definition, scaling(layouts)],
  ];
};
