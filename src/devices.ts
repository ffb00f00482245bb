/** What this machine has for onnxruntime to compute on, as far as files tell. */
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

/** Libraries that the CUDA provider loads, by what the dynamic linker would find: each name, and where it was found. */
export const cudaDependencies = (): readonly { readonly name: string; readonly found: string | undefined }[] => {
  const folders = [
    ...(process.env.LD_LIBRARY_PATH ?? "").split(":").filter((folder) => folder !== ""),
    "/usr/local/cuda/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
  ];
  return [
    "libcuda.so",
    "libcudart.so",
    "libcublas.so",
    "libcublasLt.so",
    "libcudnn.so",
    "libcufft.so",
    "libcurand.so",
  ].map((name) => ({ name, found: folders.find((folder) => holds(folder, name)) }));
};

const holds = (folder: string, name: string): boolean => {
  try {
    return readdirSync(folder).some((file) => file === name || file.startsWith(`${name}.`));
  } catch {
    return false;
  }
};

/** Name and vector extensions of the processor; floats in a vector decide onnxruntime's blocked layout. */
export const processor = (): { readonly name: string; readonly vectors: string; readonly blockSize: number } => {
  let text = "";
  try {
    text = readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    // Not Linux: only what Node tells.
  }
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
