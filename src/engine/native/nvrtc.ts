/**
 * NVRTC, NVIDIA's compiler as a library: CUDA C in a string to machine code, without a GPU and without any header. What was
 * compiled once is kept in the user's cache folder.
 */
import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { RunError } from "../../errors.ts";
import { writeFileAtomic } from "../../files/atomic.ts";
import { forEach } from "../../files/concurrency.ts";
import { cacheFolder } from "./cache-folder.ts";
import { openFirst } from "./foreign.ts";

export interface Nvrtc {
  /** As the library is called or where it lies. */
  readonly name: string;
  readonly version: string;
  /** Compute capabilities that it has code for: 75, 80, … */
  readonly architectures: readonly number[];
  /**
   * Machine code (a cubin) for one compute capability, compiled in a thread of Node's, of which there are four unless
   * UV_THREADPOOL_SIZE says otherwise. Throws a RunError with the compiler's first error.
   */
  compile(source: string, architecture: number): Promise<Uint8Array>;
}

/** Libraries under a folder, in which a Python package may have put them deeper. */
const librariesIn = (folder: string): string[] => {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => /(^|[\\/])(libnvrtc\.so(\.\d+)*|nvrtc64_\d+_0\.dll)$/.test(name))
      .map((name) => join(folder, name));
  } catch {
    return [];
  }
};

/** Where scripts/install-nvrtc.sh puts it. */
export const nvrtcFolder = (): string => join(cacheFolder(), "nvrtc");

/** Where it may be: what ADVCL_NVRTC names, what the linker finds, what scripts/install-nvrtc.sh has put into the cache. */
const candidates = (): string[] => {
  const named = process.env.ADVCL_NVRTC;
  if (named) return [...librariesIn(named), named];
  const system =
    process.platform === "win32"
      ? ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
      : ["libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so"];
  return [...system, ...librariesIn(nvrtcFolder())];
};

/** Opens NVRTC; undefined where it is not here. */
export const openNvrtc = (): Nvrtc | undefined => {
  const found = openFirst(candidates());
  if (found === undefined) return undefined;
  const { library, name } = found;
  const errorText = library.func("const char* nvrtcGetErrorString(int)");
  const attempt = (what: string, code: number): void => {
    if (code !== 0) throw new RunError(`NVRTC: ${what} failed: ${errorText(code)}`);
  };
  const create = library.func(
    "int nvrtcCreateProgram(_Out_ void** program, const char* source, const char* name, int headers, const void* texts, const void* names)",
  );
  const compileProgram = library.func("int nvrtcCompileProgram(void* program, int count, const char** options)");
  const destroy = library.func("int nvrtcDestroyProgram(_Inout_ void** program)");
  const sizeOfLog = library.func("int nvrtcGetProgramLogSize(void* program, _Out_ size_t* size)");
  const log = library.func("int nvrtcGetProgramLog(void* program, _Out_ uint8_t* text)");
  const sizeOfCode = library.func("int nvrtcGetCUBINSize(void* program, _Out_ size_t* size)");
  const code = library.func("int nvrtcGetCUBIN(void* program, _Out_ uint8_t* code)");
  const bytes = (size: typeof sizeOfLog, get: typeof log, program: unknown): Uint8Array => {
    const count = [0];
    attempt("asking for a size", size(program, count));
    const into = new Uint8Array(Number(count[0]));
    attempt("reading a result", get(program, into));
    return into;
  };

  const [major, minor] = [[0], [0]];
  attempt("asking for its version", library.func("int nvrtcVersion(_Out_ int* major, _Out_ int* minor)")(major, minor));
  const number = [0];
  attempt("asking for architectures", library.func("int nvrtcGetNumSupportedArchs(_Out_ int* count)")(number));
  const architectures = new Int32Array(number[0]!);
  attempt("asking for architectures", library.func("int nvrtcGetSupportedArchs(_Out_ int* list)")(architectures));
  return {
    name,
    version: `${major[0]}.${minor[0]}`,
    architectures: Array.from(architectures),
    compile: async (source, architecture) => {
      const made: unknown[] = [null];
      attempt("starting a program", create(made, source, "kernel.cu", 0, null, null));
      const program = made[0];
      try {
        const options = [`--gpu-architecture=sm_${architecture}`, "--std=c++17"];
        const status = await new Promise<number>((resolve, reject) => {
          compileProgram.async(program, options.length, options, (error: Error | null, result: number) =>
            error ? reject(error) : resolve(result),
          );
        });
        if (status !== 0) {
          const said = Buffer.from(bytes(sizeOfLog, log, program))
            .toString("utf8")
            .replace(/\0.*$/s, "");
          const first = said.split("\n").find((line) => line.includes("error")) ?? said.split("\n")[0];
          throw new RunError(`NVRTC ${major[0]}.${minor[0]} refuses a kernel for sm_${architecture}: ${first}`);
        }
        return bytes(sizeOfCode, code, program);
      } finally {
        destroy(made);
      }
    },
  };
};

/**
 * Machine code of a source from the user's cache folder, or compiled and put there: keyed by source, architecture and the
 * compiler's version. A folder that cannot be written costs the cache, not the run.
 */
export const compileCached = async (
  nvrtc: Nvrtc,
  source: string,
  architecture: number,
  folder: string = join(cacheFolder(), "kernels"),
): Promise<Uint8Array> => {
  const key = createHash("sha256").update(`${nvrtc.version}\n${architecture}\n${source}`).digest("hex");
  const path = join(folder, `${key}.cubin`);
  try {
    return await readFile(path);
  } catch {
    const code = await nvrtc.compile(source, architecture);
    await writeFileAtomic(path, code).catch(() => undefined);
    return code;
  }
};

/** koffi takes 256 calls at a time, each with a stack of its own (library.ts), also those that wait for a thread. */
const MOST_AT_ONCE = 32;

/** The same for several sources, as many at once as there are processors. */
export const compileAll = async (
  nvrtc: Nvrtc,
  sources: readonly string[],
  architecture: number,
  folder?: string,
): Promise<ReadonlyMap<string, Uint8Array>> => {
  const code = new Map<string, Uint8Array>();
  await forEach(sources.length, Math.min(availableParallelism(), MOST_AT_ONCE), async (i) => {
    const source = sources[i]!;
    code.set(source, await compileCached(nvrtc, source, architecture, folder));
  });
  return code;
};
