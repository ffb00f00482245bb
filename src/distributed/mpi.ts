/** Open MPI and MPICH, called through koffi. */
import { createRequire } from "node:module";
import type { KoffiFunc, LibraryHandle } from "koffi";
import { RequestError, RunError } from "../errors.ts";
import type { Collective } from "./collective.ts";
import type { Launched } from "./launcher.ts";

type Koffi = typeof import("koffi");
type Handle = bigint | number;

/** What the two implementations' ABIs differ in: handles are addresses of globals, or integers of mpi.h. */
interface Abi {
  /** C type of a handle. */
  readonly handle: string;
  readonly world: Handle;
  readonly float: Handle;
  readonly byte: Handle;
  readonly sum: Handle;
  /** MPI_IN_PLACE. */
  readonly inPlace: bigint;
}

export interface Mpi extends Collective {
  /** Ends all ranks with an exit code. */
  abort(code: number): void;
  /** Leaves MPI: waits for the others, then nothing more can be sent. */
  finalize(): void;
}

/** Names of the library under which distributions and vendors install it, Open MPI's first. */
const libraries = ["libmpi.so.40", "libmpi.so", "libmpich.so.12", "libmpi.so.12", "libmpi.40.dylib", "libmpi.dylib"];

/** MPI_THREAD_SERIALIZED: calls come from koffi's threads, one at a time. */
const SERIALIZED = 2;

/** Values of one call: MPI counts are C ints, and pieces of 16 MiB keep its own buffers small. */
const bucket = 1 << 22;

const loadKoffi = (): Koffi => {
  try {
    return createRequire(import.meta.url)("koffi") as Koffi;
  } catch (error) {
    throw new RequestError("MPI is called through the package koffi, which is missing: npm install koffi", {
      cause: error,
    });
  }
};

const openLibrary = (koffi: Koffi): LibraryHandle => {
  for (const name of libraries)
    try {
      return koffi.load(name, { global: true });
    } catch {
      // The next name.
    }
  throw new RequestError(
    `this process was started by an MPI launcher, but none of ${libraries.slice(0, 4).join(", ")} can be loaded; install Open MPI or MPICH, or train alone with --distributed none`,
  );
};

const abiOf = (koffi: Koffi, library: LibraryHandle): Abi => {
  const text = Buffer.alloc(8192);
  library.func("int MPI_Get_library_version(void *text, void *length)")(text, Buffer.alloc(4));
  const version = text.toString("latin1").replace(/\0.*$/s, "");
  if (version.startsWith("Open MPI")) {
    const address = (name: string): bigint => koffi.address(library.symbol(name, "char"));
    const [world, float, byte, sum] = ["comm_world", "float", "byte", "op_sum"].map((n) => address(`ompi_mpi_${n}`));
    return { handle: "void *", world, float, byte, sum, inPlace: 1n } as Abi;
  }
  if (version.startsWith("MPICH"))
    return {
      ...{ handle: "int", world: 0x44000000, float: 0x4c00040a, byte: 0x4c00010d },
      ...{ sum: 0x58000003, inPlace: -1n },
    };
  const name = version.split(/[\n,]/)[0];
  throw new RequestError(`this MPI is ${name}; advcl knows Open MPI 4 and 5 and MPICH 4: start it with one of theirs`);
};

/** Joins the processes that were launched with this one. */
export const joinMpi = ({ size, localRank }: Launched, limitSeconds: number): Mpi => {
  const koffi = loadKoffi();
  const library = openLibrary(koffi);
  const abi = abiOf(koffi, library);
  const { handle, world } = abi;
  library.func("int MPI_Init_thread(void *argc, void *argv, int required, void *provided)")(
    ...[null, null, SERIALIZED, Buffer.alloc(4)],
  );
  const query = (name: string): number => {
    const value = Buffer.alloc(4);
    library.func(`int ${name}(${handle} comm, void *value)`)(world, value);
    return value.readInt32LE();
  };
  const [rank, found] = [query("MPI_Comm_rank"), query("MPI_Comm_size")];
  if (found !== size)
    throw new RequestError(
      `the launcher started ${size} processes and MPI sees ${found}; start them by the mpirun or srun of the MPI library that is loaded`,
    );
  const abortAll = library.func(`int MPI_Abort(${handle} comm, int code)`);
  const finalizeAll = library.func("int MPI_Finalize()");
  const reduce = library.func(
    `int MPI_Allreduce(void *send, void *values, int count, ${handle} type, ${handle} op, ${handle} comm)`,
  );
  const spread = library.func(`int MPI_Bcast(void *bytes, int count, ${handle} type, int root, ${handle} comm)`);
  let seconds = 0;

  /** A call in a thread of koffi's, which a rank that hangs does not hold up for ever. */
  const call = async (target: KoffiFunc<(...args: unknown[]) => number>, args: readonly unknown[]): Promise<void> => {
    const started = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const code = await new Promise<number>((resolve, reject) => {
      timer = setTimeout(() => {
        const message = `rank ${rank} waited ${limitSeconds} s for the other ranks: one hangs; look at its host, then go on with --resume (or raise --rank-timeout)`;
        reject(new RunError(message));
      }, limitSeconds * 1000);
      target.async(...args, (error: Error | null, result: number) => (error ? reject(error) : resolve(result)));
    }).finally(() => clearTimeout(timer));
    seconds += (performance.now() - started) / 1000;
    if (code !== 0) throw new RunError(`MPI gave the error ${code} on rank ${rank}`);
  };
  const broadcastInto = async (bytes: Uint8Array): Promise<void> => {
    for (let at = 0; at < bytes.length; at += 4 * bucket) {
      const piece = bytes.subarray(at, at + 4 * bucket);
      await call(spread, [piece, piece.length, abi.byte, 0, world]);
    }
  };
  return {
    ...{ rank, size, localRank },
    get seconds() {
      return seconds;
    },
    sum: async (values) => {
      for (let at = 0; at < values.length; at += bucket) {
        const piece = values.subarray(at, at + bucket);
        await call(reduce, [abi.inPlace, piece, piece.length, abi.float, abi.sum, world]);
      }
    },
    broadcast: async (bytes) => {
      const length = new Uint8Array(new Float64Array([bytes.length]).buffer);
      await broadcastInto(length);
      const all = rank === 0 ? bytes : new Uint8Array(new Float64Array(length.buffer)[0]!);
      await broadcastInto(all);
      return all;
    },
    abort: (code) => void abortAll(world, code),
    finalize: () => void finalizeAll(),
  };
};
