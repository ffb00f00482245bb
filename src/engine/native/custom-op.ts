/**
 * Ops of domain `advcl` for onnxruntime whose kernels are JavaScript functions. An OrtCustomOp is a struct of functions
 * (onnxruntime_c_api.h); koffi makes each from a function here, once a domain, since every one is told which op it is asked for.
 * onnxruntime calls a kernel in the thread that runs the session, or, where that is another than JavaScript's, waits for it.
 */
import { type DType, dtypes } from "../../../graphs/onnx/dtype.ts";
import type { OrtApi } from "./api.ts";

/** What a kernel gets: addresses in the memory of its provider. */
export interface KernelRun {
  readonly inputs: readonly bigint[];
  /** Makes output `index` with this shape; returns its address. */
  output(index: number, shape: readonly number[]): bigint;
  /** The CUDA stream to compute in; 0 on the CPU. */
  readonly stream: bigint;
}

export interface CustomOp {
  /** As files call it. One name has one list of types. */
  readonly name: string;
  readonly provider: "CPUExecutionProvider" | "CUDAExecutionProvider";
  readonly inputs: readonly DType[];
  readonly outputs: readonly DType[];
  /** What computes the node of this name in the file; asked for when a session is made. What it throws fails the session. */
  create(node: string): (run: KernelRun) => void;
}

/** The ops of this project's own that a model holds. */
export interface Kernels {
  readonly ops: readonly CustomOp[];
  /** Called before each run: what was derived from a run's inputs is stale. */
  began?(): void;
  /** Called when the session is released, or could not be made. */
  ended?(): void;
}

export interface CustomOpDomain {
  /** For AddCustomOpDomain. */
  readonly address: bigint;
  /** To be called when every session with it is released. */
  release(): void;
}

/** `ORT_FAIL`. */
const FAIL = 1;
/** Version of the struct that is filled in: that of the API which is asked for. */
const STRUCT_VERSION = 24n;
const REQUIRED = 0;
const LONGEST_NAME = 4096;

const textOf = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);

interface Registered {
  readonly op: CustomOp;
  /** Addresses of texts. */
  readonly name: bigint;
  readonly provider: bigint;
}

/** What onnxruntime asks of ops and kernels of a domain, found again by the addresses that it gives. */
class Registry {
  readonly ops = new Map<bigint, Registered>();
  readonly kernels = new Map<bigint, { readonly op: CustomOp; readonly compute: (run: KernelRun) => void }>();
  readonly api: OrtApi;
  next = 1n;
  constructor(api: OrtApi) {
    this.api = api;
  }

  op(address: bigint): Registered {
    const found = this.ops.get(address);
    if (found === undefined) throw new Error("internal: onnxruntime asks for a custom op that was not made");
    return found;
  }

  /** A status that is null where all is well. */
  attempt(work: () => void): bigint | null {
    try {
      work();
      return null;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      return this.api.call("CreateStatus", FAIL, message) as bigint;
    }
  }

  create(address: bigint, info: bigint, place: bigint): void {
    const { op } = this.op(address);
    const [text, size] = [new Uint8Array(LONGEST_NAME), new BigUint64Array([BigInt(LONGEST_NAME)])];
    this.api.call("KernelInfo_GetNodeName", info, text, size);
    const node = Buffer.from(text.subarray(0, Math.max(Number(size[0]) - 1, 0))).toString("utf8");
    const id = this.next++;
    this.kernels.set(id, { op, compute: op.create(node) });
    new BigUint64Array(this.api.koffi.view(place, 8))[0] = id;
  }

  compute(id: bigint, context: bigint): void {
    const { api } = this;
    const kernel = this.kernels.get(id);
    if (kernel === undefined) throw new Error("internal: onnxruntime runs a kernel that is not there");
    const { op } = kernel;
    const address = (value: bigint): bigint => api.out("GetTensorMutableData", value);
    kernel.compute({
      inputs: op.inputs.map((_, i) => address(api.out("KernelContext_GetInput", context, i))),
      output: (index, shape) => {
        const dims = BigInt64Array.from(shape, BigInt);
        return address(api.out("KernelContext_GetOutput", context, index, dims, shape.length));
      },
      stream: op.provider === "CUDAExecutionProvider" ? api.out("KernelContext_GetGPUComputeStream", context) : 0n,
    });
  }
}

type Callback = (result: string, args: readonly string[], work: (...args: never[]) => unknown) => bigint;

/** The functions of an OrtCustomOp in its order; null where there is none. */
const functionsOf = (registry: Registry, callback: Callback): readonly (bigint | null)[] => {
  const pointer = "void *";
  const code = (dtype: DType | undefined): number => dtypes[dtype as DType].onnx;
  const asked = (work: (op: CustomOp, i: number) => number) => (op: bigint, i: number | bigint) =>
    work(registry.op(op).op, Number(i));
  const always = (value: number) => () => value;
  return [
    null, // CreateKernel: CreateKernelV2 below
    callback(pointer, [pointer], (op: bigint) => registry.op(op).name),
    callback(pointer, [pointer], (op: bigint) => registry.op(op).provider),
    callback(
      "int",
      [pointer, "size_t"],
      asked(({ inputs }, i) => code(inputs[i])),
    ),
    callback("size_t", [pointer], (op: bigint) => registry.op(op).op.inputs.length),
    callback(
      "int",
      [pointer, "size_t"],
      asked(({ outputs }, i) => code(outputs[i])),
    ),
    callback("size_t", [pointer], (op: bigint) => registry.op(op).op.outputs.length),
    null, // KernelCompute: KernelComputeV2 below
    callback("void", [pointer], (id: bigint) => {
      registry.kernels.delete(id);
    }),
    callback("int", [pointer, "size_t"], always(REQUIRED)),
    callback("int", [pointer, "size_t"], always(REQUIRED)),
    callback("int", [pointer, "size_t"], always(0)), // memory of inputs: the provider's own
    callback("int", [pointer], always(1)), // variadic inputs and outputs: there are none
    callback("int", [pointer], always(1)),
    callback("int", [pointer], always(1)),
    callback("int", [pointer], always(1)),
    callback(pointer, [pointer, pointer, pointer, pointer], (op: bigint, _: bigint, info: bigint, place: bigint) =>
      registry.attempt(() => registry.create(op, info, place)),
    ),
    callback(pointer, [pointer, pointer], (id: bigint, context: bigint) =>
      registry.attempt(() => registry.compute(id, context)),
    ),
    null, // InferOutputShapeFn: shapes are told when a kernel runs
    callback("int", [pointer], always(1)), // versions of the domain that have the op
    callback("int", [pointer], always(2 ** 31 - 1)),
    null, // may inputs be overwritten, are outputs other names of inputs: no
    null,
    null,
    null,
  ];
};

/** Makes a domain of ops. Everything that onnxruntime holds pointers to lives until it is released. */
export const customOpDomain = (api: OrtApi, ops: readonly CustomOp[], name = "advcl"): CustomOpDomain => {
  const { koffi } = api;
  const registry = new Registry(api);
  const kept: ArrayBufferView[] = [];
  const callbacks: bigint[] = [];
  const pointerTo = (text: string): bigint => {
    const bytes = textOf(text);
    // Small typed arrays may move; these are made as large as those that do not.
    const still = new Uint8Array(Math.max(bytes.length, 1024));
    still.set(bytes);
    kept.push(still);
    return koffi.address(still);
  };
  const functions = functionsOf(registry, (result, args, work) => {
    const made = koffi.register(work, koffi.pointer(koffi.proto(result, args)));
    callbacks.push(made);
    return made;
  });
  const address = api.out("CreateCustomOpDomain", name);
  for (const op of ops) {
    const struct = BigUint64Array.from([STRUCT_VERSION, ...functions.map((pointed) => pointed ?? 0n)]);
    kept.push(struct);
    const at = koffi.address(struct);
    registry.ops.set(at, { op, name: pointerTo(op.name), provider: pointerTo(op.provider) });
    api.call("CustomOpDomain_Add", address, at);
  }
  return {
    address,
    release: () => {
      api.call("ReleaseCustomOpDomain", address);
      for (const made of callbacks) koffi.unregister(made);
      kept.length = 0;
    },
  };
};
