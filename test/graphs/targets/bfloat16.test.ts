/** The bfloat16 target by what its ops mean, which any machine computes: no oneDNN is needed here. */
import { describe, expect, test } from "@jest/globals";
import { pgd } from "../../../graphs/attacks/pgd.ts";
import { linf } from "../../../graphs/attacks/threat-model.ts";
import { vjp } from "../../../graphs/autodiff/grad.ts";
import { apply, input, type Value } from "../../../graphs/onnx/graph.ts";
import { allNodesOf } from "../../../graphs/onnx/order.ts";
import { sizeOf, type Tensor } from "../../../graphs/onnx/tensor.ts";
import {
  type ConvAttributes,
  conv,
  convGradInput,
  convGradWeight,
  maxPool,
  mul,
  type OpDefinition,
} from "../../../graphs/ops/index.ts";
import { volumes } from "../../../graphs/targets/cpu/bfloat16/layout.ts";
import { bfloat16Name } from "../../../graphs/targets/cpu/bfloat16/name.ts";
import { narrowed } from "../../../graphs/targets/cpu/bfloat16/narrow.ts";
import {
  bfloat16Conv,
  convolutionOf,
  isRowSums,
  mappedOf,
  NARROW,
  rounded,
  rowMap,
  rowSums,
} from "../../../graphs/targets/cpu/bfloat16/ops.ts";
import { cpuBfloat16Target } from "../../../graphs/targets/cpu/index.ts";
import { type Lowering, lower, type Target } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { evaluate, filledWith, randomNumbers, randomTensor, relativeError } from "../run.ts";
import { residualBlock } from "./residual-block.ts";
import { widened } from "./widened.ts";

const image = (name: string, shape: readonly number[]): Value => input(name, { dtype: "float32", shape });

/** bfloat16 by its bits: float32 without the lower 16, rounded to nearest, ties to even. */
const nearest = (x: number): number => {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, x);
  const bits = view.getUint32(0);
  view.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return view.getFloat32(0);
};

test("rounded is bfloat16's nearest", async () => {
  const random = randomNumbers(1);
  const values = Array.from({ length: 2000 }, () => (random() - 0.5) * 2 ** Math.floor(40 * random() - 20));
  const x = image("x", [values.length]);
  const { y } = await evaluate({ y: rounded(x) }, { x: filledWith("float32", x.shape, values) });
  expect(Array.from(y.data as Float32Array)).toEqual(values.map((v) => nearest(Math.fround(v))));
});

/** Numbers that bfloat16 has: what rounds operands alone then rounds nothing. */
const exact = (random: () => number, shape: readonly number[]): Tensor =>
  filledWith(
    "float32",
    shape,
    Array.from({ length: sizeOf(shape) }, () => nearest(2 * random() - 1)),
  );

const CASES: readonly [x: readonly number[], w: readonly number[], attributes: ConvAttributes][] = [
  [[40, 3, 12, 12], [8, 3, 3, 3], { pads: [1, 1, 1, 1] }],
  [[40, 8, 9, 8], [5, 8, 3, 3], { pads: [1, 1, 1, 1], strides: [2, 2] }],
  [[3, 6, 9, 8], [4, 6, 1, 1], { strides: [2, 2] }],
  [[18, 3, 12, 8], [8, 3, 7, 7], { pads: [3, 3, 3, 3], strides: [2, 2] }],
  [[18, 3, 9, 8], [8, 3, 3, 5], { pads: [0, 2, 1, 1], strides: [3, 2] }],
  [[18, 3, 9, 8], [8, 3, 3, 3], { pads: [1, 1, 1, 1], strides: [2, 2] }],
  [[17, 4, 7, 5], [3, 4, 4, 2], { pads: [1, 0, 2, 1], dilations: [1, 2] }],
];

describe("a convolution and its gradients", () => {
  test.each(CASES)("x %j, w %j, %j", async (xShape, wShape, attributes) => {
    const random = randomNumbers(7);
    const [x, w] = [image("x", xShape), image("w", wShape)];
    const y = conv(x, w, attributes);
    const dy = image("dy", y.shape);
    const [dx, dw] = vjp([y], [dy], [x, w]) as [Value, Value];
    const outputs = { y, dx, dw };
    const lowered = lower(outputs, cpuBfloat16Target());
    const kinds = allNodesOf(Object.values(lowered)).flatMap((node) => convolutionOf(node)?.kind ?? []);
    expect(kinds.sort()).toEqual(["forward", "input", "weight"]);
    const feeds = { x: exact(random, xShape), w: exact(random, wShape), dy: exact(random, y.shape) };
    const [actual, expected] = [await evaluate(lowered, feeds), await evaluate(outputs, feeds)];
    for (const name of ["y", "dx", "dw"] as const) {
      expect(actual[name].shape).toEqual(expected[name].shape);
      expect(relativeError(actual[name].data as Float32Array, expected[name].data as Float32Array)).toBeLessThan(2e-6);
    }
  });

  test("with groups it stays in float32", () => {
    const y = conv(image("x", [4, 8, 6, 6]), image("w", [8, 1, 3, 3]), { group: 8, pads: [1, 1, 1, 1] });
    expect(allNodesOf(Object.values(lower({ y }, cpuBfloat16Target()))).map(bfloat16Name)).not.toContain(
      expect.any(String),
    );
  });
});

test("max pooling and its gradient are one op each, for all chunks", async () => {
  const x = image("x", [20, 6, 8, 8]);
  const y = maxPool(x, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
  const dy = image("dy", y.shape);
  const outputs = { y, dx: vjp([y], [dy], [x])[0] as Value };
  const lowered = lower(outputs, cpuBfloat16Target());
  const names = allNodesOf(Object.values(lowered)).map(({ definition }) => definition.name);
  expect(names.filter((name) => /MaxPool|maxPool|Scatter/.test(name)).sort()).toEqual([
    "bfloat16MaxPool",
    "bfloat16MaxPoolGrad",
  ]);
  const random = randomNumbers(9);
  const feeds = { x: exact(random, x.shape), dy: exact(random, dy.shape) };
  const [actual, expected] = [await evaluate(lowered, feeds), await evaluate(outputs, feeds)];
  for (const name of ["y", "dx"] as const)
    expect(relativeError(actual[name].data as Float32Array, expected[name].data as Float32Array)).toBe(0);
});

test("a step of an attack under L∞ is one op, with the bounds made once before the loop", async () => {
  const clean = image("clean", [4, 3, 6, 6]);
  const attacked = pgd({ threat: linf(8 / 255), steps: 3, stepSize: 2 / 255 }, (x) => mul(x, x))(clean, clean);
  const lowered = lower({ attacked }, cpuBfloat16Target());
  const count = (values: readonly Value[], name: string) =>
    allNodesOf(values).filter(({ definition }) => definition.name === name).length;
  expect(["boundedStep", "Sign", "Clip", "Sub"].map((name) => count([lowered.attacked], name))).toEqual([1, 0, 0, 1]);
  const feeds = { clean: filledWith("float32", clean.shape, Array.from({ length: clean.size }, randomNumbers(4))) };
  const [actual, expected] = [await evaluate(lowered, feeds), await evaluate({ attacked }, feeds)];
  expect(Array.from(actual.attacked.data as Float32Array)).toEqual(Array.from(expected.attacked.data as Float32Array));
});

/** The same mathematics in portable ops: operands of convolutions and of their gradients are rounded. */
const roundedOperands: Target = {
  ...portable,
  lowerings: new Map(
    [conv, convGradInput, convGradWeight].map(({ definition }): [OpDefinition, Lowering] => [
      definition,
      ({ inputs, attributes, types }) => {
        const [a, b] = inputs.map((x) => rounded(x.plain)) as [Value, Value];
        return (definition.lower?.([a, b], attributes, types) ?? apply(definition, [a, b], attributes)) as Value[];
      },
    ]),
  ),
};

test("a block of a ResNet: maps, what follows them and masks are one op each", async () => {
  const { outputs, inputs } = residualBlock();
  const random = randomNumbers(3);
  const feeds = Object.fromEntries(
    inputs.map((value) => [value.node.attributes.name as string, randomTensor(random, value.shape)]),
  );
  const lowered = lower(outputs, cpuBfloat16Target());
  const chunk = inputs[0]!.dim(0) * inputs[0]!.dim(2) * inputs[0]!.dim(3);
  const large = allNodesOf(Object.values(lowered))
    .filter(({ outputs: [y] }) => y!.size >= chunk)
    .map(({ definition }) => definition.name);
  // Maps, sums, masks and their products with a gradient: no elementwise op of onnxruntime's is as large as a chunk.
  for (const name of ["Relu", "HardSigmoid", "Add", "Mul"])
    expect([name, large.filter((op) => op === name)]).toEqual([name, []]);
  const [actual, expected] = [await evaluate(lowered, feeds), await evaluate(lower(outputs, roundedOperands), feeds)];
  for (const name of Object.keys(outputs) as (keyof typeof outputs)[])
    expect(relativeError(actual[name].data as Float32Array, expected[name].data as Float32Array)).toBeLessThan(1e-4);
});

describe("values in bfloat16", () => {
  const { outputs, inputs } = residualBlock();
  const lowered = lower(outputs, cpuBfloat16Target());
  const made = narrowed(lowered);
  const nodes = allNodesOf(Object.values(made));

  test("are all that convolutions and maps make, but what leaves them", () => {
    const ends = new Set<Value>(Object.values(made));
    const chunks = nodes.filter(
      (node) => mappedOf(node) !== undefined || /forward|input/.test(convolutionOf(node)?.kind ?? ""),
    );
    expect(chunks.length).toBeGreaterThan(0);
    for (const node of chunks)
      for (const value of node.outputs) {
        const readers = nodes.filter(({ inputs: read }) => read.includes(value));
        const leaves = ends.has(value) || readers.some((reader) => bfloat16Name(reader) === undefined);
        expect([node.definition.name, value.dtype]).toEqual([node.definition.name, leaves ? "float32" : NARROW]);
      }
  });

  test("are never rows, filters or sums, and sums are of values of one type", () => {
    for (const node of nodes) {
      const kind = convolutionOf(node)?.kind;
      if (kind === "forward" || kind === "input") expect(node.inputs[0]!.dtype).toBe("float32");
      if (mappedOf(node) !== undefined)
        for (const value of node.inputs) if (value.dim(0) === 1) expect(value.dtype).toBe("float32");
      if (!isRowSums(node)) continue;
      expect(new Set(node.inputs.map(({ dtype }) => dtype)).size).toBe(1);
      expect(node.outputs.map(({ dtype }) => dtype)).toEqual(["float32", "float32"]);
    }
  });

  test("change results by bfloat16's rounding", async () => {
    const random = randomNumbers(3);
    const feeds = Object.fromEntries(
      inputs.map((value) => [value.node.attributes.name as string, randomTensor(random, value.shape)]),
    );
    const [actual, expected] = [await evaluate(widened(made), feeds), await evaluate(lowered, feeds)];
    for (const name of Object.keys(outputs) as (keyof typeof outputs)[]) {
      const error = relativeError(actual[name].data as Float32Array, expected[name].data as Float32Array);
      // Of gradients most is where a ReLU's operand near 0 changes its sign: about 1 in 300, 5 % of the norm.
      expect([name, error > 1e-4, error < (name === "y" ? 1e-2 : 0.06)]).toEqual([name, true, true]);
    }
  });

  test("do not stand where a sum of two types would be: both are float32", () => {
    const [x, w] = [image("x", [16, 8, 6, 6]), image("w", [8, 8, 3, 3])];
    const [row, given] = [image("row", [1, 128]), image("given", [36, 128])];
    const [y] = bfloat16Conv.outputs(w, ...volumes(16)(x).pack(x), {
      ...{ inputChunks: [16], outputChunks: [16], channels: [8, 8], input: [6, 6], output: [6, 6], kernel: [3, 3] },
      ...{ pads: [1, 1], strides: [1, 1], dilations: [1, 1], depth: [], narrow: 0 },
    }) as [Value];
    const map = { term: 0, plus: 0, activation: "relu", times: 0, gain: 0, narrow: 0 };
    const typesOf = (ends: Record<string, Value>) =>
      allNodesOf(Object.values(narrowed(ends))).flatMap((node) =>
        convolutionOf(node) === undefined ? [] : [node.outputs[0]!.dtype],
      );
    const sums = (other: Value) => Object.fromEntries(rowSums.outputs(y, other).map((sum, i) => [`sum${i}`, sum]));
    expect(typesOf(sums(rowMap(y, row, map)))).toEqual([NARROW]);
    expect(typesOf(sums(given))).toEqual(["float32"]);
  });
});

test("chunks hold sixteen images at least, or as many as are asked for, and no more than eight there are where that is enough", () => {
  const chunks = (...shape: number[]) => volumes(16)({ shape }).chunks;
  expect(volumes(32)({ shape: [40, 64, 32, 32] }).chunks).toEqual([32, 8]);
  expect(chunks(40, 64, 32, 32)).toEqual([16, 16, 8]);
  expect(chunks(5, 64, 32, 32)).toEqual([5]);
  expect(chunks(512, 64, 32, 32)).toEqual(Array(8).fill(64));
  expect(chunks(32, 512, 4, 4)).toEqual([32]);
  // Of large images, more than caches hold, sixteen.
  expect(volumes(32)({ shape: [64, 32, 96, 96] }).chunks).toEqual([16, 16, 16, 16]);
  expect(volumes(32)({ shape: [64, 64, 48, 48] }).chunks).toEqual([32, 32]);
});
