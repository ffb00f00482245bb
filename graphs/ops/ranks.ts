/**
 * What several processes (MPI's ranks) that compute one program together tell each other while it runs: ops of domain `advcl`
 * whose kernels the engine brings, so only a model that runs at once may hold them, never a saved one.
 *
 * Each rank r minimises a loss l_r of its own share of the batch; what is minimised together is their mean, and gradients to
 * weights are averaged over ranks after the backward pass. So a cotangent here is that of Σ l_r.
 */
import { check } from "../onnx/error.ts";
import { absent, type Definition, isAbsent, type Value } from "../onnx/graph.ts";
import { compositeDomain, defineOp, notDifferentiable, type Op } from "./define.ts";
import { add, mul, sub } from "./elementwise.ts";
import { concat, reshape, split } from "./movement.ts";
import { reduceMean } from "./reduce.ts";
import { slice } from "./slice.ts";

/** The ranks that share a batch, and what of it each of them sees. */
export interface Ranks {
  readonly size: number;
  /** Number of the rank that the program is for, from 0: its rows come after those of the ranks before it. */
  readonly rank: number;
  /** Whether batch norm has its statistics of the whole batch. */
  readonly batchNorm: boolean;
  /** Whether losses that set images against each other see those of the whole batch. */
  readonly negatives: boolean;
}

/** A kernel runs after the one that gave `after`, which it does not read: see graphs/targets/ranks.ts. */
const infer = ([x, after]: readonly Value[]): void => {
  for (const value of [x, after]) check(isAbsent(value) || value?.dtype === "float32", "dtype", "ranks send float32");
};
const onlyRuns = notDifferentiable(
  "ranks' sums and rows are differentiated by what stands for them in graphs/ops/ranks.ts",
);

/** Sum over ranks of x; every rank gets the same bits. */
export const allReduceSum: Op<[x: Value, after: Value]> = defineOp<[x: Value, after: Value]>(
  "allReduceSum",
  {
    minInputs: 1,
    infer: (inputs) => {
      infer(inputs);
      return inputs[0];
    },
    vjp: onlyRuns,
  },
  compositeDomain,
);

/** The x of every rank, one after the other along the first axis: [n,…] of each as [ranks·n,…]. */
export const allGather: Op<[x: Value, after: Value], { ranks: number }> = defineOp<
  [x: Value, after: Value],
  { ranks: number }
>(
  "allGather",
  {
    minInputs: 1,
    attributes: { ranks: "int" },
    infer: (inputs, { ranks }) => {
      infer(inputs);
      const { dtype, shape } = inputs[0];
      check(shape.length > 0, "shape", "a scalar has no axis to gather along");
      return { dtype, shape: [ranks * shape[0]!, ...shape.slice(1)] };
    },
    vjp: onlyRuns,
  },
  compositeDomain,
);

/** Whether an op makes ranks wait for each other. */
export const isCollective = (definition: Definition): boolean =>
  definition === allReduceSum.definition || definition === allGather.definition;

/** The shape is known to the engine by the reshape alone: kernels of this project's own tell theirs when they run. */
const gathered = (x: Value, ranks: number): Value =>
  reshape(allGather(x, absent, { ranks }), [ranks * x.dim(0), ...x.shape.slice(1)]);
const summed = (x: Value): Value => reshape(allReduceSum(x, absent), x.shape);

type WholeBatch = { readonly ranks: number; readonly rank: number };

/**
 * The rows of all ranks in their order. What is computed from them has to be the same on every rank, so that the gradient needs
 * no message: each rank's loss gives this rank's rows the same cotangent, and their sum is `ranks` times its own.
 */
export const wholeBatch: Op<[x: Value], WholeBatch> = defineOp<[x: Value], WholeBatch>("wholeBatch", {
  infer: ([x], { ranks, rank }) => {
    check(rank < ranks, "attribute", `rank ${rank} of ${ranks}`);
    return { dtype: x.dtype, shape: [ranks * x.dim(0), ...x.shape.slice(1)] };
  },
  lower: ([x], { ranks }) => (ranks === 1 ? x : gathered(x, ranks)),
  vjp: ({ inputs: [x], cotangent: dy, attributes: { ranks, rank } }) => [
    mul(slice(dy, [{ axis: 0, start: rank * x.dim(0), end: (rank + 1) * x.dim(0) }]), ranks),
  ],
  gradcheck: [{ inputs: [{ shape: [3, 2] }], attributes: { ranks: 1, rank: 0 }, step: 1 }],
});

/** Means over ranks of values of one shape, in one message; they have no gradient. */
export const meansOverRanks = (values: readonly Value[], ranks: number): readonly Value[] => {
  if (ranks === 1) return values;
  const rows = values.map((value) => reshape(value, [1, -1]));
  const means = mul(summed(rows.length === 1 ? rows[0]! : concat(rows, { axis: 0 })), 1 / ranks);
  const parts = rows.length === 1 ? [means] : split(means, { axis: 0, sizes: rows.map(() => 1) });
  return parts.map((part, i) => reshape(part, values[i]!.shape));
};

/**
 * Mean and biased variance over all ranks, from those of each rank's equal share (Chan, Golub & LeVeque 1983): the mean of the
 * means, and the mean of variances and squared distances from it. One message; unlike a sum of squares it does not cancel.
 */
export const statisticsOverRanks = (mean: Value, variance: Value, ranks: number): readonly [Value, Value] => {
  if (ranks === 1) return [mean, variance];
  const both = concat([reshape(mean, [1, 1, -1]), reshape(variance, [1, 1, -1])], { axis: 1 });
  const [means, variances] = split(gathered(both, ranks), { axis: 1, sizes: [1, 1] }) as [Value, Value];
  const average = (rows: Value): Value => reduceMean(rows, { axes: [0], keepdims: 1 });
  const centre = average(means);
  const off = sub(means, centre);
  return [reshape(centre, mean.shape), reshape(average(add(variances, mul(off, off))), variance.shape)];
};
