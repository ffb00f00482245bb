/** Reading ONNX files: models exported by PyTorch, older spellings, and files that are no models. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { grad } from "../../../graphs/autodiff/grad.ts";
import { readEachOutput, readModel } from "../../../graphs/import/read.ts";
import { GraphError } from "../../../graphs/onnx/error.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import { type FileModel, type FileNode, parseModel } from "../../../graphs/onnx/parse.ts";
import { float32, type Tensor, typeName } from "../../../graphs/onnx/tensor.ts";
import { buildModel } from "../../../graphs/onnx/write.ts";
import { reduceSum } from "../../../graphs/ops/index.ts";
import { lower } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { foreignErrors } from "../../../scripts/parity/foreign-gradients.ts";
import { decodeSafetensors } from "../../../src/files/safetensors.ts";
import { lookAtOutputs } from "../../../src/models/output.ts";
import { evaluate, randomNumbers } from "../run.ts";

const { onnx } = onnxProto;
const folder = new URL("../fixtures/foreign/", import.meta.url);
const nodeOf = (op: string, inputs: string[], outputs: string[]): FileNode => ({
  ...{ name: op, op, domain: "", inputs, outputs, attributes: new Map(), captures: [] },
});
const bytesOf = (name: string): Uint8Array => readFileSync(new URL(name, folder));

describe("models that PyTorch exported", () => {
  test.each([
    ["convnet.legacy17", 11],
    ["tiny_vit.dynamo20", 20],
  ])("%s: logits, gradient of the input and of each weight", async (file, weights) => {
    const read = (name: string) => decodeSafetensors(bytesOf(`${name}.safetensors`), name).tensors;
    const errors = await foreignErrors(bytesOf(`${file}.onnx`), read(file.split(".")[0]!), read(file));
    expect(errors.logits).toBeLessThan(1e-6);
    expect(errors.input).toBeLessThan(5e-6);
    expect(errors.unknown).toEqual([]);
    expect(errors.weights.size).toBe(weights);
    for (const error of errors.weights.values()) expect(error).toBeLessThan(5e-6);
  });

  test("initializers become inputs where asked for, and inputs may be bound", () => {
    const x = input("picture", { dtype: "float32", shape: [3, 3, 16, 16] });
    const model = readModel(bytesOf("convnet.legacy17.onnx"), {
      bind: { input: x },
      parameter: (name) => (name.startsWith("head") ? `param.${name}` : undefined),
    });
    expect(model.outputs.logits?.shape).toEqual([3, 10]);
    const built = buildModel(lower({ y: model.outputs.logits as Value }, portable));
    expect(Object.keys(built.inputs).sort()).toEqual(["param.head.bias", "param.head.weight", "picture"]);
    expect(model.weights["head.weight"]?.shape).toEqual([10, 16]);
  });
});

type NodeProto = { opType: string; input: string[]; output: string[]; [key: string]: unknown };
/** A model of some nodes with the input x float32[1,2,4,4] and the output y. */
const fileOf = (node: readonly NodeProto[], opset = 17, initializer: object[] = []): Uint8Array => {
  const dim = [1, 2, 4, 4].map((dimValue) => ({ dimValue }));
  const info = (name: string) => ({ name, type: { tensorType: { elemType: 1, shape: { dim } } } });
  return onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: "", version: opset }],
    graph: {
      name: "g",
      node: node as never,
      initializer: initializer as never,
      input: [info("x")],
      output: [info("y")],
    },
  } as never).finish();
};
const int = (name: string, i: number) => ({ name, type: 2, i });
const ints = (name: string, values: number[]) => ({ name, type: 7, ints: values });
const float = (name: string, f: number) => ({ name, type: 1, f });
const x = float32(
  [1, 2, 4, 4],
  Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)),
);
const run = async (bytes: Uint8Array) =>
  (await evaluate({ y: readModel(bytes).outputs.y as Value }, { x })).y as Tensor;

describe("older opsets", () => {
  test("Clip with bounds as attributes", async () => {
    const y = await run(
      fileOf([{ opType: "Clip", input: ["x"], output: ["y"], attribute: [float("min", 0), float("max", 0.5)] }], 9),
    );
    expect(Array.from(y.data as Float32Array)).toEqual(
      Array.from(x.data, (v) => Math.fround(Math.min(Math.max(v, 0), 0.5))),
    );
  });
  test("Slice, Squeeze, Unsqueeze, Pad, Split and ReduceSum with attributes", async () => {
    const bytes = fileOf(
      [
        {
          opType: "Slice",
          input: ["x"],
          output: ["a"],
          attribute: [ints("starts", [1]), ints("ends", [3]), ints("axes", [2])],
        },
        { opType: "Unsqueeze", input: ["a"], output: ["b"], attribute: [ints("axes", [0])] },
        { opType: "Squeeze", input: ["b"], output: ["c"], attribute: [ints("axes", [0])] },
        { opType: "Pad", input: ["c"], output: ["d"], attribute: [ints("pads", [0, 0, 1, 0, 0, 0, 1, 0])] },
        { opType: "Split", input: ["d"], output: ["e", "f"], attribute: [int("axis", 1)] },
        { opType: "ReduceSum", input: ["f"], output: ["y"], attribute: [ints("axes", [2]), int("keepdims", 0)] },
      ],
      9,
    );
    const y = await run(bytes);
    expect(y.shape).toEqual([1, 1, 4]);
    const at = (h: number, w: number) => x.data[16 + h * 4 + w]!;
    for (let w = 0; w < 4; w++) expect(y.data[w]).toBeCloseTo(at(1, w) + at(2, w), 5);
  });
  test("Softmax of opset 11 is over all axes from the first", async () => {
    const y = await run(fileOf([{ opType: "Softmax", input: ["x"], output: ["y"] }], 11));
    expect(Array.from(y.data as Float32Array).reduce((a, b) => a + b)).toBeCloseTo(1, 5);
  });
});

const refusal = (bytes: Uint8Array): string => {
  try {
    readModel(bytes, { batch: 2 });
  } catch (error) {
    expect(error).toBeInstanceOf(GraphError);
    return (error as Error).message;
  }
  return "";
};

describe("what the outputs do not need", () => {
  const dead = { opType: "Einsum", name: "aside", input: ["x"], output: ["z"] };
  const kept = { opType: "Relu", input: ["x"], output: ["y"] };
  test("is passed over, and refused once an output needs it", () => {
    expect(readModel(fileOf([dead, kept])).outputs.y?.shape).toEqual([1, 2, 4, 4]);
    expect(refusal(fileOf([dead, { ...kept, input: ["z"] }]))).toBe("Einsum at aside: the operator is not supported");
  });
  test("logits are a row of numbers an image; the other outputs may be anything", () => {
    const flat = { opType: "Flatten", input: ["y"], output: ["logits"] };
    const file = { ...parseModel(fileOf([kept, flat, dead])), outputs: ["y", "logits", "z"] };
    const looked = lookAtOutputs(file, { batch: 1 });
    expect(looked.rows).toEqual([{ name: "logits", value: "logits", width: 32 }]);
    expect(looked.others).toEqual(["y float32[1,2,4,4]"]);
    expect(lookAtOutputs({ ...file, outputs: ["y"] }, { batch: 1 }).rows).toEqual([]);
    expect(lookAtOutputs({ ...file, outputs: ["z", "logits"] }, { batch: 1 }).rows).toHaveLength(1);
    expect(() => lookAtOutputs({ ...file, outputs: ["z"] }, { batch: 1 })).toThrow("Einsum at aside");
  });
});

describe("work is linear in the file", () => {
  const chain = (length: number, more: Partial<FileModel> = {}): FileModel => ({
    ...{ opset: 17, metadata: {}, initializers: new Map() },
    inputs: [{ name: "x0", dtype: "float32", dims: [1, 2] }],
    nodes: Array.from({ length }, (_, i) => nodeOf("Relu", [`x${i}`], [`x${i + 1}`])),
    outputs: Array.from({ length }, (_, i) => `x${i + 1}`),
    ...more,
  });

  test("a chain of 4,000 outputs is read once, not 4,000 times", () => {
    const began = performance.now();
    const { rows, others } = lookAtOutputs(chain(4000), { batch: 1 });
    expect([rows.length, others.length, rows.at(-1)]).toEqual([4000, 0, { name: "x4000", value: "x4000", width: 2 }]);
    expect(performance.now() - began).toBeLessThan(5000); // a read of each by itself takes minutes
  });

  test("each output has the error that reading it alone gives", () => {
    const nodes = [
      nodeOf("Relu", ["x0"], ["a"]),
      nodeOf("Einsum", ["x0"], ["b"]),
      nodeOf("Nonsense", ["a"], ["c"]),
      nodeOf("Add", ["c", "b"], ["d"]),
      nodeOf("Relu", ["d"], ["e"]),
    ];
    const file = chain(0, { nodes, outputs: ["a", "b", "c", "d", "e", "f"] });
    const alone = file.outputs.map((name) => {
      try {
        return typeName(readModel(file, { outputs: [name] }).outputs[name]!);
      } catch (error) {
        return (error as Error).message;
      }
    });
    const each = readEachOutput(file).map(([, found]) => (found instanceof Error ? found.message : typeName(found)));
    expect(each).toEqual(alone);
    expect(each.map((text) => text.split(" ")[0])).toEqual([
      "float32[1,2]",
      ...["Einsum", "Nonsense", "Einsum"],
      "Einsum",
      "nothing",
    ]);
  });
});

describe("what is refused", () => {
  const cases: [string, Uint8Array, string | RegExp][] = [
    [
      "an unknown op",
      fileOf([{ opType: "Einsum", name: "head", input: ["x"], output: ["y"] }]),
      "Einsum at head: the operator is not supported",
    ],
    [
      "a control-flow op",
      fileOf([{ opType: "Loop", name: "l", input: ["x"], output: ["y"] }]),
      "Loop at l: the operator is not supported",
    ],
    [
      "another domain",
      fileOf([{ opType: "Gelu", domain: "com.microsoft", input: ["x"], output: ["y"] }]),
      /^Gelu at y: the domain com.microsoft/,
    ],
    [
      "an attribute",
      fileOf([{ opType: "Relu", name: "r", input: ["x"], output: ["y"], attribute: [int("slope", 1)] }]),
      "Relu at r: the attribute slope is not supported (float32[1,2,4,4])",
    ],
    [
      "an attribute of another type",
      fileOf([{ opType: "LeakyRelu", name: "r", input: ["x"], output: ["y"], attribute: [int("alpha", 1)] }]),
      /kind int, not float/,
    ],
    [
      "a cycle",
      fileOf([
        { opType: "Add", input: ["x", "y"], output: ["z"] },
        { opType: "Relu", input: ["z"], output: ["y"] },
      ]),
      /cycle/,
    ],
    [
      "a value from nowhere",
      fileOf([{ opType: "Relu", name: "r", input: ["ghost"], output: ["y"] }]),
      'Relu at r: it reads "ghost", which nothing makes',
    ],
    [
      "a value made twice",
      fileOf([
        { opType: "Relu", input: ["x"], output: ["y"] },
        { opType: "Relu", input: ["x"], output: ["y"] },
      ]),
      /made twice/,
    ],
    [
      "no maker of the output",
      fileOf([{ opType: "Relu", input: ["x"], output: ["z"] }]),
      /nothing makes the output "y"/,
    ],
    [
      "a batch norm of images alone",
      fileOf([{ opType: "BatchNormalization", name: "b", input: ["x"], output: ["y"] }]),
      /^BatchNormalization at b: an input that it needs is left out/,
    ],
    [
      "names of more than a line",
      fileOf([{ opType: "Einsum", name: "a\nb\u2028c", input: ["x"], output: ["y"] }]),
      "Einsum at a\ufffdb\ufffdc: the operator is not supported",
    ],
    ["missing inputs", fileOf([{ opType: "Conv", name: "c", input: ["x"], output: ["y"] }]), /^Conv at c: /],
    [
      "external data",
      fileOf([{ opType: "Add", input: ["x", "w"], output: ["y"] }], 17, [
        { name: "w", dataType: 1, dims: [1], dataLocation: 1 },
      ]),
      /keeps its data in another file/,
    ],
    [
      "a tensor of the wrong length",
      fileOf([{ opType: "Add", input: ["x", "w"], output: ["y"] }], 17, [
        { name: "w", dataType: 1, dims: [9], floatData: [1] },
      ]),
      /holds 1 values/,
    ],
    [
      "a value of 2^40 elements",
      fileOf([{ opType: "Tile", name: "t", input: ["x", "r"], output: ["y"] }], 17, [
        { name: "r", dataType: 7, dims: [4], int64Data: [1024, 1024, 1024, 32] },
      ]),
      /^Tile at t: its output has .* elements/,
    ],
    [
      "a huge constant",
      fileOf([{ opType: "ConstantOfShape", name: "c", input: ["s"], output: ["y"] }], 17, [
        { name: "s", dataType: 7, dims: [2], int64Data: [2 ** 40, 2 ** 10] },
      ]),
      /^ConstantOfShape at c: /,
    ],
    ["a future opset", fileOf([{ opType: "Relu", input: ["x"], output: ["y"] }], 99), /opset 99/],
    ["no graph", new Uint8Array(0), "this is not an ONNX model: it holds no graph"],
    ["text", new TextEncoder().encode("hello, world"), /^this is not an ONNX model/],
  ];
  test.each(cases)("%s", (_, bytes, message) => {
    expect(refusal(bytes)).toMatch(
      typeof message === "string" ? new RegExp(`^${message.replace(/[[\]().^$*+?]/g, "\\$&")}`) : message,
    );
  });

  test("messages that lie deep in one another", () => {
    // An attribute that holds a graph that holds a node that holds an attribute …
    let bytes = Uint8Array.of();
    for (let depth = 0; depth < 3000; depth++) {
      const field = [6, 5, 1][depth % 3]!;
      const head: number[] = [(field << 3) | 2];
      for (let n = bytes.length; ; n >>>= 7) {
        if (n < 128) {
          head.push(n);
          break;
        }
        head.push((n & 127) | 128);
      }
      bytes = Uint8Array.from([...head, ...bytes]);
    }
    const head = [58];
    for (let n = bytes.length; ; n >>>= 7) {
      if (n < 128) {
        head.push(n);
        break;
      }
      head.push((n & 127) | 128);
    }
    expect(refusal(Uint8Array.from([...head, ...bytes]))).toMatch(/deep/);
  });
});

test("1,000 mutated files: read, or refused in one sentence", () => {
  const originals = ["convnet.legacy17.onnx", "tiny_vit.dynamo20.onnx"].map(bytesOf);
  const random = randomNumbers(5);
  const below = (n: number) => Math.floor(random() * n);
  let [read, refused] = [0, 0];
  for (let i = 0; i < 1000; i++) {
    const original = originals[i % 2] as Uint8Array;
    let bytes = Uint8Array.from(original);
    // Mostly where the structure is; the weights of these files are most of their bytes.
    const place = () => (random() < 0.7 ? below(Math.min(3000, bytes.length)) : below(bytes.length));
    switch (i % 5) {
      case 0:
        bytes = bytes.slice(0, below(bytes.length));
        break;
      case 1:
        for (let k = 0; k < 3; k++) bytes[place()] = below(256);
        break;
      case 2:
        bytes[place()] = [0, 1, 127, 128, 255][below(5)]!;
        break;
      case 3: {
        const at = place();
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + 1 + below(8))]);
        break;
      }
      default: {
        const [from, to] = [place(), place()];
        bytes.copyWithin(to, from, from + below(64));
      }
    }
    const start = performance.now();
    try {
      const model = readModel(parseModel(bytes), { batch: 2 });
      read++;
      if (read % 8 === 0) {
        const [given] = Object.values(model.inputs) as [Value];
        const [y] = Object.values(model.outputs) as [Value];
        grad(reduceSum(y, { keepdims: 0 }), [given]);
      }
    } catch (error) {
      if (!(error instanceof GraphError)) throw error;
      expect(error.code).not.toBe("internal");
      expect(error.message.split("\n")).toHaveLength(1);
      refused++;
    }
    expect(performance.now() - start).toBeLessThan(3000);
  }
  expect(read + refused).toBe(1000);
  expect(refused).toBeGreaterThan(300);
});
