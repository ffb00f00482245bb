/**
 * A gradient to activations, channels last, in one pass: the sum of one or two, each at all pixels or at those that a 1×1 convolution with
 * stride saw, where the output of the ReLU before it is positive. What batchNormGrad does on its way, for networks without batch norm.
 */
import { check } from "../../../onnx/error.ts";
import type { Type, Value } from "../../../onnx/graph.ts";
import { add, cast, greater, type Op, where } from "../../../ops/index.ts";
import { dilatedTo, seenShape, termNames } from "./dilate.ts";
import { ctype, defineKernel } from "./kernel.ts";
import { rowsOf } from "./rows.ts";

type Gathering = {
  /** Of each term: 1, or how many rows and columns lie between the pixels where it is not zero. */
  readonly strides: readonly number[];
  /** 1 where the last input is the ReLU's output. */
  readonly masked: number;
  readonly height: number;
  readonly width: number;
};

const THREADS = 256;

const termText = (name: string, stride: number, { shape: [, h = 1, w = 1, c = 1] }: Type): string => {
  const load = (row: string, column: string) =>
    `loadVector<VECTOR>(a.${name} + ((image * ${h} + ${row}) * ${w} + ${column}) * ${c} + channel)`;
  return stride === 1
    ? `  const Channels ${name} = ${load("row", "column")};`
    : `  Channels ${name} = {};
  if (row % ${stride} == 0 && column % ${stride} == 0) ${name} = ${load(`row / ${stride}`, `column / ${stride}`)};`;
};

/** Terms [N,h,w,C], then, where it masks, y [N,H,W,C]: the gradient [N,H,W,C]. */
export const gatherKernel: Op<readonly Value[], Gathering> = defineKernel<readonly Value[], Gathering>(
  "gatherGradient",
  {
    attributes: { strides: "ints", masked: "int", height: "int", width: "int" },
    infer: (inputs, { strides, masked, height, width }) => {
      const [first] = inputs as [Value];
      check(inputs.length === strides.length + masked, "shape", "it takes its terms, then what masks them");
      const whole = [first.dim(0), height, width, first.dim(3)];
      strides.forEach((stride, i) => {
        const wanted = seenShape(whole, stride);
        check(inputs[i]!.shape.join() === wanted.join(), "shape", `term ${i} is not ${wanted.join("×")}`);
      });
      return { dtype: first.dtype, shape: whole };
    },
    lower: (inputs, { strides, masked, height, width }, [y]) => {
      const single = (v: Value) => cast(v, { to: "float32" });
      const terms = strides.map((stride, i) => single(dilatedTo(inputs[i]!, stride, height, width)));
      const sum = terms.reduce((a, b) => add(a, b));
      const passed = masked ? where(greater(single(inputs.at(-1)!), 0), sum, 0) : sum;
      return cast(passed, { to: (y as Type).dtype });
    },
    arguments: ({ attributes }) => [...termNames(attributes), ...(attributes.masked ? ["output"] : []), "dx"],
    body: ({ inputs, outputs: [dx], attributes }) => {
      const { shape, dtype } = dx as Type;
      const [n = 1, height = 1, width = 1, c = 1] = shape;
      const { vector } = rowsOf(dx as Type, 1);
      const terms = termNames(attributes);
      const sum = terms.map((name) => `load(${name}.at[k])`).join(" + ");
      const value = attributes.masked ? `load(y.at[k]) > 0.0f ? ${sum} : 0.0f` : sum;
      return `
typedef ${ctype(dtype)} T;
constexpr int VECTOR = ${vector};
typedef Vector<T, VECTOR> Channels;
extern "C" __global__ void gather(const Arguments a) {
  const long long i = (long long)blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${(n * height * width * c) / vector}LL) return;
  const int channel = i % ${c / vector} * VECTOR, column = i / ${c / vector} % ${width}, row = i / ${(c / vector) * width} % ${height};
  const long long image = i / ${(c / vector) * width * height}, where = i * VECTOR;
${terms.map((name, t) => termText(name, attributes.strides[t]!, inputs[t] as Type)).join("\n")}
${attributes.masked ? "  const Channels y = loadVector<VECTOR>(a.output + where);\n" : ""}  Channels dx;
  for (int k = 0; k < VECTOR; k++) store(dx.at[k], ${value});
  storeVector<VECTOR>(a.dx + where, dx);
}`;
    },
    launches: ({ outputs: [dx], attributes }) => {
      const { shape } = dx as Type;
      const vectors = shape.reduce((product, d) => product * d, 1) / rowsOf(dx as Type, 1).vector;
      const reads = [...termNames(attributes), ...(attributes.masked ? ["output"] : [])];
      return [{ function: "gather", grid: [Math.ceil(vectors / THREADS), 1], block: THREADS, reads, writes: ["dx"] }];
    },
  },
);
