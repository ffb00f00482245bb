/**
 * Activations channels last as rows of channels, and how threads go over them: what the kernels of batch norm share.
 *
 * A value [N,H,W,C] or [N,C] is N·H·W rows of C channels. Image n is of branch n mod nb, so a branch's rows are whole images with
 * a stride between them, and reading them is as fast as reading everything: an image is kilobytes that lie together. A thread
 * keeps to one vector of channels, so that a channel's numbers stay in registers while it goes down the rows.
 */
import type { Type, Value } from "../../../onnx/graph.ts";
import { reshape } from "../../../ops/index.ts";
import { ctype } from "./kernel.ts";

/** Threads of a block, at most. */
const THREADS = 256;
/** Threads that collect a column's sums. */
const PARTS = 32;
/** Bytes that a thread reads at once. */
const VECTOR_BYTES = 16;
const bytesOf = { float32: 4, float16: 2 } as const;

export interface Rows {
  readonly branches: number;
  readonly channels: number;
  readonly pixels: number;
  /** Rows of one branch. */
  readonly count: number;
  /** Channels of a thread. */
  readonly vector: number;
  /** Threads beside each other along the channels, and blocks beside each other where that is too many. */
  readonly lanes: number;
  readonly slices: number;
  /** Rows that a block reads at once. */
  readonly rows: number;
  readonly block: number;
}

export const rowsOf = ({ dtype, shape }: Type, branches: number): Rows => {
  const [images = 1, channels = 1] = [shape[0], shape.at(-1)];
  const pixels = shape.slice(1, -1).reduce((product, d) => product * d, 1);
  const widest = VECTOR_BYTES / bytesOf[dtype as keyof typeof bytesOf];
  const vector = [8, 4, 2].find((v) => v <= widest && channels % v === 0) ?? 1;
  const all = channels / vector;
  const lanes = Math.min(all, THREADS);
  const rows = Math.max(1, Math.floor(THREADS / lanes));
  return {
    branches,
    channels,
    pixels,
    count: (images / branches) * pixels,
    vector,
    lanes,
    slices: Math.ceil(all / lanes),
    rows,
    block: lanes * rows,
  };
};

/** Rows for each block, where every thread goes over several, and the grid for it. */
export const elementwise = ({ count, rows, branches, slices }: Rows) => {
  const chunk = rows * 8;
  return { chunk, grid: [Math.ceil(count / chunk), branches * slices] as const };
};

/**
 * The same for sums: enough blocks to fill a GPU, but each over so many rows that what it leaves behind, two numbers a channel,
 * is little beside what it reads.
 */
export const summing = ({ count, branches, slices }: Rows) => {
  const chunks = Math.max(1, Math.min(Math.ceil(count / 32), Math.ceil(1024 / (branches * slices))));
  const chunk = Math.ceil(count / chunks);
  return { chunk, chunks: Math.ceil(count / chunk), grid: [Math.ceil(count / chunk), branches * slices] as const };
};

/** What a source begins with that goes over such rows; elements are of type T. */
export const rowsText = ({ dtype }: Type, rows: Rows): string => `
typedef ${ctype(dtype)} T;
constexpr int BRANCHES = ${rows.branches}, CHANNELS = ${rows.channels}, PIXELS = ${rows.pixels}, COUNT = ${rows.count};
constexpr int VECTOR = ${rows.vector}, LANES = ${rows.lanes}, SLICES = ${rows.slices}, ROWS = ${rows.rows}, BLOCK = ${rows.block};
typedef Vector<T, VECTOR> Channels;

// Where row r of a branch begins.
__device__ __forceinline__ long long rowAt(int branch, int r) {
  return ((long long)(r / PIXELS * BRANCHES + branch) * PIXELS + r % PIXELS) * CHANNELS;
}

// What a thread is for: its branch, its first channel, its row among those that a block reads at once.
struct Place {
  int branch, channel, row;
  bool active;
  __device__ __forceinline__ Place() {
    branch = blockIdx.y / SLICES;
    channel = (blockIdx.y % SLICES * LANES + threadIdx.x % LANES) * VECTOR;
    row = threadIdx.x / LANES;
    active = channel < CHANNELS;
  }
  // The channel among those of all branches.
  __device__ __forceinline__ int column() const { return branch * CHANNELS + channel; }
};

// Where the rows of a block end that has so many.
__device__ __forceinline__ int endOf(int chunk) {
  const int end = ((int)blockIdx.x + 1) * chunk;
  return end < COUNT ? end : COUNT;
}
`;

const columnsOf = ({ branches, channels }: Rows): number => branches * channels;

/** Shape of what a block of a sum leaves behind: [chunks, 2, branches, channels]. */
export const partialType = (rows: Rows): Type => ({
  dtype: "float32",
  shape: [summing(rows).chunks, 2, rows.branches, rows.channels],
});

/**
 * Two sums a channel in two launches, in an order that does not depend on which block runs first. `leave` is for the first: it
 * adds over the rows of the block and writes to `partial`. `collect` is for the second, with 32 columns and 32 threads for each.
 */
export const sumsText = (rows: Rows): string => `
constexpr int PARTS = ${PARTS}, COLUMNS = ${columnsOf(rows)}, CHUNKS = ${summing(rows).chunks}, CHUNK = ${summing(rows).chunk};

__device__ __forceinline__ void leave(const Place& at, const float (&first)[VECTOR], const float (&second)[VECTOR], float* partial) {
  __shared__ float cells[2 * VECTOR * BLOCK];
  for (int i = 0; i < VECTOR; i++) {
    cells[i * BLOCK + threadIdx.x] = first[i];
    cells[(VECTOR + i) * BLOCK + threadIdx.x] = second[i];
  }
  for (int rows = ROWS; rows > 1; rows = (rows + 1) / 2) {
    __syncthreads();
    if (at.row < rows / 2)
      for (int i = 0; i < 2 * VECTOR; i++)
        cells[i * BLOCK + threadIdx.x] += cells[i * BLOCK + threadIdx.x + (rows + 1) / 2 * LANES];
  }
  if (at.row > 0 || !at.active) return;
  for (int i = 0; i < VECTOR; i++) {
    partial[(2 * blockIdx.x) * COLUMNS + at.column() + i] = cells[i * BLOCK + threadIdx.x];
    partial[(2 * blockIdx.x + 1) * COLUMNS + at.column() + i] = cells[(VECTOR + i) * BLOCK + threadIdx.x];
  }
}

// Whether this thread holds the sums of a column.
__device__ __forceinline__ bool collect(const float* partial, int& column, float& first, float& second) {
  __shared__ float cells[2][PARTS][32];
  const int part = threadIdx.x / 32, lane = threadIdx.x % 32;
  column = blockIdx.x * 32 + lane;
  first = second = 0.0f;
  if (column < COLUMNS)
#pragma unroll 4
    for (int k = part; k < CHUNKS; k += PARTS) {
      first += partial[(2 * k) * COLUMNS + column];
      second += partial[(2 * k + 1) * COLUMNS + column];
    }
  cells[0][part][lane] = first;
  cells[1][part][lane] = second;
  __syncthreads();
  if (part > 0 || column >= COLUMNS) return false;
  for (int k = 1; k < PARTS; k++) {
    first += cells[0][k][lane];
    second += cells[1][k][lane];
  }
  return true;
}
`;

/** The launch of a function that collects. */
export const collecting = (rows: Rows) => ({ grid: [Math.ceil(columnsOf(rows) / 32), 1] as const, block: 32 * PARTS });

/** x [N,…,C] as [images of a branch, branches, pixels, C]: for the portable meaning. */
export const byBranch = (x: Value, branches: number): Value => {
  const { pixels, channels } = rowsOf(x, branches);
  return reshape(x, [x.dim(0) / branches, branches, pixels, channels]);
};

/** A number a channel [branches, C], so that it broadcasts along the same. */
export const alongRows = (v: Value): Value => reshape(v, [1, v.dim(0), 1, v.dim(1)]);
