/** Libraries of NVIDIA's that may be on a machine or not, opened by koffi, which is an optional package. */
import type * as FullKoffi from "koffi";
import { RequestError } from "../../errors.ts";
import { loadKoffi } from "./library.ts";

/** Throws a RequestError where koffi is not installed. */
const required = (): typeof FullKoffi => {
  try {
    return loadKoffi() as unknown as typeof FullKoffi;
  } catch (error) {
    const [line] = (error as Error).message.split("\n");
    throw new RequestError(`libraries cannot be called (koffi: ${line}); npm install koffi`, { cause: error });
  }
};

/** koffi closes a library that nothing holds any more, its functions in use or not. */
const open: FullKoffi.LibraryHandle[] = [];

/** Opens the first of several libraries that is there; undefined where none is. */
export const openFirst = (
  names: readonly string[],
): { readonly name: string; readonly library: FullKoffi.LibraryHandle } | undefined => {
  const koffi = required();
  for (const name of names) {
    try {
      const library = koffi.load(name);
      open.push(library);
      return { name, library };
    } catch {
      // The next one may be there.
    }
  }
  return undefined;
};
