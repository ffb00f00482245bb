/** Memory for oneDNN. */

/** Bytes of a vector, at whose multiples oneDNN likes memory to start. */
export const ALIGNED = 64;
export const aligned = (address: bigint): bigint =>
  ((address + BigInt(ALIGNED - 1)) / BigInt(ALIGNED)) * BigInt(ALIGNED);

/** Memory for what lies between primitives, as large as the largest of all nodes, which run one after the other. */
export class Scratch {
  readonly #buffers = new Map<string, Uint8Array>();
  readonly #address: (buffer: Uint8Array) => bigint;
  constructor(address: (buffer: Uint8Array) => bigint) {
    this.#address = address;
  }

  reserve(name: string, bytes: number): void {
    if ((this.#buffers.get(name)?.length ?? 0) < bytes) this.#buffers.set(name, new Uint8Array(bytes + ALIGNED));
  }

  at(name: string): bigint {
    return aligned(this.#address(this.#buffers.get(name)!));
  }

  clear(name: string): void {
    this.#buffers.get(name)!.fill(0);
  }
}
