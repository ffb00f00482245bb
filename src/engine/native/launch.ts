/**
 * Launches kernels on an NVIDIA GPU through its driver's library. onnxruntime computes in the device's primary context; it is made
 * current around every call, because JavaScript may run in another thread than the session.
 */
import type { Kernel, KernelCall } from "../../../graphs/targets/cuda/kernels/kernel.ts";
import { RunError } from "../../errors.ts";
import { openFirst } from "./foreign.ts";
import type { Prepare } from "./kernel-ops.ts";

export interface Driver {
  /** Compute capability of the device: 90 is 9.0. */
  readonly architecture: number;
  /** Readies kernels whose sources have been compiled to machine code. */
  prepare(codeOf: (source: string) => Uint8Array): Prepare;
  /** Does what needs the device's context. */
  within<T>(work: () => T): T;
  /** Memory of the device, in bytes; the caller's to free. */
  allocate(bytes: number): bigint;
  free(address: bigint): void;
  release(): void;
}

const libraries = process.platform === "win32" ? ["nvcuda.dll"] : ["libcuda.so.1", "libcuda.so"];
const [MAJOR, MINOR] = [75, 76] as const; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…

type Library = NonNullable<ReturnType<typeof openFirst>>["library"];

/** The driver's functions that are called here; each throws a RunError with the driver's own name of what is wrong. */
const functionsOf = (library: Library) => {
  const errorName = library.func("int cuGetErrorName(int code, _Out_ const char** name)");
  const attempt = (what: string, code: number): void => {
    if (code === 0) return;
    const name = [null];
    errorName(code, name);
    throw new RunError(`CUDA: ${what} failed: ${name[0] ?? `error ${code}`}`);
  };
  return {
    attempt,
    init: library.func("int cuInit(uint flags)"),
    attribute: library.func("int cuDeviceGetAttribute(_Out_ int* value, int attribute, int device)"),
    retain: library.func("int cuDevicePrimaryCtxRetain(_Out_ void** context, int device)"),
    releaseContext: library.func("int cuDevicePrimaryCtxRelease_v2(int device)"),
    push: library.func("int cuCtxPushCurrent_v2(void* context)"),
    pop: library.func("int cuCtxPopCurrent_v2(_Out_ void** context)"),
    load: library.func("int cuModuleLoadData(_Out_ void** module, const void* image)"),
    unload: library.func("int cuModuleUnload(void* module)"),
    entry: library.func("int cuModuleGetFunction(_Out_ void** function, void* module, const char* name)"),
    allocate: library.func("int cuMemAlloc_v2(_Out_ uint64_t* address, size_t bytes)"),
    free: library.func("int cuMemFree_v2(uint64_t address)"),
    launch: library.func(
      "int cuLaunchKernel(void* function, uint gx, uint gy, uint gz, uint bx, uint by, uint bz, uint shared, void* stream, void** parameters, void** extra)",
    ),
  };
};

/** A device's primary context, and the programs that are loaded in it, by their source. */
class Context {
  readonly driver: ReturnType<typeof functionsOf>;
  readonly device: number;
  readonly held: unknown[] = [null];
  readonly modules = new Map<string, unknown>();
  constructor(driver: ReturnType<typeof functionsOf>, device: number) {
    this.driver = driver;
    this.device = device;
    driver.attempt("taking the device's context", driver.retain(this.held, device));
  }

  within<T>(work: () => T): T {
    const { attempt, push, pop } = this.driver;
    attempt("making the context current", push(this.held[0]));
    try {
      return work();
    } finally {
      pop([null]);
    }
  }

  module(source: string, code: Uint8Array): unknown {
    const known = this.modules.get(source);
    if (known !== undefined) return known;
    const made: unknown[] = [null];
    this.within(() => this.driver.attempt("loading a kernel", this.driver.load(made, code)));
    this.modules.set(source, made[0]);
    return made[0];
  }

  ready(kernel: Kernel, call: KernelCall, codeOf: (source: string) => Uint8Array): ReturnType<Prepare> {
    const { attempt, entry, launch } = this.driver;
    const source = kernel.source(call);
    const program = this.module(source, codeOf(source));
    const launches = kernel.launches(call).map(({ function: name, grid: [x, y], block }) => {
      const found: unknown[] = [null];
      this.within(() => attempt(`looking for ${name}`, entry(found, program, name)));
      return { found: found[0], what: `launching ${name}`, x, y, block };
    });
    return (addresses, stream) =>
      this.within(() => {
        // The one parameter is the struct of all addresses; the driver copies it before it returns.
        for (const { found, what, x, y, block } of launches)
          attempt(what, launch(found, x, y, 1, block, 1, 1, 0, stream === 0n ? null : stream, [addresses], null));
      });
  }

  allocate(bytes: number): bigint {
    const place = [0n];
    this.within(() => this.driver.attempt(`taking ${bytes} bytes of its memory`, this.driver.allocate(place, bytes)));
    return BigInt(place[0]!);
  }

  free(address: bigint): void {
    this.within(() => this.driver.free(address));
  }

  release(): void {
    this.within(() => {
      for (const program of this.modules.values()) this.driver.unload(program);
    });
    this.modules.clear();
    this.driver.releaseContext(this.device);
  }
}

/** Opens the driver for a device; undefined where there is no driver. Throws a RunError where it refuses. */
export const openDriver = (device = 0, names: readonly string[] = libraries): Driver | undefined => {
  const found = openFirst(names);
  if (found === undefined) return undefined;
  const driver = functionsOf(found.library);
  driver.attempt("starting the driver", driver.init(0));
  const attributeOf = (which: number): number => {
    const value = [0];
    driver.attempt("asking for the device's architecture", driver.attribute(value, which, device));
    return value[0]!;
  };
  const architecture = 10 * attributeOf(MAJOR) + attributeOf(MINOR);
  const context = new Context(driver, device);
  return {
    architecture,
    prepare: (codeOf) => (kernel, call) => context.ready(kernel, call, codeOf),
    within: (work) => context.within(work),
    allocate: (bytes) => context.allocate(bytes),
    free: (address) => context.free(address),
    release: () => context.release(),
  };
};
