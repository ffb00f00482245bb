/** Ops of files against the runtime itself: what is read of a file computes what the file does, and its gradient is that. */
import { describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { grad } from "../../../graphs/autodiff/grad.ts";
import { readModel } from "../../../graphs/import/read.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import { parseModel } from "../../../graphs/onnx/parse.ts";
import { float32, type Tensor } from "../../../graphs/onnx/tensor.ts";
import { reduceSum } from "../../../graphs/ops/index.ts";
import { createSession } from "../../../src/engine/session.ts";
import { evaluate, randomNumbers, relativeError } from "../run.ts";

const { onnx } = onnxProto;

type Node = { op: string; in: string[]; out: string[]; attributes?: object[] };
const int = (name: string, i: number) => ({ name, type: 2, i });
const ints = (name: string, values: number[]) => ({ name, type: 7, ints: values });
const float = (name: string, f: number) => ({ name, type: 1, f });
const text = (name: string, s: string) => ({ name, type: 3, s: Buffer.from(s) });
const graph = (name: string, g: object) => ({ name, type: 5, g });

const types = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9 } as const;
const arrays = {
  float32: Float32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};
/** An initializer. */
const held = (name: string, type: keyof typeof types, dims: number[], values: readonly number[]) => {
  const data = type === "int64" ? BigInt64Array.from(values, BigInt) : arrays[type].from(values as never);
  return { name, dims, dataType: types[type], rawData: new Uint8Array(data.buffer as ArrayBuffer) };
};
const nodesOf = (nodes: readonly Node[]) =>
  nodes.map(({ op, in: inputs, out, attributes = [] }) => ({
    opType: op,
    name: out[0],
    input: inputs,
    output: out,
    attribute: attributes,
  }));

const shape = [2, 3, 5, 6];
/** A model of the input x float32[2,3,5,6] and the output y. */
const fileOf = (nodes: readonly Node[], initializer: object[], opset: number): Uint8Array => {
  const dim = shape.map((dimValue) => ({ dimValue }));
  return onnx.ModelProto.encode({
    irVersion: 9,
    opsetImport: [{ domain: "", version: opset }],
    graph: {
      name: "g",
      node: nodesOf(nodes),
      initializer,
      input: [{ name: "x", type: { tensorType: { elemType: 1, shape: { dim } } } }],
      output: [{ name: "y", type: { tensorType: { elemType: 1 } } }],
    },
  } as never).finish();
};

const random = randomNumbers(8);
const numbers = (count: number, low: number, high: number): number[] =>
  Array.from({ length: count }, () => low + (high - low) * random());
const whole = (count: number, low: number, high: number) => numbers(count, low, high).map(Math.round);
const x = float32(shape, Float32Array.from(numbers(180, -1, 1)));

const resize = (attributes: object[], sizes: number[], names = ["", "", "sizes"]): [Node[], object[], number] => [
  [{ op: "Resize", in: ["x", ...names], out: ["y"], attributes }],
  [
    names.includes("sizes")
      ? held("sizes", "int64", [sizes.length], sizes)
      : held("scales", "float32", [sizes.length], sizes),
  ],
  18,
];
const quantize = (axis?: number): Node[] => [
  { op: "QuantizeLinear", in: ["x", "s", "z"], out: ["q"], attributes: axis === undefined ? [] : [int("axis", axis)] },
  {
    op: "DequantizeLinear",
    in: ["q", "s", "z"],
    out: ["y"],
    attributes: axis === undefined ? [] : [int("axis", axis)],
  },
];

const cases: readonly (readonly [string, readonly [Node[], object[], number]])[] = [
  ["cubic, larger", resize([text("mode", "cubic")], [2, 3, 9, 11])],
  ["cubic, smaller", resize([text("mode", "cubic"), float("cubic_coeff_a", -0.5)], [2, 3, 3, 4])],
  ["cubic, the border left out", resize([text("mode", "cubic"), int("exclude_outside", 1)], [2, 3, 9, 4])],
  [
    "cubic by align_corners",
    resize([text("mode", "cubic"), text("coordinate_transformation_mode", "align_corners")], [2, 3, 7, 9]),
  ],
  ["linear, smaller by antialias", resize([text("mode", "linear"), int("antialias", 1)], [2, 3, 2, 3])],
  [
    "linear by half_pixel_symmetric",
    resize(
      [text("mode", "linear"), text("coordinate_transformation_mode", "half_pixel_symmetric")],
      [1, 1, 1.3, 0.7],
      ["", "scales"],
    ),
  ],
  ["sizes of some axes", resize([text("mode", "linear"), ints("axes", [3, 2])], [9, 7])],
  [
    "GatherND by rows",
    [
      [{ op: "GatherND", in: ["x", "at"], out: ["y"], attributes: [int("batch_dims", 1)] }],
      [held("at", "int64", [2, 4, 2], [0, 0, 2, 4, 1, 1, 2, 0, 1, 3, 0, 4, 2, 2, -1, -1])],
      13,
    ],
  ],
  [
    "GatherND by rows of rows",
    [
      [{ op: "GatherND", in: ["x", "at"], out: ["y"], attributes: [int("batch_dims", 2)] }],
      [held("at", "int64", [2, 3, 1], [0, 4, 2, 1, -1, 3])],
      13,
    ],
  ],
  ["bytes and back", [quantize(), [held("s", "float32", [], [0.01]), held("z", "uint8", [], [100])], 13]],
  [
    "bytes and back, by channel",
    [quantize(1), [held("s", "float32", [3], [0.01, 0.002, 0.03]), held("z", "int8", [3], [-3, 5, 0])], 13],
  ],
  [
    "a product in integers with a range of its own each run",
    [
      [
        { op: "Reshape", in: ["x", "rows"], out: ["flat"] },
        { op: "DynamicQuantizeLinear", in: ["flat"], out: ["q", "s", "z"] },
        { op: "MatMulInteger", in: ["q", "w", "z", "wz"], out: ["p"] },
        { op: "Cast", in: ["p"], out: ["f"], attributes: [int("to", 1)] },
        { op: "Mul", in: ["f", "s"], out: ["y"] },
      ],
      [
        held("rows", "int64", [2], [2, 90]),
        held("w", "int8", [90, 4], whole(360, -127, 127)),
        held("wz", "int8", [], [3]),
      ],
      13,
    ],
  ],
  [
    "a convolution in integers",
    [
      [
        { op: "DynamicQuantizeLinear", in: ["x"], out: ["q", "s", "z"] },
        { op: "ConvInteger", in: ["q", "w", "z"], out: ["p"], attributes: [ints("pads", [1, 1, 1, 1])] },
        { op: "Cast", in: ["p"], out: ["f"], attributes: [int("to", 1)] },
        { op: "Mul", in: ["f", "s"], out: ["y"] },
      ],
      [held("w", "uint8", [4, 3, 3, 3], whole(108, 0, 255))],
      13,
    ],
  ],
  [
    "a convolution from integers to integers",
    [
      [
        { op: "QuantizeLinear", in: ["x", "s", "z"], out: ["q"] },
        {
          op: "QLinearConv",
          in: ["q", "s", "z", "w", "ws", "wz", "ys", "yz", "b"],
          out: ["p"],
          attributes: [ints("strides", [2, 2])],
        },
        { op: "DequantizeLinear", in: ["p", "ys", "yz"], out: ["y"] },
      ],
      [
        held("s", "float32", [], [0.008]),
        held("z", "uint8", [], [128]),
        held("w", "int8", [4, 3, 3, 3], whole(108, -127, 127)),
        held("ws", "float32", [4], [0.01, 0.02, 0.005, 0.01]),
        held("wz", "int8", [4], [0, 0, 0, 0]),
        held("ys", "float32", [], [0.1]),
        held("yz", "uint8", [], [120]),
        held("b", "int32", [4], [100, -300, 0, 50]),
      ],
      13,
    ],
  ],
  [
    "an If whose condition the shapes tell",
    [
      [
        { op: "Shape", in: ["x"], out: ["dims"] },
        { op: "Gather", in: ["dims", "first"], out: ["size"] },
        { op: "Equal", in: ["size", "three"], out: ["is"] },
        {
          op: "If",
          in: ["is"],
          out: ["y"],
          attributes: [
            graph("then_branch", {
              name: "then",
              node: nodesOf([{ op: "Mul", in: ["x", "two"], out: ["t"] }]),
              output: [{ name: "t", type: { tensorType: { elemType: 1 } } }],
            }),
            graph("else_branch", {
              name: "else",
              node: nodesOf([{ op: "Neg", in: ["x"], out: ["e"] }]),
              output: [{ name: "e", type: { tensorType: { elemType: 1 } } }],
            }),
          ],
        },
      ],
      [held("first", "int64", [], [1]), held("three", "int64", [], [3]), held("two", "float32", [], [2])],
      17,
    ],
  ],
];

const asItIs = async (bytes: Uint8Array, at: Tensor): Promise<Tensor<"float32">> => {
  const session = await createSession(bytes, { threads: 1 });
  try {
    return (await session.run({ x: at })).y as Tensor<"float32">;
  } finally {
    await session.release();
  }
};

describe("what is read of a file computes what the runtime does", () => {
  test.each(cases)("%s", async (_, [nodes, initializers, opset]) => {
    const bytes = fileOf(nodes, initializers, opset);
    const expected = await asItIs(bytes, x);
    const { y } = await evaluate({ y: readModel(bytes).outputs.y as Value }, { x });
    expect(y.shape).toEqual(expected.shape);
    expect(relativeError(y.data as Float32Array, expected.data)).toBeLessThan(2e-6);
  });

  const linear = cases.filter(([name]) => /^(cubic|linear|sizes|GatherND|an If)/.test(name));
  test.each(linear)(
    "%s: the gradient, by differences of the runtime's own values",
    async (_, [nodes, initializers, opset]) => {
      const bytes = fileOf(nodes, initializers, opset);
      const at = input("x", { dtype: "float32", shape });
      const y = readModel(bytes, { bind: { x: at } }).outputs.y as Value;
      const [gradient] = grad(reduceSum(y, { keepdims: 0 }), [at]) as [Value];
      const { g } = await evaluate({ g: gradient }, { x });
      const direction = numbers(180, -1, 1);
      const moved = async (step: number) => {
        const { data } = await asItIs(
          bytes,
          float32(
            shape,
            x.data.map((v, i) => v + step * direction[i]!),
          ),
        );
        return data.reduce((a, b) => a + b, 0);
      };
      const expected = ((await moved(1)) - (await moved(-1))) / 2;
      const found = (g.data as Float32Array).reduce((sum, v, i) => sum + v * direction[i]!, 0);
      expect(Math.abs(found - expected)).toBeLessThan(1e-4 * Math.max(1, Math.abs(expected)));
    },
  );

  test("integers: the gradient is that of no rounding within the range, and none beyond it", async () => {
    const bytes = fileOf(quantize(), [held("s", "float32", [], [0.004]), held("z", "uint8", [], [128])], 13);
    const at = input("x", { dtype: "float32", shape });
    const [gradient] = grad(reduceSum(readModel(bytes, { bind: { x: at } }).outputs.y as Value, { keepdims: 0 }), [
      at,
    ]) as [Value];
    const { g } = await evaluate({ g: gradient }, { x });
    const found = g.data as Float32Array;
    const within = Array.from(x.data, Math.abs);
    expect(Math.max(...within.map((v, i) => (v < 0.505 ? Math.abs(found[i]! - 1) : 0)))).toBeLessThan(1e-6);
    expect(within.filter((v, i) => v > 0.52 && found[i] !== 0)).toEqual([]);
    expect(within.filter((v) => v > 0.52).length).toBeGreaterThan(20);
  });
});

describe("what is refused", () => {
  const [nodes, initializers] = cases.find(([name]) => name.startsWith("an If"))![1];

  test("an If whose condition the images tell", () => {
    const depends: Node[] = [
      { op: "ReduceMax", in: ["x"], out: ["most"], attributes: [int("keepdims", 0)] },
      { op: "Greater", in: ["most", "two"], out: ["is"] },
      ...nodes.filter(({ op }) => op === "If"),
    ];
    expect(() => readModel(fileOf(depends, initializers, 17))).toThrow(
      /^If at y: its condition depends on the images; export the model traced, not scripted/,
    );
  });

  test("an operator of integers that only one runtime has: the form that is read is named", () => {
    const bytes = fileOf([{ op: "QGemm", in: ["x"], out: ["y"] }], [], 17);
    const model = onnx.ModelProto.decode(bytes);
    Object.assign(model.graph?.node?.[0] ?? {}, { domain: "com.microsoft" });
    expect(() => readModel(onnx.ModelProto.encode(model).finish())).toThrow(
      /^QGemm at y: the domain com\.microsoft is not supported; quantise in QDQ form \(QuantFormat\.QDQ\)/,
    );
  });

  test("scales by blocks, and types of four bits", () => {
    const scales = [
      held("s", "float32", [2, 3], numbers(6, 0.01, 0.02)),
      held("z", "int8", [2, 3], [0, 0, 0, 0, 0, 0]),
    ];
    expect(() => readModel(fileOf(quantize(1), scales, 21))).toThrow(/scales by blocks are not supported/);
    const single = [held("s", "float32", [], [0.1]), held("z", "int32", [], [0])];
    expect(() => readModel(fileOf(quantize(), single, 21))).toThrow(/quantising to int32 is not supported/);
  });

  test("a body is read for what it captures, so that nodes keep an order that it can follow", () => {
    const turned = fileOf([...nodes].reverse(), initializers, 17);
    expect(parseModel(turned).nodes.map(({ op }) => op)).toEqual(["Shape", "Gather", "Equal", "If"]);
    const file = parseModel(turned).nodes.find(({ op }) => op === "If");
    expect([...(file?.captures ?? [])].sort()).toEqual(["two", "x"]);
  });
});
