/** Bytes of a pickle, read forwards; lengths are checked against what is left before anything is made of them. */
export class PickleInput {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at: number;

  constructor(bytes: Uint8Array, offset: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#at = offset;
  }

  /** Where the next byte is. */
  get position(): number {
    return this.#at;
  }

  /** Moves over `length` bytes and returns where they begin. */
  skip(length: number): number {
    if (!(Number.isSafeInteger(length) && length >= 0)) throw new Error(`a length of ${length} at byte ${this.#at}`);
    if (length > this.#bytes.length - this.#at)
      throw new Error(`${length} bytes are announced at byte ${this.#at} but ${this.#bytes.length - this.#at} follow`);
    this.#at += length;
    return this.#at - length;
  }

  uint8(): number {
    return this.#view.getUint8(this.skip(1));
  }

  uint16(): number {
    return this.#view.getUint16(this.skip(2), true);
  }

  int32(): number {
    return this.#view.getInt32(this.skip(4), true);
  }

  uint32(): number {
    return this.#view.getUint32(this.skip(4), true);
  }

  /** A length of eight bytes. */
  uint64(): number {
    return Number(this.#view.getBigUint64(this.skip(8), true));
  }

  float64(): number {
    return this.#view.getFloat64(this.skip(8), false);
  }

  /** A view of the next bytes, not a copy. */
  bytes(length: number): Uint8Array {
    const begin = this.skip(length);
    return this.#bytes.subarray(begin, begin + length);
  }

  text(length: number): string {
    const { buffer, byteOffset } = this.bytes(length);
    return Buffer.from(buffer, byteOffset, length).toString("utf8");
  }

  /** Up to the next line feed, at most `longest` characters, each byte as one (latin 1); the line feed is read too. */
  line(longest: number): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0 || end - this.#at > longest) throw new Error(`a line without end at byte ${this.#at}`);
    const { buffer, byteOffset, length } = this.bytes(end - this.#at);
    this.skip(1);
    return Buffer.from(buffer, byteOffset, length).toString("latin1");
  }

  /** A whole number written as decimals. */
  decimal(): number | bigint {
    const text = this.line(longestNumber).replace(/L$/, "");
    if (!/^[+-]?\d+$/.test(text)) throw new Error(`${JSON.stringify(text)} is no number`);
    return plain(BigInt(text.replace(/^\+/, "")));
  }

  /** A whole number of `length` bytes in two's complement. */
  integer(length: number): number | bigint {
    if (!(length >= 0 && length <= longestNumber)) throw new Error(`a number of ${length} bytes`);
    const bytes = this.bytes(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!);
    return plain(length > 0 ? BigInt.asIntN(8 * length, value) : 0n);
  }
}

/** Digits or bytes of the longest number that is read: seeds and counters have a few, bombs have millions. */
const longestNumber = 1024;

const plain = (value: bigint): number | bigint => {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
};
