import { spawnSync } from "node:child_process";
import { freemem, totalmem } from "node:os";
import { join } from "node:path";
import { availableCores } from "../../engine/cores.ts";
import { cudaDependencies, cudaFiles, gpuDevices, gpuNames, processor, vulkanDrivers } from "../../engine/devices.ts";
import { chooseEngine } from "../../engine/engine.ts";
import type { Provider } from "../../engine/session.ts";
import { packageRoot, versions } from "../../version.ts";
import { defineCommand, printColumns } from "../command.ts";

const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The one step that mends what a provider lacks. */
const remedy = (provider: Provider, message: string): string => {
  const { nvidia, render } = gpuDevices();
  if (provider === "cuda") {
    if (!nvidia) return "it needs an NVIDIA GPU and its driver; none is here";
    if (cudaFiles().some(({ found }) => !found))
      return "run  npm run install:cuda  (without a network: docs/gpu.md tells how to bring the files)";
    const missing = cudaDependencies().filter(({ found }) => found === undefined);
    return missing.length > 0
      ? `install CUDA and cuDNN for ${missing.map(({ name }) => name).join(", ")}, or put their folder on LD_LIBRARY_PATH`
      : "its libraries are all here, so the driver may be too old for them: compare nvidia-smi with the CUDA version";
  }
  if (message.includes("not supported in this build"))
    return "the libraries that were laid beside the binding are built without it: npm ci brings back the package's own";
  if (process.platform !== "linux") return "update the GPU's driver";
  if (!render) return "it needs a GPU with a kernel driver (/dev/dri/renderD*); none is here";
  return vulkanDrivers().length > 0
    ? "its Vulkan drivers are listed above; none takes this GPU: install its vendor's"
    : "install the Vulkan driver of the GPU's vendor (Debian: mesa-vulkan-drivers, or nvidia-driver's)";
};

/** Tries a provider in a process of its own, which its libraries may end. */
const tried = (provider: Provider, threads: number): { works: boolean; message: string } => {
  const program = join(packageRoot, "dist", "src", "engine", "probe-process.js");
  const { stdout, signal, status } = spawnSync(process.execPath, [program, provider, String(threads)], {
    encoding: "utf8",
    timeout: 120_000,
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    return JSON.parse(stdout.trim().split("\n").at(-1) as string);
  } catch {
    return { works: false, message: `it ended the process that tried it (${signal ?? `exit code ${status}`})` };
  }
};

const listed = (items: readonly string[], none: string): string => items.join(", ") || none;

export const doctor = defineCommand({
  name: "doctor",
  summary: "what this machine can compute on, and how to mend what is missing",
  writesNothing: true,
  settings: {},
  run: async ({ threads }, context) => {
    const { name, vectors, blockSize } = processor();
    const providers: Record<string, { works: boolean; message: string; remedy?: string }> = {};
    for (const provider of ["cpu", "cuda", "webgpu"] as const) {
      const found = tried(provider, threads);
      providers[provider] = found.works ? found : { ...found, remedy: remedy(provider, found.message) };
    }
    const engine = await chooseEngine({ provider: "auto", threads });
    const gpus = gpuNames();
    const libraries = [...cudaFiles(), ...cudaDependencies()];
    const [there, missing] = [true, false].map((is) =>
      libraries.filter(({ found }) => Boolean(found) === is).map((library) => library.name),
    ) as [string[], string[]];
    const vulkan = vulkanDrivers();
    const rows: [string, string][] = [
      ["processor", `${name}, ${availableCores()} cores, ${vectors} (onnxruntime's blocks of ${blockSize} channels)`],
      ["memory", `${gigabytes(totalmem())}, ${gigabytes(freemem())} free`],
      ["GPUs", listed(gpus, "none found")],
      ...Object.entries(versions()).map(([key, value]): [string, string] => [key, value]),
      ["CUDA libraries", `found: ${listed(there, "none")}; missing: ${listed(missing, "none")}`],
      ["Vulkan drivers", listed(vulkan, "none found")],
      ...Object.entries(providers).flatMap(([provider, { message, remedy: step }]): [string, string][] =>
        step === undefined
          ? [[provider, message]]
          : [
              [provider, message],
              ["", `→ ${step}`],
            ],
      ),
      ["--provider auto", `takes ${engine.provider}: ${engine.reason}`],
    ];
    context.print(printColumns(rows, 120));
    context.result({
      processor: { name, vectors, blockSize, cores: availableCores() },
      memory: totalmem(),
      gpus,
      versions: versions(),
      libraries: { found: there, missing },
      vulkanDrivers: vulkan,
      providers,
      auto: { provider: engine.provider, reason: engine.reason },
    });
  },
});
