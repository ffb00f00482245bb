/** Options of a session, set as the binding sets them. */
import type { SessionOptions } from "../session-contract.ts";
import { type Handle, handleOf, type OrtApi } from "./api.ts";
import { type CudaOptions, cudaProviderOptions } from "./cuda-options.ts";

/** `GraphOptimizationLevel`. */
const levels = { disabled: 0, basic: 1, extended: 2, all: 99 } as const;
/** `ORT_LOGGING_LEVEL_FATAL`: what goes wrong is thrown. */
const FATAL = 4;

/** Makes a session's options (OrtSessionOptions), for the caller to release. */
export const sessionOptions = (api: OrtApi, options: SessionOptions): Handle => {
  const made = handleOf(api, "ReleaseSessionOptions", "CreateSessionOptions");
  try {
    const set = (name: Parameters<OrtApi["call"]>[0], ...args: (string | number | bigint)[]) =>
      api.call(name, made.address, ...args);
    set("SetSessionGraphOptimizationLevel", levels[options.optimization ?? "extended"]);
    set("SetSessionLogSeverityLevel", FATAL);
    // As in binding.ts: patterns double the peak of a training step.
    set("DisableMemPattern");
    if (options.threads !== undefined) set("SetIntraOpNumThreads", options.threads);
    if (options.profile !== undefined) set("EnableProfiling", options.profile);
    if (options.optimization === "disabled") set("AddSessionConfigEntry", "session.disable_quant_qdq", "1");
    // Threads that spin would hold the cores that the kernels' own threads compute on.
    if (options.provider !== "cuda" && options.kernels !== undefined)
      set("AddSessionConfigEntry", "session.intra_op.allow_spinning", "0");
    if (options.provider === "cuda") appendCuda(api, made, options.cuda ?? {});
    return made;
  } catch (error) {
    made.release();
    throw error;
  }
};

/** Puts the CUDA provider before the CPU's. */
const appendCuda = (api: OrtApi, session: Handle, options: CudaOptions): void => {
  const cuda = handleOf(api, "ReleaseCUDAProviderOptions", "CreateCUDAProviderOptions");
  try {
    const pairs = cudaProviderOptions(options);
    const texts = [0, 1].map((i) => pairs.map((pair) => new TextEncoder().encode(`${pair[i]}\0`)));
    const [keys, values] = texts.map((column) => BigUint64Array.from(column, (bytes) => api.koffi.address(bytes)));
    api.call("UpdateCUDAProviderOptions", cuda.address, keys as BigUint64Array, values as BigUint64Array, pairs.length);
    api.call("SessionOptionsAppendExecutionProvider_CUDA_V2", session.address, cuda.address);
  } finally {
    cuda.release();
  }
};
