/**
 * Batch norm in training, forward, channels last (Ioffe & Szegedy 2015; branches: Xie et al. 2020). One read for mean and
 * variance; one read and one write for what follows, with the residual branch and the ReLU in it.
 */
import { check } from "../../../onnx/error.ts";
import { constant, filled, type Type, type Value } from "../../../onnx/graph.ts";
import { add, cast, div, mul, type Op, reduceMean, relu, reshape, sqrt, sub } from "../../../ops/index.ts";
import { defineKernel, type KernelCall, literal } from "./kernel.ts";
import {
  alongRows,
  byBranch,
  collecting,
  elementwise,
  partialType,
  rowsOf,
  rowsText,
  summing,
  sumsText,
} from "./rows.ts";

const single = (x: Value): Value => cast(x, { to: "float32" });
const typeOf = ({ dtype, shape }: Type): Type => ({ dtype, shape });

type Statistics = { readonly branches: number };

/**
 * Mean and biased variance of each branch and channel, [nb,C] float32, of x [N,…,C]; the third output is scratch.
 *
 * The squares are of the distance to the branch's first row, not to 0: variance as a difference of two sums keeps float32's
 * digits only where the mean is small beside the deviation, and any row is a better guess of the mean than 0.
 */
export const batchNormStatistics: Op<[x: Value], Statistics> = defineKernel<[x: Value], Statistics>(
  "batchNormStatistics",
  {
    attributes: { branches: "int" },
    infer: ([x], { branches }) => {
      check(x.dim(0) % branches === 0, "shape", `${x.dim(0)} rows do not interleave ${branches} branches`);
      const each: Type = { dtype: "float32", shape: [branches, x.dim(-1)] };
      return [each, each, partialType(rowsOf(x, branches))];
    },
    lower: ([x], { branches }, [each, , partial]) => {
      const wide = byBranch(single(x), branches);
      const mean = reduceMean(wide, { axes: [0, 2], keepdims: 1 });
      const centred = sub(wide, mean);
      const variance = reduceMean(mul(centred, centred), { axes: [0, 2], keepdims: 0 });
      const { shape } = each as Type;
      return [reshape(mean, shape), variance, emptied(partial as Type)];
    },
    arguments: () => ["x", "mean", "variance", "partial"],
    scratch: ["partial"],
    body: ({ inputs: [x], attributes: { branches } }) => {
      const rows = rowsOf(x as Type, branches);
      return `${rowsText(x as Type, rows)}${sumsText(rows)}
extern "C" __global__ void sums(const Arguments a) {
  const Place at;
  float first[VECTOR] = {}, second[VECTOR] = {};
  if (at.active) {
    const Channels pivot = loadVector<VECTOR>(a.x + rowAt(at.branch, 0) + at.channel);
    const int end = endOf(CHUNK);
#pragma unroll 4
    for (int r = blockIdx.x * CHUNK + at.row; r < end; r += ROWS) {
      const Channels v = loadVector<VECTOR>(a.x + rowAt(at.branch, r) + at.channel);
      for (int i = 0; i < VECTOR; i++) {
        const float d = load(v.at[i]) - load(pivot.at[i]);
        first[i] += d;
        second[i] += d * d;
      }
    }
  }
  leave(at, first, second, a.partial);
}

extern "C" __global__ void moments(const Arguments a) {
  int column;
  float first, second;
  if (!collect(a.partial, column, first, second)) return;
  const float pivot = load(a.x[rowAt(column / CHANNELS, 0) + column % CHANNELS]);
  const float off = first / COUNT;
  a.mean[column] = pivot + off;
  a.variance[column] = fmaxf(second / COUNT - off * off, 0.0f);
}`;
    },
    launches: ({ inputs: [x], attributes: { branches } }) => {
      const rows = rowsOf(x as Type, branches);
      return [
        { function: "sums", grid: summing(rows).grid, block: rows.block, reads: ["x"], writes: ["partial"] },
        { function: "moments", ...collecting(rows), reads: ["partial"], writes: ["mean", "variance"] },
      ];
    },
  },
);

/** What stands for scratch in a portable meaning: nobody reads it. */
export const emptied = ({ dtype, shape }: Type): Value => constant(filled(dtype, shape, 0));

type Normalised = { readonly branches: number; readonly epsilon: number; readonly relu: number };
type Four = [mean: Value, variance: Value, scale: Value, bias: Value];

/** (x - mean) · scale/√(variance + epsilon) + bias of x [N,…,C] in float32, by branch. */
export const normalisedRows = (
  x: Value,
  [mean, variance, scale, bias]: Four,
  { branches, epsilon }: { branches: number; epsilon: number },
): Value => {
  const factor = div(scale, sqrt(add(variance, epsilon)));
  return add(mul(sub(byBranch(single(x), branches), alongRows(mean)), alongRows(factor)), alongRows(bias));
};

/** The lines that load what a channel's normalisation needs, for the parameters that begin with `name`. */
const constantsText = (name: string, prefix = ""): string => {
  const field = (part: string) =>
    `a.${prefix === "" ? part : `${prefix}${part[0]?.toUpperCase()}${part.slice(1)}`}[at.column() + i]`;
  return `
  float ${name}Centre[VECTOR], ${name}Factor[VECTOR], ${name}Shift[VECTOR];
  for (int i = 0; i < VECTOR; i++) {
    ${name}Centre[i] = ${field("mean")};
    ${name}Factor[i] = ${field("scale")} / sqrtf(${field("variance")} + EPSILON);
    ${name}Shift[i] = ${field("bias")};
  }`;
};

const PARTS = ["mean", "variance", "scale", "bias"];

/**
 * Batch norm by given statistics, then what is added, then ReLU where `relu` is 1. x [N,…,C]; mean, variance, scale, bias
 * [nb,C] float32. What is added is a value like x, or one more batch norm, with the same four of its own.
 */
export const batchNormApply: Op<readonly Value[], Normalised> = defineKernel<readonly Value[], Normalised>(
  "batchNormApply",
  {
    attributes: { branches: "int", epsilon: "float", relu: "int" },
    infer: (inputs) => {
      check([5, 6, 10].includes(inputs.length), "shape", "it takes x and four numbers a channel, then what is added");
      return typeOf(inputs[0]!);
    },
    lower: (inputs, { relu: positive, ...norm }) => {
      const [x, mean, variance, scale, bias, residual, ...four] = inputs as [Value, ...Four, Value, ...Four];
      let y = normalisedRows(x, [mean, variance, scale, bias], norm);
      if (four.length > 0) y = add(y, normalisedRows(residual, four, norm));
      else if (residual !== undefined) y = add(y, byBranch(single(residual), norm.branches));
      return cast(reshape(positive ? relu(y) : y, x.shape), { to: x.dtype });
    },
    arguments: ({ inputs }) => [
      "x",
      ...PARTS,
      ...(inputs.length > 5 ? ["residual"] : []),
      ...(inputs.length > 6 ? ["residualMean", "residualVariance", "residualScale", "residualBias"] : []),
      "y",
    ],
    body: ({ inputs, attributes }) => {
      const [x] = inputs as [Type];
      const rows = rowsOf(x, attributes.branches);
      const added =
        inputs.length > 6 ? "(load(r.at[i]) - otherCentre[i]) * otherFactor[i] + otherShift[i]" : "load(r.at[i])";
      return `${rowsText(x, rows)}
constexpr float EPSILON = ${literal(attributes.epsilon)};
constexpr int CHUNK = ${elementwise(rows).chunk};

extern "C" __global__ void normalise(const Arguments a) {
  const Place at;
  if (!at.active) return;${constantsText("own")}${inputs.length > 6 ? constantsText("other", "residual") : ""}
  const int end = endOf(CHUNK);
#pragma unroll 4
  for (int r0 = blockIdx.x * CHUNK + at.row; r0 < end; r0 += ROWS) {
    const long long where = rowAt(at.branch, r0) + at.channel;
    const Channels v = loadVector<VECTOR>(a.x + where);
${inputs.length > 5 ? "    const Channels r = loadVector<VECTOR>(a.residual + where);\n" : ""}    Channels y;
    for (int i = 0; i < VECTOR; i++) {
      float value = (load(v.at[i]) - ownCentre[i]) * ownFactor[i] + ownShift[i];
${inputs.length > 5 ? `      value += ${added};\n` : ""}${attributes.relu ? "      value = fmaxf(value, 0.0f);\n" : ""}      store(y.at[i], value);
    }
    storeVector<VECTOR>(a.y + where, y);
  }
}`;
    },
    launches: ({ inputs, attributes: { branches } }: KernelCall<Normalised>) => {
      const rows = rowsOf(inputs[0] as Type, branches);
      const reads = inputs.length > 5 ? ["x", "residual"] : ["x"];
      return [{ function: "normalise", grid: elementwise(rows).grid, block: rows.block, reads, writes: ["y"] }];
    },
  },
);
