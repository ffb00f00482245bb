import { RequestError } from "../errors.ts";

/**
 * Bytes that one file may unpack to beyond its own size: deflated members, expanded tensors, compressed archives.
 * 512 MiB is more than any published dataset or checkpoint gains (STL-10 0.3 GiB) and fits a machine of 1 GB.
 */
export const defaultBudget = 2 ** 29;

/** Option of the readers. */
export interface ReadOptions {
  /** Bytes that the file may unpack to beyond its own size, before it is refused. Default `defaultBudget`, 512 MiB. */
  readonly budget?: number | undefined;
}

/** What is left of a reader's budget; nothing is allocated before it was taken from here. */
export class Budget {
  readonly #total: number;
  #left: number;

  constructor(bytes: number) {
    this.#total = bytes;
    this.#left = bytes;
  }

  /** The budget of a file of `size` bytes. */
  static of(size: number, { budget = defaultBudget }: ReadOptions): Budget {
    return new Budget(size + budget);
  }

  /** @throws RequestError naming `what` where fewer than `bytes` are left, or where that is no number of bytes */
  take(bytes: number, what: string): void {
    if (!(Number.isSafeInteger(bytes) && bytes >= 0))
      throw new RequestError(`${what} would take ${bytes} bytes, which is no size: it is damaged`);
    if (bytes > this.#left)
      throw new RequestError(
        `${what} would take ${bytes} bytes where ${this.#left} of the ${this.#total} that a file of this size may unpack to are left: it is hostile or damaged`,
      );
    this.#left -= bytes;
  }
}
