/** Whether a launcher of MPI programs started this process, by the environment that it gave, and which library is the launcher's. */
import { join } from "node:path";

export interface Launched {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Names of the library under which distributions and vendors install it. */
const openMpi = ["libmpi.so.40", "libmpi.so", "libmpi.40.dylib", "libmpi.dylib"];
const mpich = ["libmpich.so.12", "libmpi.so.12", "libmpi.12.dylib"];

/**
 * Where the library of MPI is looked for, in this order: both implementations may be installed, and only that of the launcher
 * finds the other processes. Open MPI 5 says where its own lies.
 */
export const mpiLibraries = (environment: Environment = process.env): readonly string[] => {
  if (environment.OMPI_COMM_WORLD_RANK === undefined && environment.PMI_RANK !== undefined)
    return [...mpich, ...openMpi];
  const told = environment.OMPI_LIBDIR_LOC;
  return [...(told === undefined ? [] : [join(told, "libmpi.so.40")]), ...openMpi, ...mpich];
};

/**
 * Settings of UCX, by which MPICH sends. To see whether it learns of memory that is given back, UCX moves the end of the heap up by a
 * page and down again, and does not look whether the first worked: where V8's code begins right behind the heap, one process in 64, a
 * page of the heap is lost and the process ends with SIGSEGV. MPI sends without that too. SIGSEGV itself is V8's: WebAssembly checks
 * its bounds by it.
 */
const ucx = { UCX_MEM_EVENTS: "n", UCX_ERROR_SIGNALS: "SIGILL,SIGBUS,SIGFPE" } as const;

/** Sets what MPI's library has to find in the environment when it is loaded; what the user set there holds. */
export const prepareEnvironment = (environment: Record<string, string | undefined>): void => {
  for (const [name, value] of Object.entries(ucx)) environment[name] ??= value;
};

/** Variables for rank, size and rank on the machine: mpirun of Open MPI; hydra and srun --mpi=pmi2; srun --mpi=pmix. */
const launchers = [
  ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
  ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
  ["PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
] as const;

const wholeNumber = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;

/** The place of this process among those that were launched together; undefined where none or only one was. */
export const launched = (environment: Environment = process.env): Launched | undefined => {
  for (const [rankName, sizeName, localName] of launchers) {
    const [rank, size] = [wholeNumber(environment[rankName]), wholeNumber(environment[sizeName])];
    if (rank === undefined || size === undefined || size < 2) continue;
    const localRank = wholeNumber(environment[localName]) ?? wholeNumber(environment.SLURM_LOCALID) ?? rank;
    return { rank, size, localRank };
  }
  return undefined;
};
