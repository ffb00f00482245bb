/** What the fused kernels need beside onnxruntime (an NVIDIA driver, NVRTC, cuDNN): whether it is here, and a model's kernels readied by it. */
import type { Model } from "../../../graphs/onnx/write.ts";
import { RunError } from "../../errors.ts";
import type { EngineName } from "../session-contract.ts";
import { missingApi } from "./api.ts";
import type { CudaOptions } from "./cuda-options.ts";
import { cudnnConvolutions } from "./cudnn/convolutions.ts";
import { type Cudnn, openCudnn } from "./cudnn/library.ts";
import type { Kernels } from "./custom-op.ts";
import { installCommand } from "./foreign.ts";
import { kernelOps, kernelSources } from "./kernel-ops.ts";
import { type Driver, openDriver } from "./launch.ts";
import { compileAll, type Nvrtc, openNvrtc } from "./nvrtc.ts";

/** The oldest GPUs that NVRTC 13 has code for. */
const OLDEST = 75;

export interface KernelTools {
  readonly missingApi: () => string | undefined;
  readonly openDriver: () => Driver | undefined;
  readonly openNvrtc: () => Nvrtc | undefined;
  readonly openCudnn: () => Cudnn | undefined;
}
const usual: KernelTools = { missingApi, openDriver, openNvrtc, openCudnn };

const version = (architecture: number): string => (architecture / 10).toFixed(1);

type Found = { readonly driver: Driver; readonly nvrtc: Nvrtc; readonly cudnn: Cudnn };

const find = (tools: KernelTools): Found | string => {
  const api = tools.missingApi();
  if (api !== undefined) return api;
  let driver: Driver | undefined;
  try {
    driver = tools.openDriver();
  } catch (error) {
    return (error as Error).message;
  }
  if (driver === undefined) return "there is no NVIDIA driver";
  const { architecture } = driver;
  const stop = (reason: string): string => {
    driver?.release();
    return reason;
  };
  if (architecture < OLDEST)
    return stop(`this GPU has compute capability ${version(architecture)}, and they need ${version(OLDEST)}`);
  const nvrtc = tools.openNvrtc();
  if (nvrtc === undefined) return stop(`NVRTC is not here: run  ${installCommand("nvrtc")}  or set ADVCL_NVRTC`);
  if (!nvrtc.architectures.includes(architecture))
    return stop(
      `NVRTC ${nvrtc.version} has no code for compute capability ${version(architecture)}: run  ${installCommand("nvrtc")}`,
    );
  const cudnn = tools.openCudnn();
  if (cudnn === undefined)
    return stop(
      "cuDNN 9 is not here: docs/gpu.md says how it is found, python -m pip install nvidia-cudnn-cu13 brings it",
    );
  return { driver, nvrtc, cudnn };
};

const known = new Map<number, Found | string>();
/** What is here for a GPU, by its number. */
const usualTools = (device = 0): Found | string => {
  const found = known.get(device) ?? find({ ...usual, openDriver: () => openDriver(device) });
  known.set(device, found);
  return found;
};

/** Why kernels of this project's own cannot run here and stock ops do instead, in one sentence; undefined where they can. */
export const missingKernels = (engine: EngineName, device?: number, tools?: KernelTools): string | undefined => {
  const search = () => (tools === undefined ? usualTools(device) : find(tools));
  const tried = engine === "native" ? search() : "they need --engine native";
  return typeof tried === "string" ? `onnxruntime's own ops stand for the fused kernels (${tried})` : undefined;
};

/** What there is to say of the fused kernels on this machine, for `doctor`. */
export const kernelsReport = (tools?: KernelTools): { readonly works: boolean; readonly message: string } => {
  const found = tools === undefined ? usualTools() : find(tools);
  if (typeof found === "string") return { works: false, message: `onnxruntime's own ops stand for them (${found})` };
  const { nvrtc, cudnn } = found;
  return {
    works: true,
    message: `compiled by NVRTC ${nvrtc.version} (${nvrtc.name}), convolutions by cuDNN ${cudnn.version}`,
  };
};

/**
 * Compiles a model's kernels, or takes them from the cache, and gives what launches them. Throws a RunError where it cannot.
 * @param options number of the GPU, and whether convolutions in float32 may round their operands to TF32
 */
export const launchedKernels = async (
  model: Model,
  { device, tf32 = true }: Pick<CudaOptions, "device" | "tf32"> = {},
): Promise<Kernels> => {
  const tools = usualTools(device);
  if (typeof tools === "string") throw new RunError(`fused kernels cannot run here: ${tools}`);
  const { driver, nvrtc, cudnn } = tools;
  const code = await compileAll(nvrtc, kernelSources(model), driver.architecture);
  const prepare = driver.prepare((source) => {
    const compiled = code.get(source);
    if (compiled === undefined) throw new RunError("internal: a kernel was not compiled with its model");
    return compiled;
  });
  const convolutions = cudnnConvolutions(cudnn, driver, tf32);
  return {
    ops: kernelOps(model, "CUDAExecutionProvider", prepare, convolutions.prepare),
    ended: convolutions.release,
  };
};
