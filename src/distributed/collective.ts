/** What processes that train together do with each other; the training loop knows no more of them than this. */

export interface Collective {
  /** Number of this process, from 0. */
  readonly rank: number;
  /** How many processes there are. */
  readonly size: number;
  /** Number of this process among those of its machine, which picks the GPU. */
  readonly localRank: number;
  /** Seconds that were spent in communication so far, waiting for slower ranks included. */
  readonly seconds: number;
  /**
   * Sums values over all ranks, in place; every rank gets the same bits.
   *
   * @throws RunError where a rank did not answer within the time limit
   */
  sum(values: Float32Array): Promise<void>;
  /** The bytes of rank 0, on every rank; what the others give is not looked at. */
  broadcast(bytes: Uint8Array): Promise<Uint8Array>;
}

/** A process of its own. */
export const alone: Collective = {
  rank: 0,
  size: 1,
  localRank: 0,
  seconds: 0,
  sum: async () => {},
  broadcast: async (bytes) => bytes,
};
