/** The lowerings that GPUs share equal the portable ones; they are standard ONNX, so the CPU can run them. */
import { expect, test } from "@jest/globals";
import { input, type Type, type Value } from "../../../graphs/onnx/graph.ts";
import {
  batchNormTraining,
  batchNormTrainingGrad,
  reduceMean,
  reduceSum,
  relu,
  reluGrad,
} from "../../../graphs/ops/index.ts";
import { cudaTarget } from "../../../graphs/targets/cuda/index.ts";
import { lower } from "../../../graphs/targets/lower.ts";
import { webgpu } from "../../../graphs/targets/webgpu.ts";
import { evaluate, loweredForCuda, randomNumbers, randomTensor, relativeError } from "../run.ts";

const given: Record<string, Value> = {};
const images = (name: string, shape: number[]): Value => {
  const type: Type = { dtype: "float32", shape };
  const known = given[name] ?? input(name, type);
  given[name] = known;
  return known;
};

const norms = (
  [
    ["Image", [6, 4, 3, 5], 2],
    ["Row", [15, 4], 3],
  ] as const
).flatMap(([name, shape, branches]) => {
  const [x, dy] = [images(`x${name}`, [...shape]), images(`dy${name}`, [...shape])];
  const [scale, bias] = [images(`scale${name}`, [branches, 4]), images(`bias${name}`, [branches, 4])];
  const attributes = { branches, epsilon: 1e-5 };
  const [y, mean, variance] = batchNormTraining.outputs(x, scale, bias, attributes) as [Value, Value, Value];
  const [dx, dScale, dBias] = batchNormTrainingGrad.outputs(x, dy, scale, mean, variance, attributes);
  return Object.entries({ y, mean, variance, dx, dScale, dBias }).map(
    ([part, value]) => [`${part} of batch norm, ${name}`, value as Value] as const,
  );
});
const x = images("xImage", [6, 4, 3, 5]);

test.each<readonly [string, Value]>([
  ...norms,
  ["mean over batch and pixels", reduceMean(x, { axes: [0, 2, 3], keepdims: 1 })],
  ["sum over batch and columns", reduceSum(x, { axes: [-1, 0], keepdims: 0 })],
  ["sum over all", reduceSum(x, {})],
  ["mean over channels", reduceMean(x, { axes: [1] })],
  ["reluGrad", reluGrad(relu(x), images("dyImage", [6, 4, 3, 5]))],
])("%s", async (_, y) => {
  const random = randomNumbers(3);
  const feeds = Object.fromEntries(
    Object.entries(given).map(([name, { shape }]) => [
      name,
      randomTensor(random, shape, name.startsWith("x") ? 1 : -1, 2),
    ]),
  );
  const expected = await evaluate({ y }, feeds);
  const graphs = [
    ...(["fused", "dots", "composed"] as const).map((norm) => loweredForCuda({ y }, cudaTarget({ norm }))),
    lower({ y }, webgpu),
  ];
  for (const graph of graphs) {
    const actual = await evaluate(graph, feeds);
    expect(actual.y.shape).toEqual(expected.y.shape);
    expect(relativeError(actual.y.data as Float32Array, expected.y.data as Float32Array)).toBeLessThan(3e-6);
  }
});
