/** What this machine can compute on, and how to mend what is missing. */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { freemem, totalmem } from "node:os";
import { join } from "node:path";
import { blockedName } from "../../graphs/targets/cpu/placing.ts";
import { defineVerb } from "../verbs/verb.ts";
import { packageRoot, versions } from "../version.ts";
import { blockSize } from "./block.ts";
import { coresApart, coresText } from "./core-latency.ts";
import { availableCores } from "./cores.ts";
import { cudaDependencies, cudaFiles, gpuDevices, gpuNames, processor, vulkanDrivers } from "./devices.ts";
import { chooseEngine, type Engine, engineOf } from "./engine.ts";
import { knownLayouts } from "./layouts/choice.ts";
import { kernelsReport } from "./native/kernels.ts";
import { bfloat16Report } from "./native/onednn/available.ts";
import { type NativeReport, nativeReport } from "./native/report.ts";
import type { Provider } from "./session.ts";

/** Whether a provider works, what it said, and the step that mends it. */
export interface ProviderState {
  readonly works: boolean;
  readonly message: string;
  readonly remedy?: string;
}

export interface DoctorResult {
  readonly processor: ReturnType<typeof processor> & { readonly cores: number };
  /** Nanoseconds from one core to another, groups of them that share a cache, and what follows from both. */
  readonly cores: {
    readonly apart: number | undefined;
    readonly groups: number | undefined;
    readonly message: string;
  };
  /** Bytes. */
  readonly memory: number;
  readonly gpus: readonly string[];
  readonly versions: ReturnType<typeof versions>;
  /** CUDA's and cuDNN's, by name. */
  readonly libraries: { readonly found: readonly string[]; readonly missing: readonly string[] };
  readonly vulkanDrivers: readonly string[];
  readonly providers: Readonly<Record<Provider, ProviderState>>;
  /** The engine that CUDA graphs need. */
  readonly native: NativeReport;
  /** How convolutions lie on the CPU where no target is named, and who says so. */
  readonly layouts: { readonly target: string; readonly reason: string };
  /** Whether `--precision bfloat16` can be computed, and by what. */
  readonly bfloat16: { readonly works: boolean; readonly message: string };
  /** Packages that some commands alone need, by name: for what, and whether they are installed. */
  readonly optional: Readonly<Record<string, { readonly installed: boolean; readonly what: string }>>;
  /** How onnxruntime would be reached on CUDA, and whether programs would be replayed as CUDA graphs. */
  readonly onCuda: Pick<Engine, "name" | "nameReason" | "graphs">;
  /** Whether this project's CUDA kernels can run, and by what; else why not. */
  readonly kernels: { readonly works: boolean; readonly message: string };
  /** What is taken where everything is left at "auto". */
  readonly auto: Pick<Engine, "provider" | "reason" | "name" | "nameReason" | "precision" | "graphs">;
}

const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

const cudaRemedy = (): string => {
  if (!gpuDevices().nvidia) return "it needs an NVIDIA GPU and its driver; none is here";
  if (cudaFiles().some(({ found }) => !found))
    return "run  npm run install:cuda  (without a network: docs/gpu.md tells how to bring the files)";
  const missing = cudaDependencies().filter(({ found }) => found === undefined);
  return missing.length > 0
    ? `install CUDA and cuDNN for ${missing.map(({ name }) => name).join(", ")}, or put their folder on LD_LIBRARY_PATH`
    : "its libraries are all here, so the driver may be too old for them: compare nvidia-smi with the CUDA version";
};

/** The one step that mends what a provider lacks. */
const remedyOf = (provider: Provider, message: string): string => {
  if (provider === "cuda") return cudaRemedy();
  if (message.includes("not supported in this build"))
    return "the libraries that were laid beside the binding are built without it: npm ci brings back the package's own";
  if (process.platform !== "linux") return "update the GPU's driver";
  if (!gpuDevices().render) return "it needs a GPU with a kernel driver (/dev/dri/renderD*); none is here";
  return vulkanDrivers().length > 0
    ? "its Vulkan drivers are listed above; none takes this GPU: install its vendor's"
    : "install the Vulkan driver of the GPU's vendor (Debian: mesa-vulkan-drivers, or nvidia-driver's)";
};

/** Tries a provider in a process of its own, which its libraries may end. */
const tryProvider = (provider: Provider, threads: number): ProviderState => {
  const program = join(packageRoot, "dist", "src", "engine", "probe-process.js");
  const { stdout, signal, status } = spawnSync(process.execPath, [program, provider, String(threads)], {
    encoding: "utf8",
    timeout: 120_000,
    stdio: ["ignore", "pipe", "ignore"],
  });
  let state: ProviderState;
  try {
    state = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as ProviderState;
  } catch {
    state = { works: false, message: `it ended the process that tried it (${signal ?? `exit code ${status}`})` };
  }
  return state.works ? state : { ...state, remedy: remedyOf(provider, state.message) };
};

const printNames = (items: readonly string[], none: string): string => items.join(", ") || none;

/** The results as two columns: what, and what is found. */
export const doctorRows = (found: DoctorResult): [string, string][] => {
  const { name, cores, vectors, blockSize } = found.processor;
  const { libraries, providers, auto, native, onCuda } = found;
  return [
    ["processor", `${name}, ${cores} cores, ${vectors} (onnxruntime's blocks of ${blockSize} channels)`],
    ["cores", found.cores.message],
    ["memory", `${gigabytes(found.memory)}, ${gigabytes(freemem())} free`],
    ["GPUs", printNames(found.gpus, "none found")],
    ...Object.entries(found.versions).map(([key, value]): [string, string] => [key, value]),
    [
      "CUDA libraries",
      `found: ${printNames(libraries.found, "none")}; missing: ${printNames(libraries.missing, "none")}`,
    ],
    ["Vulkan drivers", printNames(found.vulkanDrivers, "none found")],
    ...Object.entries(providers).flatMap(([provider, { message, remedy }]): [string, string][] => [
      [provider, message],
      ...(remedy === undefined ? [] : [["", `→ ${remedy}`] as [string, string]]),
    ]),
    ["native engine", native.works ? `onnxruntime ${native.version} through koffi (${native.path})` : native.message],
    ["CPU target", `${found.layouts.target}: ${found.layouts.reason}`],
    ["bfloat16", found.bfloat16.message],
    ...Object.entries(found.optional).map(([name, { installed, what }]): [string, string] => [
      name,
      `${installed ? "installed" : `not installed: npm install --no-save --include=optional ${name}`}; for ${what}`,
    ]),
    ["NVIDIA driver", native.driver ?? "none found"],
    ["on CUDA", `${onCuda.name}: ${onCuda.nameReason}; CUDA graphs: ${onCuda.graphs ? "yes" : "no"}`],
    ["CUDA kernels", found.kernels.message],
    ["--provider auto", `takes ${auto.provider}: ${auto.reason}`],
    ["--engine auto", `takes ${auto.name}: ${auto.nameReason}`],
    ["--precision auto", `takes ${auto.precision}${auto.provider === "cuda" ? "" : " (on CUDA tf32)"}`],
  ];
};

/** Sizes as installed, measured: docs/reliability.md. */
const optional = {
  "onnxruntime-web": "advcl serve, whose page it computes in (142 MB)",
  koffi: "CUDA graphs, ranks, and locks between containers (5 MB)",
} as const;

const optionalPackages = (): DoctorResult["optional"] => {
  const { resolve } = createRequire(import.meta.url);
  const installed = (name: string): boolean => {
    try {
      return resolve(name) !== "";
    } catch {
      return false;
    }
  };
  return Object.fromEntries(
    Object.entries(optional).map(([name, what]) => [name, { installed: installed(name), what }]),
  );
};

const layoutReport = async (): Promise<DoctorResult["layouts"]> => {
  const block = await blockSize();
  if (block === undefined) return { target: "cpu", reason: "onnxruntime has no blocked convolutions here" };
  const { limits, reason } = await knownLayouts(block);
  return { target: blockedName(block, limits), reason };
};

/** Looks at processor, memory, GPUs, libraries, and tries every provider. */
export const doctor = defineVerb(
  { name: "doctor", settings: {}, writesNothing: true },
  async ({ threads }): Promise<DoctorResult> => {
    const libraries = [...cudaFiles(), ...cudaDependencies()];
    const named = (there: boolean) =>
      libraries.filter(({ found }) => Boolean(found) === there).map((library) => library.name);
    const providers = {
      cpu: tryProvider("cpu", threads),
      cuda: tryProvider("cuda", threads),
      webgpu: tryProvider("webgpu", threads),
    };
    const { provider, reason, name, nameReason, precision, graphs } = await chooseEngine({ provider: "auto", threads });
    const apart = await coresApart();
    return {
      processor: { ...processor(), cores: availableCores() },
      cores: { apart: apart.nanoseconds, groups: apart.groups, message: coresText(apart) },
      memory: totalmem(),
      gpus: gpuNames(),
      versions: versions(),
      libraries: { found: named(true), missing: named(false) },
      vulkanDrivers: vulkanDrivers(),
      providers,
      native: nativeReport(),
      layouts: await layoutReport(),
      bfloat16: bfloat16Report(threads),
      optional: optionalPackages(),
      onCuda: engineOf("cuda"),
      kernels: kernelsReport(),
      auto: { provider, reason, name, nameReason, precision, graphs },
    };
  },
);
