/** Open MPI and MPICH, called through koffi. */
import type { KoffiFunc, LibraryHandle } from "koffi";
import { loadKoffi } from "../engine/native/library.ts";
import { RequestError, RunError } from "../errors.ts";
import type { Collective, WithinProgram } from "./collective.ts";
import { type Launched, mpiLibraries, prepareEnvironment } from "./launcher.ts";

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
  /** MPI_STATUS_IGNORE. */
  readonly ignored: bigint;
}

export interface Mpi extends Collective {
  /** Ends all ranks with an exit code. */
  abort(code: number): void;
  /** Leaves MPI: waits for the others, then nothing more can be sent. */
  finalize(): void;
}

/** MPI_THREAD_SERIALIZED: calls come from koffi's threads, one at a time. */
const SERIALIZED = 2;

/** Values of one call: MPI counts are C ints, and pieces of 16 MiB keep its own buffers small. */
const bucket = 1 << 22;

/** As the native engine loads it, which has a say in its configuration before anything is called. */
const koffiForMpi = (): Koffi => {
  try {
    return loadKoffi() as unknown as Koffi;
  } catch (error) {
    throw new RequestError("MPI is called through the package koffi, which is missing: npm install koffi", {
      cause: error,
    });
  }
};

/** Libraries that are open: koffi unloads one that the collector finds unused, whoever is inside it. */
const kept: LibraryHandle[] = [];

const openLibrary = (koffi: Koffi, given: string | undefined): LibraryHandle => {
  const names = given === undefined ? mpiLibraries() : [given];
  let reason = "";
  for (const name of names)
    try {
      const library = koffi.load(name, { global: true });
      kept.push(library);
      return library;
    } catch (error) {
      reason = (error as Error).message;
    }
  throw new RequestError(
    given === undefined
      ? `this process was started by an MPI launcher, but none of ${names.join(", ")} can be loaded; install Open MPI or MPICH, name its library with --mpi-library, or work alone with --distributed none`
      : `--mpi-library ${given} cannot be loaded (${reason}); name the shared library of the launcher's MPI`,
  );
};

const abiOf = (koffi: Koffi, library: LibraryHandle): Abi => {
  const text = Buffer.alloc(8192);
  library.func("int MPI_Get_library_version(void *text, void *length)")(text, Buffer.alloc(4));
  const version = text.toString("latin1").replace(/\0.*$/s, "");
  if (version.startsWith("Open MPI")) {
    const address = (name: string): bigint => koffi.address(library.symbol(name, "char"));
    const [world, float, byte, sum] = ["comm_world", "float", "byte", "op_sum"].map((n) => address(`ompi_mpi_${n}`));
    return { handle: "void *", world, float, byte, sum, inPlace: 1n, ignored: 0n } as Abi;
  }
  if (version.startsWith("MPICH"))
    return {
      ...{ handle: "int", world: 0x44000000, float: 0x4c00040a, byte: 0x4c00010d },
      ...{ sum: 0x58000003, inPlace: -1n, ignored: 1n },
    };
  const name = version.split(/[\n,]/)[0];
  throw new RequestError(`this MPI is ${name}; advcl knows Open MPI 4 and 5 and MPICH 4: start it with one of theirs`);
};

const hangs = (rank: number, limitSeconds: number): RunError =>
  new RunError(
    `rank ${rank} waited ${limitSeconds} s for the other ranks: one hangs; look at its host, then go on with --resume (or raise --rank-timeout)`,
  );

/** For how long a wait asks again and again before it sleeps in between, and for how long it then sleeps, in ms. */
const [EAGER, NAP] = [0.2, 0.05];
const napping = new Int32Array(new SharedArrayBuffer(4));

/**
 * Messages of this thread: started without waiting, then asked after, so that a rank that hangs is found by the time limit, and
 * ranks that share a core let each other compute.
 */
const speakWithin = (
  koffi: Koffi,
  library: LibraryHandle,
  { handle, world, float, sum, ignored }: Abi,
  { rank, limitSeconds }: { readonly rank: number; readonly limitSeconds: number },
): WithinProgram & { readonly seconds: number } => {
  const reduce = library.func(
    `int MPI_Iallreduce(void *from, void *to, int count, ${handle} type, ${handle} op, ${handle} comm, void *request)`,
  );
  const gather = library.func(
    `int MPI_Iallgather(void *from, int sent, ${handle} sentType, void *to, int got, ${handle} gotType, ${handle} comm, void *request)`,
  );
  const test = library.func("int MPI_Test(void *request, void *done, void *status)");
  // Of native memory: small typed arrays may move while MPI holds their address.
  const [request, done] = [koffi.alloc("uint64_t", 1), koffi.alloc("int", 1)];
  const flag = new Int32Array(koffi.view(done, 4));
  let seconds = 0;
  let failure: Error | undefined;
  const send = (start: () => number): void => {
    const began = performance.now();
    const check = (code: number): void => {
      if (code !== 0) throw new RunError(`MPI gave the error ${code} on rank ${rank}`);
    };
    try {
      check(start());
      for (;;) {
        check(test(request, done, ignored) as number);
        if (flag[0] !== 0) break;
        const waited = performance.now() - began;
        if (waited > limitSeconds * 1000) throw hangs(rank, limitSeconds);
        if (waited > EAGER) Atomics.wait(napping, 0, 0, NAP);
      }
    } catch (error) {
      failure = error as Error;
      throw error;
    } finally {
      seconds += (performance.now() - began) / 1000;
    }
  };
  return {
    get seconds() {
      return seconds;
    },
    get failure() {
      return failure;
    },
    sum: (from, to, count) => send(() => reduce(from, to, count, float, sum, world, request) as number),
    gather: (from, to, count) => send(() => gather(from, count, float, to, count, float, world, request) as number),
  };
};

/**
 * Joins the processes that were launched with this one.
 *
 * @param given the library of MPI; left out, it is looked for
 */
export const joinMpi = ({ size, localRank }: Launched, limitSeconds: number, given?: string): Mpi => {
  const koffi = koffiForMpi();
  prepareEnvironment(process.env);
  const library = openLibrary(koffi, given);
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
      `the launcher started ${size} processes and the MPI library that was found sees ${found}: it is another's; name the launcher's own with --mpi-library`,
    );
  const abortAll = library.func(`int MPI_Abort(${handle} comm, int code)`);
  const finalizeAll = library.func("int MPI_Finalize()");
  const reduce = library.func(
    `int MPI_Allreduce(void *send, void *values, int count, ${handle} type, ${handle} op, ${handle} comm)`,
  );
  const within = speakWithin(koffi, library, abi, { rank, limitSeconds });
  const spread = library.func(`int MPI_Bcast(void *bytes, int count, ${handle} type, int root, ${handle} comm)`);
  let seconds = 0;

  /** A call in a thread of koffi's, which a rank that hangs does not hold up for ever. */
  const call = async (target: KoffiFunc<(...args: unknown[]) => number>, args: readonly unknown[]): Promise<void> => {
    const started = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const code = await new Promise<number>((resolve, reject) => {
      timer = setTimeout(() => {
        reject(hangs(rank, limitSeconds));
      }, limitSeconds * 1000);
      target.async(...args, (error: Error | null, result: number) => (error ? reject(error) : resolve(result)));
    }).finally(() => clearTimeout(timer));
    seconds += (performance.now() - started) / 1000;
    if (code !== 0) throw new RunError(`MPI gave the error ${code} on rank ${rank}`);
  };
  const broadcastInto = async (bytes: Uint8Array, root: number): Promise<void> => {
    for (let at = 0; at < bytes.length; at += 4 * bucket) {
      const piece = bytes.subarray(at, at + 4 * bucket);
      await call(spread, [piece, piece.length, abi.byte, root, world]);
    }
  };
  return {
    ...{ rank, size, localRank },
    within,
    get seconds() {
      return seconds + within.seconds;
    },
    sum: async (values) => {
      for (let at = 0; at < values.length; at += bucket) {
        const piece = values.subarray(at, at + bucket);
        await call(reduce, [abi.inPlace, piece, piece.length, abi.float, abi.sum, world]);
      }
    },
    broadcast: async (bytes, root = 0) => {
      const length = new Uint8Array(new Float64Array([bytes.length]).buffer);
      await broadcastInto(length, root);
      const all = rank === root ? bytes : new Uint8Array(new Float64Array(length.buffer)[0]!);
      await broadcastInto(all, root);
      return all;
    },
    abort: (code) => void abortAll(world, code),
    finalize: () => void finalizeAll(),
  };
};
