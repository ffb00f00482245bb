/**
 * The functions of onnxruntime's C API that are called here: place in the table that `OrtApi` is, kind of result, and kinds of
 * arguments. Places never change: a later version of onnxruntime appends (onnxruntime_c_api.h of 1.24, which numbers them).
 */

/** `pointer` also takes typed arrays, whose memory is passed; `path` is a string as the system's file functions want it. */
export type Kind = "pointer" | "text" | "path" | "int" | "size";

export interface ApiEntry {
  readonly at: number;
  /** `status`: a pointer that is null where all is well. */
  readonly gives: "status" | "nothing" | "text" | "int" | "pointer";
  readonly takes: readonly Kind[];
}

const status = (at: number, ...takes: Kind[]): ApiEntry => ({ at, gives: "status", takes });
const release = (at: number): ApiEntry => ({ at, gives: "nothing", takes: ["pointer"] });
const [p, t, i, n] = ["pointer", "text", "int", "size"] as const;

export const apiTable = {
  GetErrorCode: { at: 1, gives: "int", takes: [p] },
  GetErrorMessage: { at: 2, gives: "text", takes: [p] },
  ReleaseStatus: release(93),

  // log level, name, out
  CreateEnv: status(3, i, t, p),
  GetAvailableProviders: status(125, p, p),
  ReleaseAvailableProviders: status(126, p, i),

  CreateSessionOptions: status(10, p),
  ReleaseSessionOptions: release(100),
  EnableProfiling: status(14, p, "path"),
  EnableMemPattern: status(16, p),
  DisableMemPattern: status(17, p),
  EnableCpuMemArena: status(18, p),
  DisableCpuMemArena: status(19, p),
  SetSessionLogSeverityLevel: status(22, p, i),
  SetSessionGraphOptimizationLevel: status(23, p, i),
  SetIntraOpNumThreads: status(24, p, i),
  SetInterOpNumThreads: status(25, p, i),
  // options, key, value
  AddSessionConfigEntry: status(130, p, t, t),

  // env, bytes, length, options, out
  CreateSessionFromArray: status(8, p, p, n, p, p),
  ReleaseSession: release(95),
  SessionGetInputCount: status(30, p, p),
  SessionGetOutputCount: status(31, p, p),
  // session, index, out
  SessionGetInputTypeInfo: status(33, p, n, p),
  SessionGetOutputTypeInfo: status(34, p, n, p),
  // session, index, allocator, out
  SessionGetInputName: status(36, p, n, p, p),
  SessionGetOutputName: status(37, p, n, p, p),
  // session, allocator, out
  SessionEndProfiling: status(110, p, p, p),
  // session, run options, input names, inputs, count, output names, count, outputs
  Run: status(9, p, p, p, p, n, p, n, p),

  CastTypeInfoToTensorInfo: status(55, p, p),
  GetTensorElementType: status(60, p, p),
  GetDimensionsCount: status(61, p, p),
  GetDimensions: status(62, p, p, n),
  GetTensorTypeAndShape: status(65, p, p),
  ReleaseTypeInfo: release(98),
  ReleaseTensorTypeAndShapeInfo: release(99),

  // memory info, data, bytes, dims, rank, element type, out
  CreateTensorWithDataAsOrtValue: status(49, p, p, n, p, n, i, p),
  IsTensor: status(50, p, p),
  GetTensorMutableData: status(51, p, p),
  ReleaseValue: release(96),

  // name, allocator type, device, memory type, out
  CreateMemoryInfo: status(68, t, i, i, i, p),
  // allocator type, memory type, out
  CreateCpuMemoryInfo: status(69, i, i, p),
  ReleaseMemoryInfo: release(94),
  GetAllocatorWithDefaultOptions: status(78, p),
  // session, memory info, out
  CreateAllocator: status(131, p, p, p),
  ReleaseAllocator: release(132),
  // allocator, bytes, out
  AllocatorAlloc: status(75, p, n, p),
  AllocatorFree: status(76, p, p),

  CreateRunOptions: status(39, p),
  ReleaseRunOptions: release(97),
  RunOptionsSetTerminate: status(46, p),
  RunOptionsUnsetTerminate: status(47, p),
  // options, key, value
  AddRunConfigEntry: status(165, p, t, t),

  // session, out
  CreateIoBinding: status(134, p, p),
  ReleaseIoBinding: release(135),
  // binding, name, value
  BindInput: status(136, p, t, p),
  BindOutput: status(137, p, t, p),
  ClearBoundInputs: { at: 141, gives: "nothing", takes: [p] },
  ClearBoundOutputs: { at: 142, gives: "nothing", takes: [p] },
  // session, run options, binding
  RunWithBinding: status(133, p, p, p),
  SynchronizeBoundOutputs: status(203, p),

  CreateCUDAProviderOptions: status(205, p),
  // options, keys, values, count
  UpdateCUDAProviderOptions: status(206, p, p, p, n),
  ReleaseCUDAProviderOptions: release(208),
  SessionOptionsAppendExecutionProvider_CUDA_V2: status(204, p, p),

  // Custom ops
  CreateCustomOpDomain: status(26, t, p),
  CustomOpDomain_Add: status(27, p, p),
  AddCustomOpDomain: status(28, p, p),
  ReleaseCustomOpDomain: release(101),
  KernelContext_GetInputCount: status(88, p, p),
  KernelContext_GetOutputCount: status(89, p, p),
  // context, index, out
  KernelContext_GetInput: status(90, p, n, p),
  // context, index, dims, rank, out
  KernelContext_GetOutput: status(91, p, n, p, n, p),
  KernelContext_GetGPUComputeStream: status(193, p, p),
  // info, name, out
  KernelInfoGetAttribute_float: status(85, p, t, p),
  KernelInfoGetAttribute_int64: status(86, p, t, p),
  // info, text, size: both are written to
  KernelInfo_GetNodeName: status(244, p, p, p),
  // code, message: what a kernel's callback gives back where it fails
  CreateStatus: { at: 0, gives: "pointer", takes: [i, t] },
} satisfies Record<string, ApiEntry>;

export type ApiName = keyof typeof apiTable;
