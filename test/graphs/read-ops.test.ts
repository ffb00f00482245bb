/** Ops that exporters write and that are read as others: the same values as the runtime gives, and their gradients. */
import { expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { grad } from "../../graphs/autodiff/grad.ts";
import { readModel } from "../../graphs/import/read.ts";
import { constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { mul, reduceSum } from "../../graphs/ops/index.ts";
import { createSession } from "../../src/engine/session.ts";
import { evaluate, randomNumbers, randomTensor, relativeError } from "./run.ts";

const { onnx } = onnxProto;
type Attribute = Record<string, unknown>;
const int = (name: string, i: number): Attribute => ({ name, type: 2, i });
const ints = (name: string, values: readonly number[]): Attribute => ({ name, type: 7, ints: values });
const text = (name: string, s: string): Attribute => ({ name, type: 3, s: new TextEncoder().encode(s) });

/** Values by name: whole numbers int64, others float32. */
type Held = Readonly<Record<string, readonly [shape: readonly number[], values: readonly number[], floats?: boolean]>>;

const shape = [2, 3, 7, 7];
const fileOf = (opType: string, names: readonly string[], held: Held, attribute: readonly Attribute[], opset = 18) =>
  onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: "", version: opset }],
    graph: {
      name: "g",
      node: [{ opType, name: "op", input: ["x", ...names], output: ["y"], attribute }],
      initializer: Object.entries(held).map(([name, [dims, values, floats]]) =>
        floats ? { name, dims, dataType: 1, floatData: values } : { name, dims, dataType: 7, int64Data: values },
      ),
      input: [
        { name: "x", type: { tensorType: { elemType: 1, shape: { dim: shape.map((dimValue) => ({ dimValue })) } } } },
      ],
      output: [{ name: "y" }],
    },
  } as never).finish();

const pool = (more: readonly Attribute[], kernel = [3, 3], strides = [2, 2]) => [
  ints("kernel_shape", kernel),
  ints("strides", strides),
  int("ceil_mode", 1),
  ...more,
];
const resized = (mode: string, height: number, width: number, outside = 0) =>
  [
    "Resize",
    ["", "", "sizes"],
    { sizes: [[4], [2, 3, height, width]] } as Held,
    [text("mode", mode), int("antialias", 1), int("exclude_outside", outside)],
  ] as const;
const places: Held = {
  at: [
    [2, 2],
    [0, -1, 1, 2],
  ],
};
const changes: Held = { ...places, new: [[2, 7, 7], Array.from({ length: 98 }, (_, i) => i / 7), true] };

test.each<readonly [string, string, readonly string[], Held, readonly Attribute[]]>([
  ["MaxPool, sizes rounded up", "MaxPool", [], {}, pool([], [2, 2])],
  ["MaxPool, padded too", "MaxPool", [], {}, pool([ints("pads", [1, 1, 1, 1])], [3, 3], [3, 3])],
  ["AveragePool, sizes rounded up", "AveragePool", [], {}, pool([], [2, 2])],
  ["AveragePool, padded", "AveragePool", [], {}, pool([ints("pads", [1, 0, 1, 0])], [2, 3])],
  ["antialiased Resize, smaller", ...resized("linear", 4, 3)],
  ["antialiased Resize, smaller, border left out", ...resized("linear", 4, 3, 1)],
  ["antialiased Resize, larger", ...resized("linear", 9, 14)],
  ["GatherND", "GatherND", ["at"], places, []],
  ["ScatterND", "ScatterND", ["at", "new"], changes, []],
])("%s", async (_, op, names, held, attributes) => {
  const bytes = fileOf(op, names, held, attributes);
  const random = randomNumbers(7);
  const x = randomTensor(random, shape, -1, 1);
  const session = await createSession(bytes, { threads: 1 });
  const expected = (await session.run({ x })).y as Tensor<"float32">;
  await session.release();
  const bound = input("x", { dtype: "float32", shape });
  const y = readModel(bytes, { bind: { x: bound } }).outputs.y as Value;
  expect(y.shape).toEqual(expected.shape);
  const weights = randomTensor(random, y.shape, -1, 1);
  const loss = reduceSum(mul(y, constant(weights)), { keepdims: 0 });
  const found = await evaluate({ y, loss, gradient: grad(loss, [bound])[0] as Value }, { x });
  expect(relativeError((found.y as Tensor<"float32">).data, expected.data)).toBeLessThan(1e-6);
  const direction = randomTensor(random, shape, -1, 1);
  const along = (found.gradient as Tensor<"float32">).data.reduce(
    (sum, g, i) => sum + g * Number(direction.data[i]),
    0,
  );
  const step = 1e-3;
  const at = async (sign: number): Promise<number> => {
    const moved = float32(
      shape,
      (x as Tensor<"float32">).data.map((v, i) => v + sign * step * Number(direction.data[i])),
    );
    return Number((await evaluate({ loss }, { x: moved })).loss.data[0]);
  };
  expect(((await at(1)) - (await at(-1))) / (2 * step)).toBeCloseTo(along, 1);
  expect(Math.abs(along)).toBeGreaterThan(0.1);
});

test("AveragePool that counts its padding does not count what rounding up adds, as PyTorch has it", async () => {
  const attributes = pool([ints("pads", [1, 1, 1, 1]), int("count_include_pad", 1)], [4, 4], [3, 3]);
  const y = readModel(fileOf("AveragePool", [], {}, attributes), {
    bind: { x: constant(float32(shape, new Float32Array(2 * 3 * 49).fill(1))) },
  }).outputs.y as Value;
  expect(y.shape).toEqual([2, 3, 3, 3]);
  const { data } = (await evaluate({ y }, {})).y as Tensor<"float32">;
  // What torch.nn.AvgPool2d(4, 3, padding=1, ceil_mode=True) gives for ones.
  const map = [0.5625, 0.75, 0.5, 0.75, 1, 2 / 3, 0.5, 2 / 3, 4 / 9];
  expect(relativeError(data.subarray(0, 9), map)).toBeLessThan(1e-6);
});

test("OneHot of classes is 1 at each class, and has no gradient", async () => {
  const bytes = onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: "", version: 17 }],
    graph: {
      name: "g",
      node: [{ opType: "OneHot", input: ["k", "depth", "values"], output: ["y"] }],
      initializer: [
        { name: "k", dims: [3], dataType: 7, int64Data: [2, 0, -1] },
        { name: "depth", dims: [1], dataType: 7, int64Data: [4] },
        { name: "values", dims: [2], dataType: 1, floatData: [-1, 5] },
      ],
      input: [],
      output: [{ name: "y" }],
    },
  } as never).finish();
  const y = readModel(bytes).outputs.y as Value;
  const { data } = (await evaluate({ y }, {})).y as Tensor<"float32">;
  expect([...data]).toEqual([-1, -1, 5, -1, 5, -1, -1, -1, -1, -1, -1, 5]);
});

test("a weight is standardised by itself; features in training mode are refused", () => {
  const norm = (dims: readonly number[]) => {
    const info = (name: string) => ({
      name,
      type: { tensorType: { elemType: 1, shape: { dim: dims.map((dimValue) => ({ dimValue })) } } },
    });
    const four = (name: string, value: number) => ({
      name,
      dims: [4],
      dataType: 1,
      floatData: new Array(4).fill(value),
    });
    return onnx.ModelProto.encode({
      irVersion: 8,
      opsetImport: [{ domain: "", version: 17 }],
      graph: {
        name: "g",
        node: [
          {
            opType: "BatchNormalization",
            name: "bn",
            input: ["x", "s", "b", "m", "v"],
            output: ["y", "moved_mean", "moved_variance"],
            attribute: [int("training_mode", 1)],
          },
        ],
        initializer: [four("s", 2), four("b", 1), four("m", 0), four("v", 1)],
        input: [info("x")],
        output: [{ name: "y" }],
      },
    } as never).finish();
  };
  expect(readModel(norm([1, 4, 6])).outputs.y?.shape).toEqual([1, 4, 6]);
  expect(() => readModel(norm([7, 4, 6]))).toThrow(/BatchNormalization at bn: .*call model\.eval\(\)/);
});

test("standardising gives each filter the mean of its bias and the deviation of its scale", async () => {
  const x = randomTensor(randomNumbers(2), [1, 2, 50], -3, 5);
  const bytes = onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: "", version: 17 }],
    graph: {
      name: "g",
      node: [
        {
          opType: "BatchNormalization",
          input: ["x", "s", "b", "m", "v"],
          output: ["y", "mean", "variance"],
          attribute: [int("training_mode", 1)],
        },
      ],
      initializer: ["s", "b", "m", "v"].map((name, k) => ({
        name,
        dims: [2],
        dataType: 1,
        floatData: [k + 1, k + 2],
      })),
      input: [
        {
          name: "x",
          type: { tensorType: { elemType: 1, shape: { dim: [1, 2, 50].map((dimValue) => ({ dimValue })) } } },
        },
      ],
      output: ["y", "mean", "variance"].map((name) => ({ name })),
    },
  } as never).finish();
  const session = await createSession(bytes, { threads: 1 });
  const expected = (await session.run({ x })) as Record<string, Tensor<"float32">>;
  await session.release();
  const found = await evaluate(readModel(bytes).outputs as Record<string, Value>, { x });
  for (const name of ["y", "mean", "variance"])
    expect(
      relativeError(found[name]?.data as Float32Array, (expected[name] ?? zeros("float32", [1])).data as Float32Array),
    ).toBeLessThan(1e-4);
});
