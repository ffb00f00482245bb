/** Means over pixels and back, between activations channels last and plain features: the pooling at the end of a network. */
import type { Type, Value } from "../../../onnx/graph.ts";
import { cast, expandAs, mul, type Op, reduceMean, reshape } from "../../../ops/index.ts";
import { ctype, defineKernel, literal } from "./kernel.ts";

const THREADS = 256;
const sizes = ({ shape: [n = 1, h = 1, w = 1, c = 1] }: Type) => ({ images: n, pixels: h * w, channels: c });
const over = (count: number) => ({ grid: [Math.ceil(count / THREADS), 1] as const, block: THREADS });

/** Mean over the pixels of x [N,H,W,C], as float32 [N,C]. */
export const pixelMean: Op<[x: Value]> = defineKernel<[x: Value]>("pixelMean", {
  infer: ([x]) => ({ dtype: "float32", shape: [x.dim(0), x.dim(3)] }),
  lower: ([x]) => reduceMean(cast(x, { to: "float32" }), { axes: [1, 2], keepdims: 0 }),
  arguments: () => ["x", "y"],
  body: ({ inputs: [x] }) => {
    const { images, pixels, channels } = sizes(x as Type);
    return `
extern "C" __global__ void pixelMean(const Arguments a) {
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${images * channels}) return;
  const long long first = (long long)(i / ${channels}) * ${pixels * channels} + i % ${channels};
  float sum = 0.0f;
#pragma unroll 8
  for (int p = 0; p < ${pixels}; p++) sum += load(a.x[first + (long long)p * ${channels}]);
  a.y[i] = sum * ${literal(1 / pixels)};
}`;
  },
  launches: ({ outputs: [y] }) => [
    { function: "pixelMean", ...over((y as Type).shape.reduce((n, d) => n * d, 1)), reads: ["x"], writes: ["y"] },
  ],
});

type Spread = { readonly height: number; readonly width: number; readonly factor: number; readonly half: number };

/** x [N,C] float32 times a factor at each pixel of [N,H,W,C], in float16 where `half` is 1. */
export const pixelSpread: Op<[x: Value], Spread> = defineKernel<[x: Value], Spread>("pixelSpread", {
  attributes: { height: "int", width: "int", factor: "float", half: "int" },
  infer: ([x], { height, width, half }) => ({
    dtype: half ? "float16" : "float32",
    shape: [x.dim(0), height, width, x.dim(1)],
  }),
  lower: ([x], { factor }, [y]) => {
    const { dtype, shape } = y as Type;
    return expandAs(cast(reshape(mul(x, factor), [x.dim(0), 1, 1, x.dim(1)]), { to: dtype }), shape);
  },
  arguments: () => ["x", "y"],
  body: ({ outputs: [y], attributes: { factor } }) => {
    const { images, pixels, channels } = sizes(y as Type);
    return `
extern "C" __global__ void pixelSpread(const Arguments a) {
  const long long i = (long long)blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${images * pixels * channels}LL) return;
  ${ctype((y as Type).dtype)} value;
  store(value, a.x[i / ${pixels * channels} * ${channels} + i % ${channels}] * ${literal(factor)});
  a.y[i] = value;
}`;
  },
  launches: ({ outputs: [y] }) => [
    { function: "pixelSpread", ...over((y as Type).shape.reduce((n, d) => n * d, 1)), reads: ["x"], writes: ["y"] },
  ],
});
