/** Libraries of NVIDIA's that may be on a machine or not, opened by koffi, which is an optional package. */
import { join, relative } from "node:path";
import type * as FullKoffi from "koffi";
import { RequestError } from "../../errors.ts";
import { packageRoot } from "../../version.ts";
import { type Koffi, type KoffiLibrary, loadKoffi } from "./library.ts";

/** Throws a RequestError where koffi is not installed. */
const required = (): typeof FullKoffi => {
  try {
    return loadKoffi() as unknown as typeof FullKoffi;
  } catch (error) {
    const [line] = (error as Error).message.split("\n");
    throw new RequestError(`libraries cannot be called (koffi: ${line}); npm install koffi`, { cause: error });
  }
};

/** The command that brings a library which no npm package has, from wherever it is typed. */
export const installCommand = (name: "nvrtc" | "onednn"): string =>
  `sh ${relative(process.cwd(), join(packageRoot, "scripts", `install-${name}.sh`))}`;

/** koffi closes a library that nothing holds any more, its functions in use or not. */
const open: KoffiLibrary[] = [];

/** `RTLD_NOW | RTLD_NODELETE` of dlfcn.h. */
const STAYS: Readonly<Partial<Record<NodeJS.Platform, number>>> = { linux: 0x1002, darwin: 0x82 };

/**
 * Keeps a library that is open until the process is gone. koffi closes it as Node ends, and a thread of its own (OpenMP's wait awake for
 * some milliseconds) or what another library left to be called at the end (CUDA's) would then run code that is not there any more.
 */
const keep = (koffi: Koffi, name: string): void => {
  const flags = STAYS[process.platform];
  // What Node itself is linked with has dlopen; it can't fail for a library that is open.
  if (flags !== undefined) koffi.load(null).func("dlopen", "void *", ["str", "int"])(name, flags);
};

/** Opens a library for as long as the process lives; throws koffi's error where it cannot be loaded. */
export const openForGood = (koffi: Koffi, name: string): KoffiLibrary => {
  const library = koffi.load(name);
  open.push(library);
  keep(koffi, name);
  return library;
};

/** Opens the first of several libraries that is there; undefined where none is. */
export const openFirst = (
  names: readonly string[],
): { readonly name: string; readonly library: FullKoffi.LibraryHandle } | undefined => {
  const koffi = required();
  for (const name of names) {
    try {
      const library = openForGood(koffi as unknown as Koffi, name) as unknown as FullKoffi.LibraryHandle;
      return { name, library };
    } catch {
      // The next one may be there.
    }
  }
  return undefined;
};
