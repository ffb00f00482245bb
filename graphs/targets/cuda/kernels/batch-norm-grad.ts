/**
 * Batch norm in training, backward, channels last, with the ReLU after it and the sum of two gradients before that in it.
 *
 * With x̂ = (x - mean)/σ and sums over a branch's channel of M rows: dx = scale/σ · (g - Σg/M - x̂ · Σ(g·x̂)/M), dscale = Σ g·x̂,
 * dbias = Σ g (Ioffe & Szegedy 2015). Five passes over an activation: x and the gradient for the sums, both again, and dx.
 * Masks are computed anew where x alone gives them; where the ReLU came after a sum, its output is read once, and the
 * gradient is written where it was added up and masked, because the other branch of the sum needs it too.
 */
import { check } from "../../../onnx/error.ts";
import type { Type, Value } from "../../../onnx/graph.ts";
import { add, cast, div, greater, mul, type Op, reduceSum, reshape, sqrt, sub, where } from "../../../ops/index.ts";
import { emptied, normalisedRows } from "./batch-norm.ts";
import { dilatedTo, seenShape, termNames } from "./dilate.ts";
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

type Gradient = {
  readonly branches: number;
  readonly epsilon: number;
  /**
   * Of each of the one or two gradients that are added up, at which pixels it lies: at all (1), or at every second or third row and
   * column, as the gradient of a 1×1 convolution with stride does, zero between.
   */
  readonly strides: readonly number[];
  /** What gradients pass: everything, where the batch norm itself is positive, or where the ReLU's output is. */
  readonly mask: "none" | "own" | "output";
  /** 1 where the gradient to what the ReLU took is written too. */
  readonly writes: number;
  /** How many times as large gradients lie than they are; dscale and dbias are as they are. */
  readonly lift: number;
};

interface Operands<T> {
  readonly terms: readonly T[];
  readonly x: T;
  readonly mean: T;
  readonly variance: T;
  readonly scale: T;
  /** Of mask own: the bias; of mask output: the ReLU's output. */
  readonly bias: T | undefined;
  readonly output: T | undefined;
}

const operandsOf = <T>(inputs: readonly T[], { strides, mask }: Gradient): Operands<T> => {
  const terms = strides.length;
  const [x, mean, variance, scale, last] = inputs.slice(terms) as [T, T, T, T, T?];
  return {
    terms: inputs.slice(0, terms),
    x,
    mean,
    variance,
    scale,
    bias: mask === "own" ? last : undefined,
    output: mask === "output" ? last : undefined,
  };
};

/** The line that loads a gradient at row `r`. */
const loadText = (name: string, stride: number, { shape: [, , width = 1] }: Type): string => {
  if (stride === 1) return `    const Channels ${name} = loadVector<VECTOR>(a.${name} + where);`;
  const [row, column] = [`r % PIXELS / ${width}`, `r % PIXELS % ${width}`];
  const place = `sparse${name}(r / PIXELS * BRANCHES + at.branch, ${row} / ${stride}, ${column} / ${stride}) + at.channel`;
  return `    Channels ${name} = {};
    if (${row} % ${stride} == 0 && ${column} % ${stride} == 0) ${name} = loadVector<VECTOR>(a.${name} + ${place});`;
};

/** Where pixels of gradients lie that have strides. */
const sparseText = (attributes: Gradient, terms: readonly Type[]): string =>
  termNames(attributes)
    .map((name, i) => {
      const [, height = 1, width = 1] = (terms[i] as Type).shape;
      if (attributes.strides[i] === 1) return "";
      return `__device__ __forceinline__ long long sparse${name}(long long image, int row, int column) {
  return ((image * ${height} + row) * ${width} + column) * CHANNELS;
}
`;
    })
    .join("");

/** The gradient at row `r`, added up and masked, as the first launch and, where it wrote none, the third has it. */
const gradientText = (
  attributes: Gradient,
  x: Type,
  from: "terms" | "written",
): { readonly loads: string; readonly value: string } => {
  if (from === "written")
    return { loads: "    const Channels g = loadVector<VECTOR>(a.dmasked + where);", value: "load(g.at[i])" };
  const names = termNames(attributes);
  const loads = names.map((name, i) => loadText(name, attributes.strides[i]!, x));
  if (attributes.mask === "output") loads.push("    const Channels y = loadVector<VECTOR>(a.output + where);");
  const sum = names.map((name) => `load(${name}.at[i])`).join(" + ");
  const passes = { none: "", own: "(normal * scale[i] + bias[i] > 0.0f)", output: "(load(y.at[i]) > 0.0f)" }[
    attributes.mask
  ];
  return { loads: loads.join("\n"), value: passes === "" ? sum : `(${passes} ? ${sum} : 0.0f)` };
};

/** What a channel needs, in registers. */
const constantsText = ({ mask }: Gradient): string => `
  float mean[VECTOR], inverse[VECTOR], scale[VECTOR]${mask === "own" ? ", bias[VECTOR]" : ""};
  for (int i = 0; i < VECTOR; i++) {
    mean[i] = at.active ? a.mean[at.column() + i] : 0.0f;
    inverse[i] = at.active ? 1.0f / sqrtf(a.variance[at.column() + i] + EPSILON) : 0.0f;
    scale[i] = at.active ? a.scale[at.column() + i] : 0.0f;
${mask === "own" ? "    bias[i] = at.active ? a.bias[at.column() + i] : 0.0f;\n" : ""}  }`;

const sumsOf = (attributes: Gradient, x: Type): string => {
  const { loads, value } = gradientText(attributes, x, "terms");
  return `
extern "C" __global__ void sums(const Arguments a) {
  const Place at;${constantsText(attributes)}
  float first[VECTOR] = {}, second[VECTOR] = {};
  if (at.active) {
    const int end = endOf(CHUNK);
#pragma unroll 4
    for (int r = blockIdx.x * CHUNK + at.row; r < end; r += ROWS) {
      const long long where = rowAt(at.branch, r) + at.channel;
      const Channels v = loadVector<VECTOR>(a.x + where);
${loads}
${attributes.writes ? "      Channels masked;\n" : ""}      for (int i = 0; i < VECTOR; i++) {
        const float normal = (load(v.at[i]) - mean[i]) * inverse[i];
        ${attributes.writes ? `store(masked.at[i], ${value});\n        const float g = load(masked.at[i]);` : `const float g = ${value};`}
        first[i] += g;
        second[i] += g * normal;
      }
${attributes.writes ? "      storeVector<VECTOR>(a.dmasked + where, masked);\n" : ""}    }
  }
  leave(at, first, second, a.partial);
${attributes.mask === "own" ? "" : "  (void)scale;\n"}}

extern "C" __global__ void totals(const Arguments a) {
  int column;
  float first, second;
  if (!collect(a.partial, column, first, second)) return;
  a.dbias[column] = first * (1.0f / LIFT);
  a.dscale[column] = second * (1.0f / LIFT);
}
`;
};

const gradientOf = (attributes: Gradient, x: Type): string => {
  const { loads, value } = gradientText(attributes, x, attributes.writes ? "written" : "terms");
  return `
extern "C" __global__ void gradient(const Arguments a) {
  const Place at;
  if (!at.active) return;${constantsText(attributes)}
  float meanG[VECTOR], meanGN[VECTOR];
  for (int i = 0; i < VECTOR; i++) {
    meanG[i] = a.dbias[at.column() + i] * (LIFT / COUNT);
    meanGN[i] = a.dscale[at.column() + i] * (LIFT / COUNT);
  }
${attributes.mask === "own" && attributes.writes ? "  (void)bias;\n" : ""}  const int end = endOf(ROWS * 8);
#pragma unroll 4
  for (int r = blockIdx.x * ROWS * 8 + at.row; r < end; r += ROWS) {
    const long long where = rowAt(at.branch, r) + at.channel;
    const Channels v = loadVector<VECTOR>(a.x + where);
${loads}
    Channels dx;
    for (int i = 0; i < VECTOR; i++) {
      const float normal = (load(v.at[i]) - mean[i]) * inverse[i];
      store(dx.at[i], scale[i] * inverse[i] * (${value} - meanG[i] - normal * meanGN[i]));
    }
    storeVector<VECTOR>(a.dx + where, dx);
  }
}`;
};

const launchesOf = ({ inputs, attributes }: KernelCall<Gradient>) => {
  const rows = rowsOf(operandsOf(inputs, attributes).x, attributes.branches);
  const names = termNames(attributes);
  const read = [...names, "x", ...(attributes.mask === "output" ? ["output"] : [])];
  return [
    {
      function: "sums",
      grid: summing(rows).grid,
      block: rows.block,
      reads: read,
      writes: attributes.writes ? ["dmasked", "partial"] : ["partial"],
    },
    { function: "totals", ...collecting(rows), reads: ["partial"], writes: ["dscale", "dbias"] },
    {
      function: "gradient",
      grid: elementwise(rows).grid,
      block: rows.block,
      reads: attributes.writes ? ["dmasked", "x"] : read,
      writes: ["dx"],
    },
  ];
};

/**
 * Gradients of batchNormApply with statistics of its own batch, without what it adds. Inputs: the terms of the gradient, like x;
 * x [N,…,C]; mean, variance, scale [nb,C] float32; then the bias or the ReLU's output, as the mask has it. Outputs: dx; dscale
 * and dbias [nb,C]; where `writes` is 1 the masked gradient; scratch.
 */
export const batchNormGradKernel: Op<readonly Value[], Gradient> = defineKernel<readonly Value[], Gradient>(
  "batchNormGrad",
  {
    attributes: { branches: "int", epsilon: "float", strides: "ints", mask: "string", writes: "int", lift: "float" },
    infer: (inputs, attributes) => {
      const { terms, x, scale } = operandsOf(inputs, attributes);
      const expected = attributes.strides.length + 4 + (attributes.mask === "none" ? 0 : 1);
      check(inputs.length === expected, "shape", `it takes ${expected} operands, not ${inputs.length}`);
      terms.forEach((term, i) => {
        const stride = attributes.strides[i]!;
        const wanted = stride === 1 ? x.shape : seenShape(x.shape, stride);
        check(term.dtype === x.dtype && term.shape.join() === wanted.join(), "shape", "a gradient is not like x");
      });
      const like: Type = { dtype: x.dtype, shape: x.shape };
      const each: Type = { dtype: "float32", shape: scale.shape };
      return [like, each, each, ...(attributes.writes ? [like] : []), partialType(rowsOf(x, attributes.branches))];
    },
    lower: (inputs, attributes, types) => {
      const { terms, x, mean, variance, scale, bias, output } = operandsOf(inputs, attributes);
      const { branches, epsilon, lift } = attributes;
      const rows = (v: Value) => byBranch(cast(v, { to: "float32" }), branches);
      const whole = terms.map((term, i) => {
        const stride = attributes.strides[i]!;
        return stride === 1 ? term : dilatedTo(term, stride, x.dim(1), x.dim(2));
      });
      let g = whole.map(rows).reduce((sum, term) => add(sum, term));
      const gate = output
        ? rows(output)
        : bias && normalisedRows(x, [mean, variance, scale, bias], { branches, epsilon });
      if (gate !== undefined) g = where(greater(gate, 0), g, 0);
      const masked = cast(reshape(g, x.shape), { to: x.dtype });
      if (attributes.writes) g = rows(masked);
      const inverse = div(1, sqrt(add(variance, epsilon)));
      const normal = mul(sub(rows(x), alongRows(mean)), alongRows(inverse));
      const total = (v: Value) => reduceSum(v, { axes: [0, 2], keepdims: 0 });
      const [sumG, sumGN] = [total(g), total(mul(g, normal))];
      const count = rowsOf(x, branches).count;
      const average = (sum: Value) => alongRows(mul(sum, 1 / count));
      const centred = sub(sub(g, average(sumG)), mul(normal, average(sumGN)));
      const dx = cast(reshape(mul(centred, alongRows(mul(scale, inverse))), x.shape), { to: x.dtype });
      const written = attributes.writes ? [masked] : [];
      return [dx, mul(sumGN, 1 / lift), mul(sumG, 1 / lift), ...written, emptied(types.at(-1) as Type)];
    },
    arguments: ({ attributes }) => [
      ...termNames(attributes),
      "x",
      "mean",
      "variance",
      "scale",
      ...({ none: [], own: ["bias"], output: ["output"] } as const)[attributes.mask],
      "dx",
      "dscale",
      "dbias",
      ...(attributes.writes ? ["dmasked"] : []),
      "partial",
    ],
    scratch: ["partial"],
    body: ({ inputs, attributes }) => {
      const { x, terms } = operandsOf(inputs, attributes);
      const rows = rowsOf(x, attributes.branches);
      return `${rowsText(x, rows)}${sumsText(rows)}
constexpr float EPSILON = ${literal(attributes.epsilon)}, LIFT = ${literal(attributes.lift)};
${sparseText(attributes, terms)}${sumsOf(attributes, x)}${gradientOf(attributes, x)}`;
    },
    launches: launchesOf,
  },
);
