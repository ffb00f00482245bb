/** What processes that train together do with each other; the training loop knows no more of them than this. */

export interface Collective {
  /** Number of this process, from 0. */
  readonly rank: number;
  /** How many processes there are. */
  readonly size: number;
  /** Number of this process among those of its machine, which picks the GPU. */
  readonly localRank: number;
  /** Whether the ranks are threads of one process, which share its cores and train as one. */
  readonly together?: boolean;
  /** Seconds that were spent in communication so far, waiting for slower ranks included. */
  readonly seconds: number;
  /**
   * Sums values over all ranks, in place; every rank gets the same bits.
   *
   * @throws RunError where a rank did not answer within the time limit
   */
  sum(values: Float32Array): Promise<void>;
  /** Messages from inside a program that runs; undefined in a process of its own. */
  readonly within?: WithinProgram;
  /** The bytes of one rank (default 0), on every rank; what the others give is not looked at. */
  broadcast(bytes: Uint8Array, root?: number): Promise<Uint8Array>;
}

/**
 * What kernels of a running program say to the other ranks: over float32 in host memory, by address, in the thread that calls.
 *
 * @throws RunError where a rank did not answer within the time limit
 */
export interface WithinProgram {
  /** Sums `count` values over ranks. */
  sum(from: bigint, to: bigint, count: number): void;
  /** Puts the `count` values of each rank one after the other. */
  gather(from: bigint, to: bigint, count: number): void;
  /** What was thrown last: an engine tells no more of it than its text. */
  readonly failure: Error | undefined;
}

/** The bytes of every rank, by its number, on every rank. */
export const gathered = async (collective: Collective, bytes: Uint8Array): Promise<Uint8Array[]> => {
  const all: Uint8Array[] = [];
  for (let rank = 0; rank < collective.size; rank++) all.push(await collective.broadcast(bytes, rank));
  return all;
};

/** Whether this rank does the piece of work of that number, where they are dealt out in turn. */
export const isMine = ({ rank, size }: Collective, piece: number): boolean => piece % size === rank;

/** A process of its own. */
export const alone: Collective = {
  rank: 0,
  size: 1,
  localRank: 0,
  seconds: 0,
  sum: async () => {},
  broadcast: async (bytes) => bytes,
};
