/** Zeros between the pixels of a gradient: with them, the gradient of a convolution with stride to its input has none. */
import { constant, filled, type Type, type Value } from "../../../onnx/graph.ts";
import { concat, type Op, pad, reshape, slice } from "../../../ops/index.ts";
import { ctype, defineKernel } from "./kernel.ts";

type Dilation = { readonly strides: readonly number[] };
const THREADS = 256;

/** x [N,H,W,C] with strides - 1 zeros between pixels: [N, (H-1)·s+1, (W-1)·s+1, C]. */
export const dilate: Op<[x: Value], Dilation> = defineKernel<[x: Value], Dilation>("dilate", {
  attributes: { strides: "ints" },
  infer: ([x], { strides: [sy = 1, sx = 1] }) => {
    const [n = 1, h = 1, w = 1, c = 1] = x.shape;
    return { dtype: x.dtype, shape: [n, (h - 1) * sy + 1, (w - 1) * sx + 1, c] };
  },
  lower: ([x], { strides: [sy = 1, sx = 1] }, [y]) => {
    const [n = 1, h = 1, w = 1, c = 1] = x.shape;
    const among = (v: Value, axis: number, stride: number): Value => {
      const shape = v.shape.map((d, i) => (i === axis ? d * (stride - 1) : d));
      return stride === 1 ? v : concat([v, constant(filled(x.dtype, shape, 0))], { axis });
    };
    const spread = among(reshape(among(reshape(x, [n, h, w, 1, c]), 3, sx), [n, h, 1, w * sx, c]), 2, sy);
    const full = reshape(spread, [n, h * sy, w * sx, c]);
    const [, height = 1, width = 1] = (y as Type).shape;
    return slice(full, [
      { axis: 1, start: 0, end: height },
      { axis: 2, start: 0, end: width },
    ]);
  },
  arguments: () => ["x", "y"],
  body: ({ inputs: [x], outputs: [y], attributes: { strides } }) => {
    const [, h = 1, w = 1, c = 1] = (x as Type).shape;
    const [n = 1, height = 1, width = 1] = (y as Type).shape;
    const [sy = 1, sx = 1] = strides;
    return `
extern "C" __global__ void dilate(const Arguments a) {
  const long long i = (long long)blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${n * height * width * c}LL) return;
  const int channel = i % ${c}, column = i / ${c} % ${width}, row = i / ${c * width} % ${height};
  const long long image = i / ${c * width * height};
  ${ctype((x as Type).dtype)} value;
  store(value, 0.0f);
  if (row % ${sy} == 0 && column % ${sx} == 0)
    value = a.x[((image * ${h} + row / ${sy}) * ${w} + column / ${sx}) * ${c} + channel];
  a.y[i] = value;
}`;
  },
  launches: ({ outputs: [y] }) => [
    {
      function: "dilate",
      grid: [Math.ceil((y as Type).shape.reduce((size, d) => size * d, 1) / THREADS), 1],
      block: THREADS,
      reads: ["x"],
      writes: ["y"],
    },
  ],
});

/** x [N,h,w,C] at every stride-th pixel of [N,height,width,C], zero between and beyond. */
export const dilatedTo = (x: Value, stride: number, height: number, width: number): Value => {
  const spread = stride === 1 ? x : dilate(x, { strides: [stride, stride] });
  const after = { 1: height - spread.dim(1), 2: width - spread.dim(2) };
  return after[1] === 0 && after[2] === 0 ? spread : pad(spread, { begin: {}, end: after });
};

/** Names of the gradients that a kernel adds up, in its source. */
export const termNames = ({ strides }: Dilation): readonly string[] => ["dy", "dz"].slice(0, strides.length);

/** The shape of such a gradient to x [N,height,width,C] that lies at every stride-th pixel alone. */
export const seenShape = ([n = 1, height = 1, width = 1, c = 1]: readonly number[], stride: number): number[] => [
  n,
  Math.ceil(height / stride),
  Math.ceil(width / stride),
  c,
];
