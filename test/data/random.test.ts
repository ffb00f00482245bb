import { describe, expect, test } from "@jest/globals";
import { epochOrder, philox, random, xoshiro } from "../../src/data/random.ts";

const hex = (words: readonly number[]): string => words.map((w) => w.toString(16).padStart(8, "0")).join(" ");

describe("known answers", () => {
  test("Philox4x32-10, from Random123's kat_vectors", () => {
    const ones = 0xffffffff;
    expect(hex(philox([0, 0, 0, 0], [0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
    expect(hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]))).toBe(
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    );
  });

  test("xoshiro128** from the state 1, 2, 3, 4, as computed from the published code in Python", () => {
    const r = xoshiro([1, 2, 3, 4]);
    const words = Array.from({ length: 10 }, () => r.uniform() * 2 ** 32);
    expect(words).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
  });
});

describe("random", () => {
  test("the same key gives the same numbers, whatever was drawn elsewhere", () => {
    const alone = random(7, 3, 11, "view1");
    const first = [alone.uniform(), alone.normal(), alone.int(10)];
    random(7, 3, 12, "view1").permutation(100);
    const again = random(7, 3, 11, "view1");
    expect([again.uniform(), again.normal(), again.int(10)]).toEqual(first);
  });

  test("every part of the key counts, seeds above 32 bits included", () => {
    const keys = [
      random(0, 0, 0, "a"),
      random(1, 0, 0, "a"),
      random(2 ** 32, 0, 0, "a"),
      random(0, 1, 0, "a"),
      random(0, 0, 1, "a"),
      random(0, 0, 0, "b"),
    ];
    expect(new Set(keys.map((r) => r.uniform())).size).toBe(keys.length);
  });

  test("numbers drawn in bulk are those drawn one by one", () => {
    const [bulk, single] = [random(1, 2, 3, "bulk"), random(1, 2, 3, "bulk")];
    const out = new Float32Array(50);
    bulk.fillUniform(out, 0, 1);
    expect(out).toEqual(Float32Array.from(out, () => single.uniform()));
    expect(bulk.uniform()).toBe(single.uniform());
  });

  test("moments of uniform and normal numbers", () => {
    const n = 50_000;
    const r = random(1, 0, 0, "moments");
    const u = new Float32Array(n);
    r.fillUniform(u, -2, 4);
    const mean = u.reduce((a, b) => a + b, 0) / n;
    expect(mean).toBeCloseTo(1, 1);
    expect(Math.min(...u.subarray(0, 5000))).toBeGreaterThanOrEqual(-2);
    expect(u.reduce((a, b) => a + (b - 1) ** 2, 0) / n).toBeCloseTo(3, 1);
    const g = new Float32Array(n);
    r.fillNormal(g, 2);
    expect(g.reduce((a, b) => a + b, 0) / n).toBeCloseTo(0, 1);
    expect(g.reduce((a, b) => a + b * b, 0) / n / 4).toBeCloseTo(1, 1);
  });

  test("integers cover their range evenly", () => {
    const r = random(5, 0, 0, "int");
    const counts = new Int32Array(6);
    for (let i = 0; i < 6000; i++) counts[r.int(6)]!++;
    expect(Math.min(...counts)).toBeGreaterThan(850);
    expect(Math.max(...counts)).toBeLessThan(1150);
    expect(() => r.int(0)).toThrow(RangeError);
  });

  test("an epoch's order is a permutation of its own", () => {
    const order = epochOrder(3, 1, 1000);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(epochOrder(3, 1, 1000)).toEqual(order);
    expect(epochOrder(3, 2, 1000)).not.toEqual(order);
    expect(epochOrder(4, 1, 1000)).not.toEqual(order);
  });

  test("a key that is no whole number in range is refused", () => {
    expect(() => random(-1, 0, 0, "a")).toThrow("seed");
    expect(() => random(0, 0.5, 0, "a")).toThrow("epoch");
    expect(() => random(0, 0, 2 ** 32, "a")).toThrow("index");
  });
});
