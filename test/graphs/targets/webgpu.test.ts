/** The exceptions of the WebGPU target equal the portable lowerings; they are standard ONNX, so the CPU can run them. */
import { expect, test } from "@jest/globals";
import { input, inputName } from "../../../graphs/onnx/graph.ts";
import {
  conv,
  convTranspose,
  logSoftmax,
  loop,
  mul,
  reduceLogSumExp,
  sign,
  slice,
  sum,
} from "../../../graphs/ops/index.ts";
import { webgpu } from "../../../graphs/targets/webgpu.ts";
import { evaluate, filledWith, randomNumbers, randomTensor } from "../run.ts";

const x = input("x", { dtype: "float32", shape: [2, 4] });
const images = input("images", { dtype: "float32", shape: [2, 6, 4, 4] });
const filters = input("filters", { dtype: "float32", shape: [4, 6, 3, 3] });
const spread = input("spread", { dtype: "float32", shape: [6, 1, 3, 3] });
const bias = input("bias", { dtype: "float32", shape: [3] });
const random = randomNumbers(2);
const feeds = {
  ...Object.fromEntries([images, filters, spread, bias].map((v) => [inputName(v), randomTensor(random, v.shape)])),
  x: filledWith("float32", [2, 4], [-2, -1e-30, 0, 3, 1, -1, 50, 0.5]),
};
const built = {
  sign: sign(x),
  logSoftmax: logSoftmax(x),
  alongRows: logSoftmax(x, { axis: 0 }),
  logSumExp: reduceLogSumExp(mul(x, 100), {}),
  logSumExpOfColumns: reduceLogSumExp(x, { axes: [0], keepdims: 0 }),
  sum: sum([x, mul(x, 2), mul(x, x)], {}),
  convolution: conv(images, filters, { pads: [1, 1, 1, 1] }),
  transposedConvolution: convTranspose(images, spread, bias, { group: 3, strides: [2, 2] }),
  backwardSlice: slice(x, [
    { axis: 1, start: 2, end: -(2 ** 31 - 1), step: -2 },
    { axis: 0, start: -1, end: 0, step: -1 },
  ]),
  backwardSliceWithEnd: slice(x, [{ axis: 1, start: -2, end: 0, step: -1 }]),
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
