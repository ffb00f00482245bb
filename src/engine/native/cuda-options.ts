/** What onnxruntime's CUDA provider is told, as its own option strings. */

export interface CudaOptions {
  /** Which GPU; default 0. */
  readonly device?: number;
  /** Whether float32 products may round their operands to TF32; default yes, as the provider's. */
  readonly tf32?: boolean;
  /** How cuDNN's algorithms are found: by trying all, by its heuristics, or its default. */
  readonly search?: "EXHAUSTIVE" | "HEURISTIC" | "DEFAULT";
  /** The most memory of the provider's arena, in bytes. */
  readonly memoryLimit?: bigint;
  /** Whether runs are captured as a CUDA graph and replayed; the program has to have no Loop, and fixed shapes. */
  readonly graph?: boolean;
}

/** Keys and values for UpdateCUDAProviderOptions, in a fixed order. */
export const cudaProviderOptions = (options: CudaOptions): readonly (readonly [key: string, value: string])[] => {
  const { device = 0, tf32 = true, search = "EXHAUSTIVE", memoryLimit, graph = false } = options;
  const flag = (is: boolean): string => (is ? "1" : "0");
  return [
    ["device_id", String(device)],
    ["use_tf32", flag(tf32)],
    ["cudnn_conv_algo_search", search],
    ...(memoryLimit === undefined ? [] : [["gpu_mem_limit", String(memoryLimit)] as const]),
    ["enable_cuda_graph", flag(graph)],
  ];
};
