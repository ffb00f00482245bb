import { freemem, totalmem } from "node:os";
import { defineCommand, printColumns } from "../command.ts";
import { availableCores } from "../cores.ts";
import { cudaDependencies, cudaFiles, gpuDevices, processor } from "../devices.ts";
import { chooseEngine, probe } from "../engine.ts";
import type { Provider } from "../runtime.ts";
import { versions } from "../version.ts";

const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The one step that mends what a provider lacks. */
const remedy = (provider: Provider): string => {
  const { nvidia, render } = gpuDevices();
  if (provider === "cuda") {
    if (!nvidia) return "needs an NVIDIA GPU and its driver; none is here";
    const missing = cudaFiles().filter(({ found }) => !found);
    if (missing.length > 0)
      return `${missing.map(({ name }) => name).join(", ")} missing: run  npm run install:cuda  (needs a network)`;
    const libraries = cudaDependencies().filter(({ found }) => found === undefined);
    return libraries.length > 0
      ? `${libraries.map(({ name }) => name).join(", ")} not found: install CUDA and cuDNN, or put their folder on LD_LIBRARY_PATH`
      : "its libraries are here but it does not start; see the message above";
  }
  return render
    ? "the GPU's Vulkan driver is missing: install the one of its vendor (Debian: mesa-vulkan-drivers or nvidia-vulkan-icd)"
    : "needs a GPU and a Vulkan driver; none is here";
};

export const doctor = defineCommand({
  name: "doctor",
  summary: "what this machine can compute on, and how to mend what is missing",
  settings: {},
  run: async ({ threads }, context) => {
    const { name, vectors, blockSize } = processor();
    const providers: Record<string, { works: boolean; message: string }> = {};
    for (const provider of ["cpu", "cuda", "webgpu"] as const)
      try {
        await probe({ provider, threads });
        providers[provider] = { works: true, message: "works" };
      } catch (error) {
        const [message = ""] = (error as Error).message.replace(/; choose.*/s, "").split("\n");
        providers[provider] = { works: false, message: `${message}\n→ ${remedy(provider)}` };
      }
    const engine = await chooseEngine({ provider: "auto", threads });
    const rows: [string, string][] = [
      ["processor", `${name}, ${availableCores()} cores, ${vectors} (onnxruntime's blocks of ${blockSize} channels)`],
      ["memory", `${gigabytes(totalmem())}, ${gigabytes(freemem())} free`],
      ...Object.entries(versions()).map(([key, value]): [string, string] => [key, value]),
      ...Object.entries(providers).flatMap(([provider, { message }]): [string, string][] =>
        message.split("\n").map((line, i) => [i === 0 ? provider : "", line]),
      ),
      ["--provider auto", `${engine.provider}: ${engine.reason}`],
    ];
    context.print(printColumns(rows, 120));
    context.result({
      processor: { name, vectors, blockSize, cores: availableCores() },
      memory: totalmem(),
      versions: versions(),
      providers,
      auto: engine.provider,
    });
  },
});
