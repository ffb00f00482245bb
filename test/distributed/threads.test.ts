import { describe, expect, test } from "@jest/globals";
import { joinThreads, OtherRankFailed, sharedMemory, type Threads } from "../../src/distributed/threads.ts";

/** Ranks that all live in this thread, where they wait for each other without blocking. */
const ranks = (size: number, limitSeconds = 30): Threads[] => {
  const memory = sharedMemory(size);
  return Array.from({ length: size }, (_, rank) => joinThreads({ rank, size, memory, limitSeconds }));
};

describe("ranks in threads", () => {
  test.each([1, 1000, 300_000])("sum %i values, and every rank gets the same bits", async (count) => {
    const values = ranks(3).map((threads) => ({
      threads,
      own: Float32Array.from({ length: count }, (_, i) => 1 / (1 + i + 7 * threads.rank)),
    }));
    const expected = values[0]!.own.map((v, i) =>
      Math.fround(Math.fround(v + values[1]!.own[i]!) + values[2]!.own[i]!),
    );
    await Promise.all(values.map(({ threads, own }) => threads.sum(own)));
    for (const { own } of values) expect(own.filter((v, i) => v !== expected[i])).toHaveLength(0);
  });

  test.each([0, 5, 3_000_000])("broadcast %i bytes of any rank, message after message", async (count) => {
    const all = ranks(2);
    for (const root of [0, 1]) {
      const told = Uint8Array.from({ length: count }, (_, i) => i * 7 + root);
      const got = await Promise.all(all.map((t) => t.broadcast(t.rank === root ? told : new Uint8Array(3), root)));
      for (const bytes of got) expect(Buffer.compare(bytes, told)).toBe(0);
    }
  });

  test("one that fails is heard by those who wait", async () => {
    const [waiting, failing] = ranks(2) as [Threads, Threads];
    const sum = waiting.sum(new Float32Array(4));
    failing.fail();
    await expect(sum).rejects.toThrow(OtherRankFailed);
    await expect(waiting.sum(new Float32Array(4))).rejects.toThrow("rank 1 failed");
  });

  test("one that says nothing is waited for as long as the limit", async () => {
    const [waiting] = ranks(2, 0.05) as [Threads];
    await expect(waiting.sum(new Float32Array(4))).rejects.toThrow("rank 0 waited 0.05 s for the other threads");
  });
});
