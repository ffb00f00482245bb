/** What is needed of CUDA's runtime library (libcudart), which the CUDA provider has loaded anyway. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { RunError } from "../../errors.ts";
import { cudaDependencies } from "../devices.ts";
import { openForGood } from "./foreign.ts";
import { type KoffiLibrary, loadKoffi, type NativeFunction } from "./library.ts";

export type Direction = "toDevice" | "toHost" | "onDevice";

export interface CudaRuntime {
  /** Memory of the host that the GPU reads without the system's help; addresses and sizes are bytes. */
  allocatePinned(bytes: number): bigint;
  freePinned(address: bigint): void;
  /** The bytes at an address of pinned memory, as they are there. */
  bytesAt(address: bigint, bytes: number): Uint8Array;
  createStream(): bigint;
  destroyStream(stream: bigint): void;
  /** Puts a copy on a stream and returns at once. */
  copy(direction: Direction, to: bigint, from: bigint, bytes: number, stream: bigint): void;
  /** Waits until a stream has done all that was put on it. */
  synchronize(stream: bigint): void;
}

/** `cudaMemcpyKind`. */
const kinds = { toDevice: 1, toHost: 2, onDevice: 3 } as const;
/** `cudaStreamNonBlocking`: it does not wait for the default stream. */
const NON_BLOCKING = 1;

/** Names of the library by platform, newest first. */
export const runtimeNames = (platform: NodeJS.Platform = process.platform): readonly string[] =>
  platform === "win32" ? ["cudart64_13.dll", "cudart64_12.dll"] : ["libcudart.so.13", "libcudart.so.12"];

/** The runtime that the provider is linked with, as far as the dynamic linker tells, then the others by name. */
const candidates = (): readonly string[] => {
  const linked = cudaDependencies().filter(
    ({ name, found }) => name.startsWith("libcudart.so.") && found !== undefined,
  );
  const paths = linked
    .flatMap(({ name, found = "" }) => [found, join(found, name)])
    .filter((path) => /\.so/.test(path));
  return [...paths.filter((path) => existsSync(path)), ...runtimeNames()];
};

/** @throws RunError where no library of the names is found */
export const loadCudaRuntime = (names: readonly string[] = candidates()): CudaRuntime => {
  const koffi = loadKoffi();
  const failures: string[] = [];
  let library: KoffiLibrary | undefined;
  for (const name of names) {
    try {
      library = openForGood(koffi, name);
      break;
    } catch (error) {
      failures.push(`${name}: ${(error as Error).message.split("\n")[0]}`);
    }
  }
  if (library === undefined) throw new RunError(`CUDA's runtime library is not found: ${failures.join("; ")}`);
  const found = library;
  const bound = new Map<string, NativeFunction>();
  const describe = found.func("cudaGetErrorString", "str", ["int"]);
  /** Calls a function that gives a cudaError_t; throws where it is not 0. */
  const call = (name: string, types: readonly string[], ...args: unknown[]): void => {
    let made = bound.get(name);
    if (made === undefined) {
      made = found.func(name, "int", types);
      bound.set(name, made);
    }
    const code = made(...args) as number;
    if (code !== 0) throw new RunError(`CUDA: ${name} failed with ${code} (${describe(code)})`);
  };
  const out = (name: string, types: readonly string[], ...args: unknown[]): bigint => {
    const place = new BigUint64Array(1);
    call(name, ["void *", ...types], place, ...args);
    return place[0]!;
  };
  return {
    allocatePinned: (bytes) => out("cudaMallocHost", ["size_t"], bytes),
    freePinned: (address) => call("cudaFreeHost", ["void *"], address),
    bytesAt: (address, bytes) => new Uint8Array(koffi.view(address, bytes)),
    createStream: () => out("cudaStreamCreateWithFlags", ["uint"], NON_BLOCKING),
    destroyStream: (stream) => call("cudaStreamDestroy", ["void *"], stream),
    copy: (direction, to, from, bytes, stream) =>
      call(
        "cudaMemcpyAsync",
        ["void *", "void *", "size_t", "int", "void *"],
        to,
        from,
        bytes,
        kinds[direction],
        stream,
      ),
    synchronize: (stream) => call("cudaStreamSynchronize", ["void *"], stream),
  };
};
