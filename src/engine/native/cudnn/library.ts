/**
 * cuDNN's convolutions by its C functions (cudnn_cnn.h), which onnxruntime's CUDA provider has loaded anyway: one call each for a
 * convolution and its two gradients, channels last.
 */

import type { CudnnFunction } from "../../../../graphs/targets/cuda/kernels/nhwc-conv.ts";
import { RunError } from "../../../errors.ts";
import { openFirst } from "../foreign.ts";

/** What a convolution is, as cuDNN's descriptors have it: images [N,C,H,W] and filters [Co,Ci,kh,kw] in size, channels last in memory. */
export interface Convolution {
  readonly dtype: "float16" | "float32";
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly y: readonly number[];
  readonly pads: readonly [rows: number, columns: number];
  readonly strides: readonly [rows: number, columns: number];
  readonly dilations: readonly [rows: number, columns: number];
  /** Whether float32 operands may be rounded to TF32. */
  readonly tf32: boolean;
}

/** One of the three functions with its descriptors and the algorithm that cuDNN prefers. */
export interface PreparedConvolution {
  /** Bytes of workspace that it needs. */
  readonly workspace: number;
  /** Puts it on a stream: two operands (x and w, dy and w, or x and dy) and a result. */
  run(first: bigint, second: bigint, result: bigint, workspace: bigint, stream: bigint): void;
}

export interface Cudnn {
  readonly version: string;
  /** Descriptors live as long as the library. Throws a RunError that says what cuDNN refuses. */
  prepare(what: CudnnFunction, convolution: Convolution): PreparedConvolution;
}

const libraries = process.platform === "win32" ? ["cudnn64_9.dll"] : ["libcudnn.so.9"];

/** Of cudnn_graph.h and cudnn_cnn.h. */
const [NHWC, FLOAT, HALF, CROSS_CORRELATION] = [1, 0, 2, 1] as const;
/** `CUDNN_DEFAULT_MATH` lets float32 be TF32, `CUDNN_TENSOR_OP_MATH` is for float16, `CUDNN_FMA_MATH` keeps float32. */
const [DEFAULT_MATH, TENSOR_OP_MATH, FMA_MATH] = [0, 1, 3] as const;
/** `cudnnConvolution…AlgoPerf_t`: where its fields are, and how large it is. */
const PERF = { algorithm: 0, status: 4, memory: 16, determinism: 24, math: 28, bytes: 48 } as const;
/** More than cuDNN has algorithms. */
const MOST = 10;
/** Bytes of workspace at most. */
const WORKSPACE = 2 ** 31;

const roles = {
  forward: { name: "Forward", operands: ["x", "w"], result: "y" },
  gradInput: { name: "BackwardData", operands: ["w", "y"], result: "x" },
  gradWeight: { name: "BackwardFilter", operands: ["x", "y"], result: "w" },
} as const;
type Part = "x" | "w" | "y";

type Library = NonNullable<ReturnType<typeof openFirst>>["library"];

const functionsOf = (library: Library) => {
  const describe = library.func("const char* cudnnGetErrorString(int status)");
  const attempt = (what: string, code: unknown): void => {
    if (code !== 0) throw new RunError(`cuDNN: ${what} failed: ${describe(code)}`);
  };
  const made = (kind: string): unknown => {
    const place: unknown[] = [null];
    attempt("making a descriptor", library.func(`int cudnnCreate${kind}(_Out_ void** made)`)(place));
    return place[0];
  };
  const four = ["void*", "int", "int", "int", "int", "int", "int"];
  const setTensor = library.func("cudnnSetTensor4dDescriptor", "int", four);
  const setFilter = library.func("cudnnSetFilter4dDescriptor", "int", four);
  return {
    attempt,
    handle: () => made(""),
    tensor: (dtype: number, sizes: readonly number[]) => {
      const descriptor = made("TensorDescriptor");
      attempt("describing images", setTensor(descriptor, NHWC, dtype, ...sizes));
      return descriptor;
    },
    filter: (dtype: number, sizes: readonly number[]) => {
      const descriptor = made("FilterDescriptor");
      attempt("describing filters", setFilter(descriptor, dtype, NHWC, ...sizes));
      return descriptor;
    },
    convolution: () => made("ConvolutionDescriptor"),
    setWindow: library.func("cudnnSetConvolution2dDescriptor", "int", ["void*", ...Array<string>(8).fill("int")]),
    setMath: library.func("cudnnSetConvolutionMathType", "int", ["void*", "int"]),
    setStream: library.func("cudnnSetStream", "int", ["void*", "void*"]),
    version: library.func("size_t cudnnGetVersion()"),
    algorithms: (name: string) =>
      library.func(`cudnnGetConvolution${name}Algorithm_v7`, "int", [
        ...Array<string>(5).fill("void*"),
        "int",
        "void*",
        "void*",
      ]),
    /** alpha, two operands, the convolution, the algorithm, workspace, beta, the result. */
    run: (name: string) =>
      library.func(`cudnnConvolution${name}`, "int", [
        ...Array<string>(7).fill("void*"),
        "int",
        "void*",
        "size_t",
        ...Array<string>(3).fill("void*"),
      ]),
  };
};

type Functions = ReturnType<typeof functionsOf>;

/** The first of cuDNN's algorithms, as it ranks them, that gives the same bits each time in memory that is to be had. */
const algorithmOf = (functions: Functions, name: string, descriptors: readonly unknown[]) => {
  const [count, found] = [new Int32Array(1), new DataView(new ArrayBuffer(PERF.bytes * MOST))];
  const ask = functions.algorithms(name);
  functions.attempt("asking for algorithms", ask(...descriptors, MOST, count, new Uint8Array(found.buffer)));
  for (let i = 0; i < count[0]!; i++) {
    const at = (field: keyof typeof PERF) => found.getInt32(i * PERF.bytes + PERF[field], true);
    const memory = Number(found.getBigUint64(i * PERF.bytes + PERF.memory, true));
    if (at("status") === 0 && at("determinism") === 1 && memory <= WORKSPACE)
      return { algorithm: at("algorithm"), math: at("math"), memory };
  }
  throw new RunError(`cuDNN has no algorithm for a convolution (${name}) that gives the same numbers each time`);
};

/** alpha and beta of every call, in memory that stays where it is. */
const [ONE, ZERO] = [new Float32Array(256).fill(1, 0, 1), new Float32Array(256)] as const;

const prepared = (
  functions: Functions,
  handle: unknown,
  what: CudnnFunction,
  { dtype, x, w, y, pads, strides, dilations, tf32 }: Convolution,
): PreparedConvolution => {
  const { attempt } = functions;
  const { name, operands, result } = roles[what];
  const type = dtype === "float16" ? HALF : FLOAT;
  const described: Record<Part, unknown> = {
    x: functions.tensor(type, x),
    w: functions.filter(type, w),
    y: functions.tensor(type, y),
  };
  const window = functions.convolution();
  attempt(
    "describing a convolution",
    functions.setWindow(window, ...pads, ...strides, ...dilations, CROSS_CORRELATION, FLOAT),
  );
  const math = dtype === "float16" ? TENSOR_OP_MATH : tf32 ? DEFAULT_MATH : FMA_MATH;
  attempt("choosing its arithmetic", functions.setMath(window, math));
  const [first, second] = operands.map((part) => described[part]);
  const chosen = algorithmOf(functions, name, [handle, first, second, window, described[result]]);
  // FMA_MATH stays what was asked for: an answer of DEFAULT_MATH would let TF32 in.
  if (math !== FMA_MATH) attempt("choosing its arithmetic", functions.setMath(window, chosen.math));
  const call = functions.run(name);
  // Filters come before gradients to images, whatever order the op has them in.
  const swapped = what === "gradInput";
  return {
    workspace: chosen.memory,
    run: (a, b, to, workspace, stream) => {
      const [left, right] = swapped ? [b, a] : [a, b];
      attempt("choosing a stream", functions.setStream(handle, stream === 0n ? null : stream));
      attempt(
        `a convolution (${name})`,
        call(
          handle,
          ONE,
          first,
          left,
          second,
          right,
          window,
          chosen.algorithm,
          workspace === 0n ? null : workspace,
          chosen.memory,
          ZERO,
          described[result],
          to,
        ),
      );
    },
  };
};

/** Opens cuDNN; undefined where it is not here. Its handle is made when a convolution is first prepared, in the context that is current then. */
export const openCudnn = (names: readonly string[] = libraries): Cudnn | undefined => {
  const found = openFirst(names);
  if (found === undefined) return undefined;
  const functions = functionsOf(found.library);
  const number = Number(functions.version());
  let handle: unknown;
  return {
    version: `${Math.floor(number / 10000)}.${Math.floor((number % 10000) / 100)}.${number % 100}`,
    prepare: (what, convolution) => {
      handle ??= functions.handle();
      return prepared(functions, handle, what, convolution);
    },
  };
};
