/** What this machine has for onnxruntime to compute on, as far as files tell. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);

/** Folder of onnxruntime-node's native libraries. */
export const nativeFolder = (): string => {
  const root = dirname(require.resolve("onnxruntime-node/package.json"));
  return join(root, "bin", "napi-v6", process.platform, process.arch);
};

/** Libraries of the CUDA provider, which the npm package does not carry, and whether each lies beside the binding. */
export const cudaFiles = (): readonly { readonly name: string; readonly found: boolean }[] => {
  const [prefix, suffix] = process.platform === "win32" ? ["", ".dll"] : ["lib", ".so"];
  return ["onnxruntime_providers_shared", "onnxruntime_providers_cuda"].map((library) => {
    const name = `${prefix}${library}${suffix}`;
    return { name, found: existsSync(join(nativeFolder(), name)) };
  });
};

/** Whether an NVIDIA device, and any GPU with a driver, is here. On systems other than Linux a GPU is taken for granted. */
export const gpuDevices = (): { readonly nvidia: boolean; readonly render: boolean } => {
  if (process.platform !== "linux") return { nvidia: process.platform === "win32", render: true };
  const render = existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"));
  return { nvidia: existsSync("/dev/nvidiactl"), render };
};

/** Names of the GPUs, as far as the kernel's files tell: NVIDIA's by model, others by their kernel driver. */
export const gpuNames = (): readonly string[] => {
  const nvidia = "/proc/driver/nvidia/gpus";
  const models = entries(nvidia).map((gpu) => /Model:\s*(.*)/.exec(textOf(join(nvidia, gpu, "information")))?.[1]);
  const others = entries("/sys/class/drm")
    .filter((name) => name.startsWith("renderD"))
    .map((name) => /DRIVER=(.*)/.exec(textOf(join("/sys/class/drm", name, "device", "uevent")))?.[1])
    .filter((driver) => driver !== "nvidia");
  return [...models, ...others].filter((name) => name !== undefined);
};

/** Manifests of the Vulkan drivers that the loader would find on Linux: what WebGPU reaches a GPU by. */
export const vulkanDrivers = (): readonly string[] => {
  const named = process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES;
  if (named !== undefined) return named.split(":").filter((file) => existsSync(file));
  return ["/etc", "/usr/share", "/usr/local/share"].flatMap((folder) =>
    entries(join(folder, "vulkan", "icd.d"))
      .filter((file) => file.endsWith(".json"))
      .map((file) => join(folder, "vulkan", "icd.d", file)),
  );
};

/**
 * Libraries of CUDA and its driver that the provider loads, and where each was found. onnxruntime 1.30 is not linked with
 * cuDNN and looks for it only when a convolution runs.
 */
export const cudaDependencies = (): readonly { readonly name: string; readonly found: string | undefined }[] => {
  const provider = cudaFiles().find(({ name, found }) => found && name.includes("cuda"));
  const linked = provider === undefined ? [] : linkedLibraries(join(nativeFolder(), provider.name));
  const driver = { name: "libcuda.so", found: folderOf("libcuda.so") };
  const cudnn = { name: "libcudnn.so.9", found: folderOf("libcudnn.so.9") };
  if (linked.length > 0) {
    const of = linked.filter(({ name }) => /^lib(cu|nv)/.test(name));
    return [...of, ...[driver, cudnn].filter(({ name }) => !of.some((library) => library.name.startsWith(name)))];
  }
  const names = ["libcudart.so", "libcublas.so", "libcublasLt.so", "libcudnn.so", "libcufft.so", "libcurand.so"];
  return [driver, ...names.map((name) => ({ name, found: folderOf(name) }))];
};

/** What the dynamic linker says of a library's own libraries; nothing where there is no `ldd`. */
const linkedLibraries = (path: string): { readonly name: string; readonly found: string | undefined }[] => {
  const { stdout } = spawnSync("ldd", [path], { encoding: "utf8", timeout: 20_000 });
  return Array.from((stdout ?? "").matchAll(/^\s*(\S+) => (?:not found|(\S+))/gm), ([, name = "", found]) => ({
    name,
    found,
  }));
};

/** The folder that holds a library, with whatever version behind its name. */
const folderOf = (name: string): string | undefined =>
  [
    ...(process.env.LD_LIBRARY_PATH ?? "").split(":").filter((folder) => folder !== ""),
    "/usr/local/cuda/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/local/nvidia/lib64",
  ].find((folder) => holds(folder, name));

const entries = (folder: string): string[] => {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
};

const textOf = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

const holds = (folder: string, name: string): boolean =>
  entries(folder).some((file) => file === name || file.startsWith(`${name}.`));

/** Name and vector extensions of the processor; floats in a vector decide onnxruntime's blocked layout. */
export const processor = (): { readonly name: string; readonly vectors: string; readonly blockSize: number } => {
  // Empty where this is not Linux: then only what Node tells.
  const text = textOf("/proc/cpuinfo");
  const name = /model name\s*: (.*)/.exec(text)?.[1] ?? process.arch;
  const flags = new Set((/flags\s*: (.*)/.exec(text)?.[1] ?? "").split(" "));
  const vectors = flags.has("avx512f")
    ? "AVX-512"
    : flags.has("avx2")
      ? "AVX2"
      : process.arch === "arm64"
        ? "NEON"
        : "SSE";
  return { name, vectors, blockSize: flags.has("avx512f") ? 16 : flags.has("avx2") ? 8 : 4 };
};
