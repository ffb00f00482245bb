/** The puzzles of self-supervised tasks; what a step makes of them is in methods-golden.e2e.test.ts. */
import { describe, expect, test } from "@jest/globals";
import { input } from "../../../graphs/onnx/graph.ts";
import { cropTo, jigsaw, maskings, ninthOrders, quarterOrders, tiles } from "../../../graphs/views/puzzles.ts";
import { evaluate, filledWith } from "../run.ts";

const count = (order: readonly number[]) => new Set(order).size;

describe("orders", () => {
  test("of four quarters are all there are", () => {
    expect(new Set(quarterOrders.map((order) => order.join())).size).toBe(24);
    expect(quarterOrders.every((order) => count(order) === 4)).toBe(true);
  });

  test("of nine tiles agree pairwise in at most one place", () => {
    expect(ninthOrders).toHaveLength(72);
    expect(ninthOrders.every((order) => order.length === 9 && count(order) === 9)).toBe(true);
    const agreements = ninthOrders.flatMap((a, i) =>
      ninthOrders.slice(i + 1).map((b) => a.filter((tile, place) => tile === b[place]).length),
    );
    expect(Math.max(...agreements)).toBe(1);
  });

  test("of Selfie's patches mask each four of sixteen once", () => {
    expect(maskings.every((order) => order.length === 16 && count(order) === 16)).toBe(true);
    expect(new Set(maskings.map((order) => order.slice(0, 4).join())).size).toBe((16 * 15 * 14 * 13) / 24);
  });
});

test("tiles go row by row, and a jigsaw puts them where its order says", async () => {
  const x = input("x", { dtype: "float32", shape: [2, 1, 4, 4] });
  const label = input("label", { dtype: "int64", shape: [2] });
  const pixels = filledWith(
    "float32",
    [2, 1, 4, 4],
    Array.from({ length: 32 }, (_, i) => i),
  );
  const orders = [
    [0, 1, 2, 3],
    [3, 0, 1, 2],
  ];
  const found = await evaluate(
    { tiles: tiles(x, 2), shuffled: jigsaw(x, 2, label, orders) },
    { x: pixels, label: filledWith("int64", [2], [0, 1]) },
  );
  expect(found.tiles.shape).toEqual([8, 1, 2, 2]);
  expect(Array.from(found.tiles.data.slice(0, 8) as Float32Array)).toEqual([0, 1, 4, 5, 2, 3, 6, 7]);
  expect(Array.from(found.shuffled.data.slice(0, 16) as Float32Array)).toEqual(Array.from({ length: 16 }, (_, i) => i));
  expect(Array.from(found.shuffled.data.slice(16) as Float32Array)).toEqual([
    26, 27, 16, 17, 30, 31, 20, 21, 18, 19, 24, 25, 22, 23, 28, 29,
  ]);
});

test("what tiles do not cover is cut off on both sides", () => {
  const x = input("x", { dtype: "float32", shape: [1, 3, 32, 32] });
  expect(cropTo(x, 3).shape).toEqual([1, 3, 30, 30]);
  expect(cropTo(x, 4)).toBe(x);
});
