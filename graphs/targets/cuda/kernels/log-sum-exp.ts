/**
 * log Σ exp along the last axis and its gradient: what contrastive losses and cross-entropies do to whole matrices. ONNX Runtime's
 * CUDA provider leaves the reduction to cuDNN, in two kernels of few blocks and several ops around them: 300 µs a time in a step of
 * batch 512 on an H200.
 */
import type { Type, Value } from "../../../onnx/graph.ts";
import { sizeOf } from "../../../onnx/tensor.ts";
import { exp, mul, type Op, reduceLogSumExp, reshape, sub } from "../../../ops/index.ts";
import { defineKernel } from "./kernel.ts";

const THREADS = 256;

/** A value as rows along its last axis, and columns that a thread reads at once. */
const rowsOf = ({ shape }: Type) => {
  const columns = shape.at(-1) as number;
  const vector = [4, 2].find((v) => columns % v === 0) ?? 1;
  return { columns, rows: sizeOf(shape) / columns, vector };
};

/** Threads of a row, a power of two, and rows of a block. */
const lanesOf = (x: Type) => {
  const { columns, vector } = rowsOf(x);
  const lanes = Math.min(THREADS, 2 ** Math.ceil(Math.log2(columns / vector)));
  return { lanes, together: THREADS / lanes };
};

type Kept = { readonly keepdims: number };

/**
 * log Σ exp of each row of x [..,C] float32. The largest number is taken off first, but no infinity is: a row of -∞ gives -∞, and
 * one with +∞ gives +∞. Sums go in a fixed order.
 */
export const logSumExp: Op<[x: Value], Kept> = defineKernel<[x: Value], Kept>("logSumExp", {
  attributes: { keepdims: "int" },
  infer: ([x], { keepdims }) => ({ dtype: "float32", shape: [...x.shape.slice(0, -1), ...(keepdims ? [1] : [])] }),
  lower: ([x], { keepdims }) => reduceLogSumExp(x, { axes: [x.rank - 1], keepdims }),
  arguments: () => ["x", "y"],
  body: ({ inputs: [x] }) => {
    const { columns, rows, vector } = rowsOf(x as Type);
    const { lanes, together } = lanesOf(x as Type);
    return `
constexpr int COLUMNS = ${columns}, ROWS = ${rows}, VECTOR = ${vector}, LANES = ${lanes};
// The largest float that is finite.
constexpr float LARGEST = 3.402823466e38f;

// What the threads of a row hold, joined; each of them gets it.
template <typename Join>
__device__ __forceinline__ float joined(float own, Join join) {
  __shared__ float cells[${THREADS}];
  const int lane = threadIdx.x % LANES;
  float* mine = cells + threadIdx.x;
  *mine = own;
  for (int half = LANES / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) *mine = join(*mine, mine[half]);
  }
  __syncthreads();
  return mine[-lane];
}

extern "C" __global__ void logSumExp(const Arguments a) {
  const int lane = threadIdx.x % LANES, row = blockIdx.x * ${together} + threadIdx.x / LANES;
  // Beyond the last row, that row once more: all threads meet at the barriers.
  const float* x = a.x + (long long)(row < ROWS ? row : ROWS - 1) * COLUMNS;
  float largest = -LARGEST;
  for (int c = lane * VECTOR; c < COLUMNS; c += LANES * VECTOR) {
    const Vector<float, VECTOR> v = loadVector<VECTOR>(x + c);
    for (int i = 0; i < VECTOR; i++) largest = fmaxf(largest, v.at[i]);
  }
  largest = fminf(joined(largest, [](float p, float q) { return fmaxf(p, q); }), LARGEST);
  float sum = 0.0f;
  // The row lies in the nearest cache by now.
  for (int c = lane * VECTOR; c < COLUMNS; c += LANES * VECTOR) {
    const Vector<float, VECTOR> v = loadVector<VECTOR>(x + c);
    for (int i = 0; i < VECTOR; i++) sum += expf(v.at[i] - largest);
  }
  sum = joined(sum, [](float p, float q) { return p + q; });
  if (lane == 0 && row < ROWS) a.y[row] = largest + logf(sum);
}`;
  },
  launches: ({ inputs: [x] }) => [
    {
      function: "logSumExp",
      grid: [Math.ceil(rowsOf(x as Type).rows / lanesOf(x as Type).together), 1],
      block: THREADS,
      reads: ["x"],
      writes: ["y"],
    },
  ],
});

/** dy · exp(x - y) of x [..,C] float32, with y and dy a number a row. */
export const logSumExpGrad: Op<[x: Value, y: Value, dy: Value]> = defineKernel<[x: Value, y: Value, dy: Value]>(
  "logSumExpGrad",
  {
    infer: ([x]) => ({ dtype: x.dtype, shape: x.shape }),
    lower: ([x, ...others]) => {
      const [y, dy] = others.map((v) => reshape(v, [...x.shape.slice(0, -1), 1])) as [Value, Value];
      return mul(dy, exp(sub(x, y)));
    },
    arguments: () => ["x", "y", "dy", "dx"],
    body: ({ inputs: [x] }) => {
      const { columns, vector } = rowsOf(x as Type);
      return `
extern "C" __global__ void logSumExpGrad(const Arguments a) {
  const long long i = ((long long)blockIdx.x * ${THREADS} + threadIdx.x) * ${vector};
  if (i >= ${sizeOf((x as Type).shape)}LL) return;
  const Vector<float, ${vector}> x = loadVector<${vector}>(a.x + i);
  const float y = a.y[i / ${columns}], dy = a.dy[i / ${columns}];
  Vector<float, ${vector}> dx;
  for (int k = 0; k < ${vector}; k++) dx.at[k] = dy * expf(x.at[k] - y);
  storeVector(a.dx + i, dx);
}`;
    },
    launches: ({ inputs: [x] }) => [
      {
        function: "logSumExpGrad",
        grid: [Math.ceil(sizeOf((x as Type).shape) / (THREADS * rowsOf(x as Type).vector)), 1],
        block: THREADS,
        reads: ["x"],
        writes: ["dx"],
      },
    ],
  },
);
