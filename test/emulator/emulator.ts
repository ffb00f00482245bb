/** Runs a kernel's CUDA source on the CPU: g++ compiles it with cuda.hpp, koffi calls it. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { dtypes } from "../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor } from "../../graphs/onnx/tensor.ts";
import { type Kernel, type KernelCall, type Launch, namesOf } from "../../graphs/targets/cuda/kernels/kernel.ts";

// As the engine loads it: a second copy in one process may not ask for other stacks.
import { loadKoffi } from "../../src/engine/native/library.ts";
import { available } from "../needs.ts";

type Koffi = typeof import("koffi");

const loads = (): boolean => {
  try {
    loadKoffi();
    return true;
  } catch {
    return false;
  }
};

/** Whether kernels can be emulated here; throws where the machine may not lack what that needs. */
export const emulates =
  available("compiler", spawnSync("g++", ["--version"]).status === 0) && available("koffi", loads());

const header = fileURLToPath(new URL("cuda.hpp", import.meta.url));
const folder = join(tmpdir(), `advcl-emulator-${process.getuid?.() ?? 0}`);

const textOf = (name: string): string => readFileSync(fileURLToPath(new URL(name, import.meta.url)), "utf8");

/** The library of driver.cpp, for launch.ts to open instead of NVIDIA's. */
export const emulatedDriver = (): string => library(textOf("driver.cpp"), []);

/** The library of cudnn.cpp, for cudnn/library.ts. */
export const emulatedCudnn = (): string => library(textOf("cudnn.cpp"), []);

/** A shared library of C++ text; compiled once, for as long as the temporary folder lasts. */
export const library = (text: string, included: readonly string[] = ["-include", header]): string => {
  const version = included.length > 0 ? readFileSync(header, "utf8") : "";
  const name = createHash("sha256").update(version).update(text).digest("hex").slice(0, 24);
  const path = join(folder, `${name}.so`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const [source, partial] = [join(folder, `${name}.${process.pid}.cpp`), join(folder, `${name}.${process.pid}.so`)];
  writeFileSync(source, text);
  const flags = [
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-shared",
    "-fPIC",
  ];
  const { status, stderr } = spawnSync("g++", [...flags, ...included, "-o", partial, source], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`g++ refuses ${source}:\n${stderr}`);
  renameSync(partial, path);
  return path;
};

/** The library of a kernel's source, with an entry for each function that is launched. */
export const emulatedLibrary = (kernel: Kernel, call: KernelCall): string => {
  const functions = new Set(kernel.launches(call).map((launch) => launch.function));
  return library(`${kernel.source(call)}\n${[...functions].map((name) => `EMULATED_KERNEL(${name})`).join("\n")}\n`);
};

/** Bytes on each side of a tensor that nobody may touch. */
const GUARD = 256;

/**
 * Runs a kernel's launches on the CPU.
 *
 * @param order blocks run from the first to the last, or the other way round
 * @returns the outputs; throws where a launch fails, or writes outside an output
 */
export const emulate = (
  kernel: Kernel,
  call: KernelCall,
  inputs: readonly Tensor[],
  order: "forwards" | "backwards" = "forwards",
): Tensor[] => {
  const koffi = loadKoffi() as unknown as Koffi;
  const loaded = koffi.load(emulatedLibrary(kernel, call));
  loaded.func("void emulatedOrder(int)")(order === "backwards" ? 1 : 0);
  const memory = [...inputs, ...call.outputs].map((type) => {
    const bytes = sizeOf(type.shape) * dtypes[type.dtype].array.BYTES_PER_ELEMENT;
    const length = GUARD + Math.ceil(bytes / GUARD) * GUARD + GUARD;
    const allocated = koffi.alloc("uint8", length + GUARD);
    const address = koffi.address(allocated);
    const shift = (GUARD - Number(address % BigInt(GUARD))) % GUARD;
    const view = new Uint8Array(koffi.view(allocated, length + GUARD), shift, length);
    // All ones are no number in any float, so that a read outside, or of what was never written, shows.
    view.fill(0xff);
    if ("data" in type) {
      const { buffer, byteOffset } = (type as Tensor).data;
      view.set(new Uint8Array(buffer, byteOffset, bytes), GUARD);
    }
    return { allocated, bytes, view, address: address + BigInt(shift + GUARD) };
  });
  try {
    const pointers = BigUint64Array.from(memory, ({ address }) => address);
    for (const launch of kernel.launches(call)) run(loaded, launch, pointers);
    memory.forEach(({ view, bytes }, i) => {
      const outside = [...view.subarray(0, GUARD), ...view.subarray(GUARD + bytes)];
      if (outside.some((byte) => byte !== 0xff))
        throw new Error(`something is written outside of ${namesOf(kernel.arguments(call))[i]}`);
    });
    return call.outputs.map(({ dtype, shape }, i) => {
      const { view, bytes } = memory[inputs.length + i] as (typeof memory)[number];
      const copy = view.slice(GUARD, GUARD + bytes);
      return { dtype, shape, data: new dtypes[dtype].array(copy.buffer, 0, sizeOf(shape)) };
    });
  } finally {
    for (const { allocated } of memory) koffi.free(allocated);
    loaded.unload();
  }
};

const run = (loaded: ReturnType<Koffi["load"]>, launch: Launch, pointers: BigUint64Array): void => {
  const entry = loaded.func(`const char* emulated_${launch.function}(const void*, uint, uint, uint)`);
  const failure = entry(pointers, launch.grid[0], launch.grid[1], launch.block) as string | null;
  if (failure !== null) throw new Error(`${launch.function}: ${failure}`);
};
