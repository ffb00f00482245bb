/**
 * oneDNN, whose convolutions in bfloat16 use a processor's own instructions for it (AVX-512 BF16, AMX): found on this machine
 * at run time, called by its C API (version 3).
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { LibraryHandle } from "koffi";
import { RunError } from "../../../errors.ts";
import { cacheFolder } from "../cache-folder.ts";
import { openFirst } from "../foreign.ts";
import { loadKoffi } from "../library.ts";

/** Where scripts/install-onednn.sh puts it. */
export const onednnFolder = (): string => join(cacheFolder(), "onednn");

const librariesIn = (folder: string): string[] => {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => /(^|[\\/])(libdnnl\.so\.3|libdnnl\.3\.dylib|dnnl\.dll)$/.test(name))
      .map((name) => join(folder, name));
  } catch {
    return [];
  }
};

/** Where it may be: what ADVCL_ONEDNN names, what scripts/install-onednn.sh has put into the cache, what the linker finds. */
const candidates = (): string[] => {
  const named = process.env.ADVCL_ONEDNN;
  if (named) return [...librariesIn(named), named];
  const system =
    process.platform === "win32" ? "dnnl.dll" : process.platform === "darwin" ? "libdnnl.3.dylib" : "libdnnl.so.3";
  return [...librariesIn(onednnFolder()), system];
};

/** `dnnl_cpu_isa_avx512_core_bf16`: its bits are in all later sets of instructions, AMX's among them. */
const BFLOAT16_ISA = 0xe7;
/** What `dnnl_cpu_isa_avx512_core_amx` has beside those before it. */
const AMX_ISA = 0xe00;
/** The version of its C API that is called here. */
const VERSION = 3;

/** Its functions that are called here, of which those that return a status are called through `attempt`. */
const functionsOf = (library: LibraryHandle) => {
  const window = "int64_t* strides, int64_t* dilates, int64_t* before, int64_t* after";
  const pooling = "int64_t* strides, int64_t* kernel, int64_t* dilates, int64_t* before, int64_t* after";
  return {
    engineCreate: library.func("int dnnl_engine_create(_Out_ void** engine, int kind, size_t index)"),
    streamCreate: library.func("int dnnl_stream_create(_Out_ void** stream, void* engine, uint flags)"),
    descriptorWithStrides: library.func(
      "int dnnl_memory_desc_create_with_strides(_Out_ void** made, int rank, int64_t* dims, int type, int64_t* strides)",
    ),
    descriptorWithTag: library.func(
      "int dnnl_memory_desc_create_with_tag(_Out_ void** made, int rank, int64_t* dims, int type, int tag)",
    ),
    descriptorSize: library.func("size_t dnnl_memory_desc_get_size(void* descriptor)"),
    memoryCreate: library.func(
      "int dnnl_memory_create(_Out_ void** made, void* descriptor, void* engine, intptr_t at)",
    ),
    memorySet: library.func("int dnnl_memory_set_data_handle(void* memory, uintptr_t at)"),
    forward: library.func(
      `int dnnl_convolution_forward_primitive_desc_create(_Out_ void** made, void* engine, int kind, int algorithm, void* x, void* w, void* bias, void* y, ${window}, void* attributes)`,
    ),
    backwardData: library.func(
      `int dnnl_convolution_backward_data_primitive_desc_create(_Out_ void** made, void* engine, int algorithm, void* dx, void* w, void* dy, ${window}, void* hint, void* attributes)`,
    ),
    backwardWeights: library.func(
      `int dnnl_convolution_backward_weights_primitive_desc_create(_Out_ void** made, void* engine, int algorithm, void* x, void* dw, void* dbias, void* dy, ${window}, void* hint, void* attributes)`,
    ),
    reorder: library.func(
      "int dnnl_reorder_primitive_desc_create(_Out_ void** made, void* from, void* fromEngine, void* to, void* toEngine, void* attributes)",
    ),
    binary: library.func(
      "int dnnl_binary_primitive_desc_create(_Out_ void** made, void* engine, int algorithm, void* a, void* b, void* y, void* attributes)",
    ),
    normForward: library.func(
      "int dnnl_batch_normalization_forward_primitive_desc_create(_Out_ void** made, void* engine, int kind, void* x, void* y, float epsilon, uint flags, void* attributes)",
    ),
    normBackward: library.func(
      "int dnnl_batch_normalization_backward_primitive_desc_create(_Out_ void** made, void* engine, int kind, void* dx, void* dy, void* x, float epsilon, uint flags, void* hint, void* attributes)",
    ),
    poolForward: library.func(
      `int dnnl_pooling_forward_primitive_desc_create(_Out_ void** made, void* engine, int kind, int algorithm, void* x, void* y, ${pooling}, void* attributes)`,
    ),
    poolBackward: library.func(
      `int dnnl_pooling_backward_primitive_desc_create(_Out_ void** made, void* engine, int algorithm, void* dx, void* dy, ${pooling}, void* hint, void* attributes)`,
    ),
    attributesCreate: library.func("int dnnl_primitive_attr_create(_Out_ void** made)"),
    postOpsCreate: library.func("int dnnl_post_ops_create(_Out_ void** made)"),
    postOpsSet: library.func("int dnnl_primitive_attr_set_post_ops(void* attributes, void* operations)"),
    appendBinary: library.func("int dnnl_post_ops_append_binary(void* operations, int algorithm, void* b)"),
    appendSum: library.func("int dnnl_post_ops_append_sum(void* operations, float scale, int zeroPoint, int type)"),
    appendEltwise: library.func("int dnnl_post_ops_append_eltwise(void* operations, int algorithm, float a, float b)"),
    query: library.func("void* dnnl_primitive_desc_query_md(void* primitive, int what, int index)"),
    primitiveCreate: library.func("int dnnl_primitive_create(_Out_ void** made, void* description)"),
    execute: library.func("int dnnl_primitive_execute(void* primitive, void* stream, int count, void* arguments)"),
  };
};

export type OnednnFunctions = ReturnType<typeof functionsOf>;

export interface Onednn {
  /** As the library is called or where it lies. */
  readonly name: string;
  readonly version: string;
  /** Whether this processor has instructions for bfloat16. */
  readonly hasBfloat16: boolean;
  /** Whether it has a matrix unit (AMX). */
  readonly hasMatrixUnit: boolean;
  readonly functions: OnednnFunctions;
  /** Throws a RunError with oneDNN's name of a status that is not 0. */
  attempt(what: string, status: number): void;
}

/** `dnnl_status_t`. */
const statuses = [
  "success",
  "out of memory",
  "invalid arguments",
  "unimplemented",
  "last implementation",
  "runtime error",
];

const attempt = (what: string, status: number): void => {
  if (status !== 0) throw new RunError(`oneDNN: ${what} failed: ${statuses[status] ?? `status ${status}`}`);
};

/**
 * What OpenMP reads when it is loaded: threads wait awake for some milliseconds, until the next product of a step, and then fall
 * asleep (GNU's count of turns, Intel's and LLVM's milliseconds). What is set stays.
 */
const prepareThreads = (threads: number): void => {
  process.env.OMP_NUM_THREADS ??= String(threads);
  process.env.OMP_WAIT_POLICY ??= "passive";
  process.env.GOMP_SPINCOUNT ??= "100000";
  process.env.KMP_BLOCKTIME ??= "2";
};

let opened: Onednn | undefined;

/**
 * Opens oneDNN; undefined where it is not here, or is older than version 3. Throws a RequestError where koffi is missing.
 * @param threads that it computes in; those of the first call stand
 */
export const openOnednn = (threads: number): Onednn | undefined => {
  if (opened !== undefined) return opened;
  prepareThreads(threads);
  const found = openFirst(candidates());
  if (found === undefined) return undefined;
  const { library, name } = found;
  const numbers = loadKoffi().decode(library.func("void* dnnl_version()")(), "int", 3) as readonly number[];
  if (numbers[0] !== VERSION) return undefined;
  const isa = library.func("int dnnl_get_effective_cpu_isa()")() as number;
  opened = {
    name,
    version: numbers.join("."),
    hasBfloat16: (isa & BFLOAT16_ISA) === BFLOAT16_ISA,
    hasMatrixUnit: (isa & AMX_ISA) === AMX_ISA,
    functions: functionsOf(library),
    attempt,
  };
  return opened;
};
