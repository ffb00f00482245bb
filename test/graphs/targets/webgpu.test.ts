/** The exceptions of the WebGPU target equal the portable lowerings; they are standard ONNX, so the CPU can run them. */
import { expect, test } from "@jest/globals";
import { input } from "../../../graphs/onnx/graph.ts";
import { logSoftmax, loop, mul, reduceLogSumExp, sign, sum } from "../../../graphs/ops/index.ts";
import { webgpu } from "../../../graphs/targets/webgpu.ts";
import { evaluate, filledWith } from "../run.ts";

const x = input("x", { dtype: "float32", shape: [2, 4] });
const feeds = { x: filledWith("float32", [2, 4], [-2, -1e-30, 0, 3, 1, -1, 50, 0.5]) };
const built = {
  sign: sign(x),
  logSoftmax: logSoftmax(x),
  alongRows: logSoftmax(x, { axis: 0 }),
  logSumExp: reduceLogSumExp(mul(x, 100), {}),
  logSumExpOfColumns: reduceLogSumExp(x, { axes: [0], keepdims: 0 }),
  sum: sum([x, mul(x, 2), mul(x, x)], {}),
  looped: loop(3, [x], (_, [v]) => [mul(v as typeof x, 2)])[0] as typeof x,
};

test.each(Object.entries(built))("%s", async (_, y) => {
  const expected = await evaluate({ y }, feeds);
  const actual = await evaluate({ y }, feeds, webgpu);
  const [ours, truth] = [actual.y.data as Float32Array, expected.y.data as Float32Array];
  for (const [i, v] of truth.entries()) expect(ours[i]).toBeCloseTo(v, 5);
});

test("a loop is written out", async () => {
  const { y } = await evaluate({ y: built.looped }, feeds, webgpu);
  expect(Array.from(y.data as Float32Array).at(-1)).toBe(4);
});
