/**
 * Keyed random numbers: every generator is fixed by (seed, epoch, index, stream), so it does not matter which thread
 * draws first, or whether a run was resumed.
 *
 * One block of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns the key into
 * the 128-bit state of xoshiro128** (Blackman and Vigna, 2018). Philox is a bijection of its counter, so under one seed
 * two different keys never start in the same state.
 */

/** A source of random numbers; each call moves it on. */
export interface Random {
  /** A number in [0, 1), a multiple of 2^-32. */
  uniform(): number;
  /** A standard normal number. */
  normal(): number;
  /** An integer in [0, n), without modulo bias; 1 ≤ n ≤ 2^32. */
  int(n: number): number;
  /** The integers 0 … n-1 in random order. */
  permutation(n: number): Int32Array;
  /** Fills `out` with numbers in [low, high); rounding to float32 can reach `high`. */
  fillUniform(out: Float32Array, low: number, high: number): void;
  /** Fills `out` with normal numbers of mean 0. */
  fillNormal(out: Float32Array, std: number): void;
}

// Bound once: under jest every look-up of a global is slow.
const { imul, floor } = Math;

const high32 = (a: number, b: number): number => {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const low = al * bl;
  const middle = ah * bl + (low >>> 16);
  const cross = al * bh + (middle % 0x10000);
  return (ah * bh + floor(middle / 0x10000) + floor(cross / 0x10000)) >>> 0;
};

/** One block of Philox4x32 with 10 rounds: four 32-bit words from a counter of four words and a key of two. */
export const philox = (
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] => {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const h0 = high32(0xd2511f53, c0);
    const l0 = imul(0xd2511f53, c0);
    const h1 = high32(0xcd9e8d57, c2);
    const l1 = imul(0xcd9e8d57, c2);
    c0 = (h1 ^ c1 ^ k0) >>> 0;
    c1 = l1 >>> 0;
    c2 = (h0 ^ c3 ^ k1) >>> 0;
    c3 = l0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
};

const scale = 2 ** -32;

class Xoshiro implements Random {
  #s0: number;
  #s1: number;
  #s2: number;
  #s3: number;
  #spare: number | undefined;

  constructor(state: readonly [number, number, number, number]) {
    this.#s0 = state[0] | 0;
    this.#s1 = state[1] | 0;
    this.#s2 = state[2] | 0;
    this.#s3 = state[3] | 0;
    if ((this.#s0 | this.#s1 | this.#s2 | this.#s3) === 0) this.#s0 = 1; // xoshiro's one fixed point
  }

  #next(): number {
    const s1 = this.#s1;
    const five = imul(s1, 5);
    const result = imul((five << 7) | (five >>> 25), 9) >>> 0;
    this.#s2 ^= this.#s0;
    this.#s3 ^= s1;
    this.#s1 = s1 ^ this.#s2;
    this.#s0 ^= this.#s3;
    this.#s2 ^= s1 << 9;
    this.#s3 = (this.#s3 << 11) | (this.#s3 >>> 21);
    return result;
  }

  uniform(): number {
    return this.#next() * scale;
  }

  normal(): number {
    if (this.#spare !== undefined) {
      const value = this.#spare;
      this.#spare = undefined;
      return value;
    }
    // Box and Muller; 1 - u keeps the logarithm finite.
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  int(n: number): number {
    if (!(Number.isInteger(n) && n >= 1 && n <= 2 ** 32)) throw new RangeError(`int(${n}): n must be 1 to 2^32`);
    const fair = 2 ** 32 - (2 ** 32 % n);
    let value = this.#next();
    while (value >= fair) value = this.#next();
    return value % n;
  }

  permutation(n: number): Int32Array {
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const swapped = order[i]!;
      order[i] = order[j]!;
      order[j] = swapped;
    }
    return order;
  }

  fillUniform(out: Float32Array, low: number, high: number): void {
    const span = (high - low) * scale;
    let [s0, s1, s2, s3] = [this.#s0, this.#s1, this.#s2, this.#s3]; // `next` with its state in registers
    for (let i = 0; i < out.length; i++) {
      const five = imul(s1, 5);
      out[i] = low + span * (imul((five << 7) | (five >>> 25), 9) >>> 0);
      const shifted = s1 << 9;
      s2 ^= s0;
      s3 ^= s1;
      s1 ^= s2;
      s0 ^= s3;
      s2 ^= shifted;
      s3 = (s3 << 11) | (s3 >>> 21);
    }
    this.#s0 = s0;
    this.#s1 = s1;
    this.#s2 = s2;
    this.#s3 = s3;
  }

  fillNormal(out: Float32Array, std: number): void {
    for (let i = 0; i < out.length; i++) out[i] = std * this.normal();
  }
}

/** xoshiro128** from a state of four 32-bit words. */
export const xoshiro = (state: readonly [number, number, number, number]): Random => new Xoshiro(state);

const checked = (name: string, value: number, limit: number): number => {
  if (!(Number.isInteger(value) && value >= 0 && value < limit))
    throw new RangeError(`random: ${name} must be an integer from 0 to below ${limit}, not ${value}`);
  return value;
};

/** The 32-bit number of a stream's name (FNV-1a over its UTF-16 units). */
export const streamNumber = (name: string): number => {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
};

/**
 * The generator of one key.
 * @param seed the run's seed, 0 to 2^53 - 1
 * @param epoch 0 to 2^32 - 1
 * @param index which image, 0 to 2^32 - 1
 * @param stream what the numbers are for: a name such as "view1", or its `streamNumber`
 * @throws RangeError for a key outside these ranges
 */
export const random = (seed: number, epoch: number, index: number, stream: string | number): Random => {
  checked("seed", seed, 2 ** 53);
  const word = typeof stream === "string" ? streamNumber(stream) : checked("stream", stream, 2 ** 32);
  const counter = [word, checked("index", index, 2 ** 32), checked("epoch", epoch, 2 ** 32), 0] as const;
  return xoshiro(philox(counter, [seed >>> 0, floor(seed / 2 ** 32)]));
};

/** The order in which an epoch visits `count` images: a permutation keyed by (seed, epoch). */
export const epochOrder = (seed: number, epoch: number, count: number): Int32Array =>
  random(seed, epoch, 0, "order").permutation(count);
