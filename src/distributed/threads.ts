/**
 * Ranks that are threads of one process: each computes its share of every batch with an engine of its own, in memory that no other
 * core writes, and they speak through shared memory. A processor whose cores share their last cache only in groups trains faster so than
 * by threads that share every op.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { availableCores } from "../engine/cores.ts";
import { loadKoffi } from "../engine/native/library.ts";
import { RunError } from "../errors.ts";
import type { Collective, WithinProgram } from "./collective.ts";

/** Where a rank sits: what a thread is started with. */
export interface ThreadPlace {
  readonly rank: number;
  readonly size: number;
  readonly memory: SharedArrayBuffer;
  readonly limitSeconds: number;
}

/** Float32 values that a rank says at a time. */
const ROOM = 2 ** 18;
/** Words before the rooms: which rank failed (from 1), and how many messages each rank has said. */
const FAILED = 0;
const saidBy = (rank: number): number => 1 + rank;
const wordsOf = (size: number): number => Math.ceil((1 + size) / 16) * 16;

/** Two rooms a rank, in turn: whoever writes the next message does not disturb those who still read the one before. */
export const sharedMemory = (size: number): SharedArrayBuffer =>
  new SharedArrayBuffer(4 * (wordsOf(size) + 2 * size * ROOM));

/** How often a wait looks before it sleeps in between where each rank has a core, and for how many ms it then does. */
const [EAGER, NAP] = [20_000, 1];

/** What the others are told of where a rank fails: its own error stands elsewhere. */
export class OtherRankFailed extends RunError {}

/** A rank's messages: each puts something in its room, and reads all rooms once every rank has done so. */
class Rooms {
  readonly #place: ThreadPlace;
  readonly #words: Int32Array;
  readonly #rooms: readonly (readonly Float32Array[])[];
  readonly #eager: number;
  #said = 0;
  seconds = 0;

  constructor(place: ThreadPlace) {
    const { memory, size } = place;
    this.#place = place;
    this.#eager = size <= availableCores() ? EAGER : 0;
    const words = wordsOf(size);
    this.#words = new Int32Array(memory, 0, words);
    const room = (i: number) => new Float32Array(memory, 4 * (words + i * ROOM), ROOM);
    this.#rooms = [0, 1].map((turn) => Array.from({ length: size }, (_, rank) => room(turn * size + rank)));
  }

  fail(): void {
    Atomics.compareExchange(this.#words, FAILED, 0, 1 + this.#place.rank);
    for (let rank = 0; rank < this.#place.size; rank++) Atomics.notify(this.#words, saidBy(rank));
  }

  /** In the thread that calls. */
  exchange(put: (room: Float32Array) => void, take: (rooms: readonly Float32Array[]) => void): void {
    const began = performance.now();
    const rooms = this.#say(put);
    for (let looks = 0, slow = this.#slow(); slow !== undefined; looks++, slow = this.#slow()) {
      if (looks < this.#eager) continue;
      this.#check(began);
      const at = saidBy(slow);
      Atomics.wait(this.#words, at, Atomics.load(this.#words, at), NAP);
    }
    take(rooms);
    this.seconds += (performance.now() - began) / 1000;
  }

  /** While this thread does other things. */
  async exchangeLater(
    put: (room: Float32Array) => void,
    take: (rooms: readonly Float32Array[]) => void,
  ): Promise<void> {
    const began = performance.now();
    const rooms = this.#say(put);
    while (this.#slow() !== undefined) {
      this.#check(began);
      await sleep(NAP);
    }
    take(rooms);
    this.seconds += (performance.now() - began) / 1000;
  }

  #say(put: (room: Float32Array) => void): readonly Float32Array[] {
    const rooms = this.#rooms[this.#said++ % 2]!;
    put(rooms[this.#place.rank]!);
    const at = saidBy(this.#place.rank);
    Atomics.store(this.#words, at, this.#said);
    Atomics.notify(this.#words, at);
    return rooms;
  }

  /** A rank that has not said as much as this one. */
  #slow(): number | undefined {
    for (let rank = 0; rank < this.#place.size; rank++)
      // Counts begin anew after 2^32 messages.
      if (((Atomics.load(this.#words, saidBy(rank)) - this.#said) | 0) < 0) return rank;
    return undefined;
  }

  #check(began: number): void {
    const failed = Atomics.load(this.#words, FAILED);
    if (failed > 0) throw new OtherRankFailed(`rank ${failed - 1} failed`);
    const { rank, limitSeconds } = this.#place;
    if (performance.now() - began > 1000 * limitSeconds)
      throw new RunError(
        `rank ${rank} waited ${limitSeconds} s for the other threads: one hangs; go on with --resume (or raise --rank-timeout)`,
      );
  }
}

/** Sums rooms into values in the order of ranks. */
const sumInto = (rooms: readonly Float32Array[], values: Float32Array): void => {
  const [first, ...others] = rooms as [Float32Array, ...Float32Array[]];
  values.set(first.subarray(0, values.length));
  for (const room of others) for (let i = 0; i < values.length; i++) values[i] = values[i]! + room[i]!;
};

/** The ROOM-sized pieces of so many values, from and to. */
const piecesOf = (count: number): readonly (readonly [number, number])[] =>
  Array.from({ length: Math.ceil(count / ROOM) }, (_, i) => [i * ROOM, Math.min(count, (i + 1) * ROOM)]);

/** Views that are kept at most. */
const VIEWS = 4096;

const speakWithin = (rooms: Rooms): WithinProgram => {
  const koffi = loadKoffi();
  let failure: Error | undefined;
  const views = new Map<string, Float32Array>();
  /** Values at an address; views are kept, since the engine's memory lies where it lay in the steps before. */
  const at = (address: bigint, from: number, to: number): Float32Array => {
    const key = `${address} ${from} ${to}`;
    const known = views.get(key);
    if (known !== undefined) return known;
    if (views.size >= VIEWS) views.clear();
    const made = new Float32Array(koffi.view(address + BigInt(4 * from), 4 * (to - from)));
    views.set(key, made);
    return made;
  };
  const each = (
    from: bigint,
    count: number,
    take: (rooms: readonly Float32Array[], from: number, to: number) => void,
  ): void => {
    try {
      for (const [start, end] of piecesOf(count))
        rooms.exchange(
          (room) => room.set(at(from, start, end)),
          (all) => take(all, start, end),
        );
    } catch (error) {
      failure = error as Error;
      throw error;
    }
  };
  return {
    get failure() {
      return failure;
    },
    sum: (from, to, count) => each(from, count, (all, start, end) => sumInto(all, at(to, start, end))),
    gather: (from, to, count) =>
      each(from, count, (all, start, end) => {
        for (const [rank, room] of all.entries())
          at(to, rank * count + start, rank * count + end).set(room.subarray(0, end - start));
      }),
  };
};

export interface Threads extends Collective {
  /** Tells the others, who wait, that this rank failed. */
  fail(): void;
}

/** The ranks of a place. */
export const joinThreads = (place: ThreadPlace): Threads => {
  const { rank, size } = place;
  const rooms = new Rooms(place);
  const bytesOf = (room: Float32Array) => new Uint8Array(room.buffer, room.byteOffset, room.byteLength);
  let within: WithinProgram | undefined;
  return {
    ...{ rank, size, localRank: 0, together: true },
    get within() {
      within ??= speakWithin(rooms);
      return within;
    },
    get seconds() {
      return rooms.seconds;
    },
    sum: async (values) => {
      for (const [from, to] of piecesOf(values.length)) {
        const piece = values.subarray(from, to);
        await rooms.exchangeLater(
          (room) => room.set(piece),
          (all) => sumInto(all, piece),
        );
      }
    },
    broadcast: async (bytes, root = 0) => {
      let length = bytes.length;
      await rooms.exchangeLater(
        (room) => new DataView(bytesOf(room).buffer, room.byteOffset).setFloat64(0, length),
        (all) => {
          length = new DataView(all[root]!.buffer, all[root]!.byteOffset).getFloat64(0);
        },
      );
      const all = rank === root ? bytes : new Uint8Array(length);
      for (let from = 0; from < length; from += 4 * ROOM) {
        const piece = all.subarray(from, from + 4 * ROOM);
        await rooms.exchangeLater(
          (room) => rank === root && bytesOf(room).set(piece),
          (given) => rank !== root && piece.set(bytesOf(given[root]!).subarray(0, piece.length)),
        );
      }
      return all;
    },
    fail: () => rooms.fail(),
  };
};

const joined = new AsyncLocalStorage<Collective>();

/** The threads that share the work of the verb that runs; undefined in one that works alone. */
export const threadsHere = (): Collective | undefined => joined.getStore();

/** Does a verb's work as one of these ranks; where it fails, the others hear of it. */
export const asRank = async <T>(threads: Threads, work: () => Promise<T>): Promise<T> => {
  try {
    return await joined.run(threads, work);
  } catch (error) {
    threads.fail();
    throw error;
  }
};
