/** What oneDNN computes, op by op, against what the ops mean; and what is said where it cannot. */
import { describe, expect, test } from "@jest/globals";
import { apply, input, type Value } from "../../../graphs/onnx/graph.ts";
import { allNodesOf } from "../../../graphs/onnx/order.ts";
import { sizeOf, type Tensor } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import type { OpDefinition } from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { bfloat16Name } from "../../../graphs/targets/cpu/bfloat16/name.ts";
import { narrowed } from "../../../graphs/targets/cpu/bfloat16/narrow.ts";
import {
  bfloat16Conv,
  bfloat16GradInput,
  bfloat16GradWeight,
  bfloat16MaxPool,
  bfloat16MaxPoolGrad,
  type Convolution,
  imageShape,
  type Mapped,
  ofImages,
  rowMap,
  rowSums,
} from "../../../graphs/targets/cpu/bfloat16/ops.ts";
import { boundedStep } from "../../../graphs/targets/cpu/bfloat16/pgd-step.ts";
import { row } from "../../../graphs/targets/cpu/contrib.ts";
import { cpuBfloat16Target } from "../../../graphs/targets/cpu/index.ts";
import { type Lowering, lower } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { chooseEngine } from "../../../src/engine/engine.ts";
import { missingBfloat16, type OnednnTools, onednnKernels } from "../../../src/engine/native/onednn/available.ts";
import { piecesOf } from "../../../src/engine/native/onednn/chunks.ts";
import type { Onednn } from "../../../src/engine/native/onednn/library.ts";
import { stripsOf } from "../../../src/engine/native/onednn/rows.ts";
import { profileOf } from "../../../src/engine/profile.ts";
import { createSession } from "../../../src/engine/session.ts";
import { evaluate, filledWith, randomNumbers, randomTensor, relativeError } from "../../graphs/run.ts";
import { residualBlock } from "../../graphs/targets/residual-block.ts";
import { widened } from "../../graphs/targets/widened.ts";
import { available } from "../../needs.ts";

const here = available("onednn", missingBfloat16(1) === undefined) ? describe : describe.skip;

/** Nodes of these ops stay what they are; everything else becomes standard ops. */
const keeping = (outputs: readonly Value[]) => {
  const lowerings = new Map<OpDefinition, Lowering>();
  for (const node of allNodesOf(outputs))
    if (bfloat16Name(node) !== undefined)
      lowerings.set(node.definition as OpDefinition, ({ inputs, attributes }) =>
        apply(
          node.definition,
          inputs.map((x) => x.plain),
          attributes,
        ),
      );
  return { ...portable, lowerings, kernels: bfloat16Name };
};

const runOf = async (outputs: Readonly<Record<string, Value>>) => {
  const model = compile({ outputs }, keeping(Object.values(outputs)));
  const kernels = onednnKernels(model, 1);
  return createSession(model, { engine: "native", threads: 1, optimization: "disabled", kernels });
};

const given = (name: string, shape: readonly number[]): Value => input(name, { dtype: "float32", shape });

/** A tensor of the number at each place. */
const filled = (shape: readonly number[], of: (i: number) => number): Tensor =>
  filledWith(
    "float32",
    shape,
    Array.from({ length: sizeOf(shape) }, (_, i) => of(i)),
  );

/** Chunks of a side as inputs by name. */
const parts = (name: string, chunks: readonly number[], channels: number, [h = 0, w = 0]: readonly number[]): Value[] =>
  chunks.map((count, i) => given(`${name}${i}`, [h * w, count * channels]));

const base: Convolution = {
  inputChunks: [16, 4],
  outputChunks: [16, 4],
  channels: [8, 24],
  input: [6, 5],
  output: [6, 5],
  kernel: [3, 3],
  pads: [1, 1],
  strides: [1, 1],
  dilations: [1, 1],
  depth: [],
  narrow: 0,
};
const CASES: readonly (readonly [string, Convolution])[] = [
  ["plain", base],
  ["three channels", { ...base, channels: [3, 16] }],
  ["chunks that differ", { ...base, inputChunks: [3, 5, 12], outputChunks: [16, 4] }],
  ["chunks that cross", { ...base, inputChunks: [7, 13], outputChunks: [5, 9, 6] }],
  ["a stride", { ...base, strides: [2, 2], output: [3, 3] }],
  ["one place under a stride", { ...base, kernel: [1, 1], pads: [0, 0], strides: [2, 2], output: [3, 3] }],
  ["a wide and uneven kernel", { ...base, kernel: [4, 2], pads: [1, 0], output: [6, 4], dilations: [1, 1] }],
  ["dilated", { ...base, pads: [2, 2], dilations: [2, 2] }],
  ["images lower than the kernel", { ...base, input: [2, 2], output: [2, 2] }],
  ["low and wide images", { ...base, input: [2, 8], output: [2, 8] }],
  ["a large kernel on low images", { ...base, input: [4, 4], output: [4, 4], kernel: [5, 5], pads: [2, 2] }],
  [
    "the same under a stride",
    { ...base, input: [4, 4], output: [2, 2], kernel: [7, 7], pads: [3, 3], strides: [2, 2] },
  ],
  ["dilated beyond the images", { ...base, input: [4, 4], output: [4, 4], pads: [2, 2], dilations: [2, 2] }],
  ["single pixels", { ...base, input: [1, 1], output: [1, 1] }],
  ["chunks larger than the filter", { ...base, channels: [3, 2], inputChunks: [20, 20, 9], outputChunks: [20, 20, 9] }],
  ["images", { ...base, inputChunks: [20], channels: [3, 24], depth: [1, 1] }],
  [
    "images under a stride",
    { ...base, inputChunks: [20], channels: [3, 24], strides: [2, 2], output: [3, 3], depth: [1, 1] },
  ],
  [
    "blocks of pixels of images",
    { ...base, inputChunks: [20], channels: [18, 4], kernel: [4, 4], pads: [2, 1], depth: [2, 3] },
  ],
  ["low images", { ...base, inputChunks: [20], channels: [3, 4], input: [2, 5], output: [2, 5], depth: [1, 1] }],
  ["one image", { ...base, inputChunks: [1], outputChunks: [1] }],
];

const expectNear = (actual: Record<string, Tensor>, expected: Record<string, Tensor>): void => {
  expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort());
  for (const [name, { data }] of Object.entries(expected)) {
    const error = relativeError(actual[name]?.data as Float32Array, data as Float32Array);
    if (!(error <= 1e-5)) throw new Error(`${name} is off by ${error}`);
  }
};

here("oneDNN", () => {
  test.each(CASES)("a convolution and its gradients: %s", async (_, c) => {
    const [ci = 0, co = 0] = c.channels;
    const w = given("w", [co, ci, ...c.kernel]);
    const dy = parts("dy", c.outputChunks, co, c.output);
    const x = ofImages(c) ? [given("x", imageShape(c))] : parts("x", c.inputChunks, ci, c.input);
    const named = (name: string, values: readonly Value[]) => values.map((value, i) => [`${name}${i}`, value] as const);
    const outputs = Object.fromEntries([
      ...named("y", bfloat16Conv.outputs(w, ...x, c)),
      ...named("dx", bfloat16GradInput.outputs(w, ...dy, c)),
      ["dw", bfloat16GradWeight(...x, ...dy, c)] as const,
    ]);
    const random = randomNumbers(11);
    const feeds = Object.fromEntries(
      [w, ...x, ...dy].map((value) => [value.node.attributes.name as string, randomTensor(random, value.shape)]),
    );
    const session = await runOf(outputs);
    expectNear(await session.run(feeds), await evaluate(outputs, feeds));
    // Filters that it has laid out for a run are stale in the next.
    const other = { ...feeds, w: randomTensor(random, w.shape) };
    expectNear(await session.run(other), await evaluate(outputs, other));
    await session.release();
  });

  const flags = [0, 1] as const;
  const maps = flags.flatMap((term) =>
    flags.flatMap((plus) =>
      flags.flatMap((times) =>
        ["none", "relu", "positive"].map((activation) => ({
          ...{ term, plus, times, activation, narrow: 0 },
          gain: Number(activation === "none"),
        })),
      ),
    ),
  );
  /** Operands of maps and of sums, [7,40] and [1,40]. */
  const large = ["x", "plus", "times"].map((name) => given(name, [7, 40])) as [Value, Value, Value];
  const rows = ["factor", "term", "gain"].map((name) => given(name, [1, 40])) as [Value, Value, Value];
  const operandsOf = (does: Mapped, [x, plus, times]: typeof large): Value[] => [
    ...[x, rows[0]],
    ...(does.term ? [rows[1]] : []),
    ...(does.plus ? [plus] : []),
    ...(does.times ? [times] : []),
    ...(does.gain ? [rows[2]] : []),
  ];
  const feedsOf = (values: readonly Value[], seed: number) => {
    const random = randomNumbers(seed);
    return Object.fromEntries(
      values.map((value) => [value.node.attributes.name as string, randomTensor(random, value.shape)]),
    );
  };

  test("maps of rows with all that may follow them", async () => {
    const outputs = Object.fromEntries(
      maps.map((does, i) => [`y${i}`, rowMap(...operandsOf(does, large), does)] as const),
    );
    const feeds = feedsOf([...large, ...rows], 2);
    const session = await runOf(outputs);
    expectNear(await session.run(feeds), await evaluate(outputs, feeds));
    await session.release();
  });

  /** The same value in bfloat16. */
  const asNarrow = (x: Value): Value =>
    rowMap(x, row(x.dim(1), 1), { term: 0, plus: 0, activation: "none", times: 0, gain: 0, narrow: 1 });
  /** Back to float32, which any session returns. */
  const asWide = (x: Value): Value =>
    rowMap(x, row(x.dim(1), 1), { term: 0, plus: 0, activation: "none", times: 0, gain: 0, narrow: 0 });

  test.each([
    ["all in bfloat16", (values: typeof large) => values.map(asNarrow), 1],
    ["of bfloat16 to float32", (values: typeof large) => values.map(asNarrow), 0],
    ["of float32 to bfloat16", (values: typeof large) => values, 1],
    ["of bfloat16 with float32", ([x, ...more]: typeof large) => [asNarrow(x), ...more], 1],
    ["of float32 with bfloat16", ([x, ...more]: typeof large) => [x, ...more.map(asNarrow)], 0],
  ] as const)("maps of rows: %s", async (_, lie, narrow) => {
    const values = lie(large) as typeof large;
    const outputs = Object.fromEntries(
      maps.map((does, i) => {
        const y = rowMap(...operandsOf(does, values), { ...does, narrow });
        return [`y${i}`, narrow === 1 ? asWide(y) : y] as const;
      }),
    );
    const feeds = feedsOf([...large, ...rows], 4);
    const session = await runOf(outputs);
    const [actual, expected] = [await session.run(feeds), await evaluate(widened(outputs), feeds)];
    await session.release();
    // Sums in another order may round to the next of bfloat16's numbers, of which there are 256 in an octave.
    for (const [name, { data }] of Object.entries(expected))
      for (const [j, v] of (data as Float32Array).entries())
        expect([
          name,
          j,
          Math.abs((actual[name]!.data as Float32Array)[j]! - v) <= (narrow ? 2 ** -7 : 1e-5) * Math.abs(v) + 1e-6,
        ]).toEqual([name, j, true]);
  });

  test.each([40, 37, 512])(
    "sums over rows of %i columns, of a tensor and of its products with another, in float32 and in bfloat16",
    async (columns) => {
      const [x, y] = ["x", "y"].map((name) => given(name, [9, columns])) as [Value, Value];
      const named = (name: string, values: readonly Value[]) => values.map((v, i) => [`${name}${i}`, v] as const);
      const outputs = Object.fromEntries([
        ...named("both", rowSums.outputs(x, y)),
        ...named("own", rowSums.outputs(x)),
        ...named("narrow", rowSums.outputs(asNarrow(x), asNarrow(y))),
        ...named("ownNarrow", rowSums.outputs(asNarrow(x))),
      ]);
      const feeds = feedsOf([x, y], columns);
      const session = await runOf(outputs);
      expectNear(await session.run(feeds), await evaluate(widened(outputs), feeds));
      await session.release();
    },
  );

  test("sums over rows of more than a cache holds, strip by strip", async () => {
    const [x, y] = ["x", "y"].map((name) => given(name, [1501, 512])) as [Value, Value];
    expect(stripsOf(1501, 4 * 512).map(({ count }) => count)).toEqual([501, 501, 499]);
    const named = (name: string, values: readonly Value[]) => values.map((v, i) => [`${name}${i}`, v] as const);
    const outputs = Object.fromEntries([
      ...named("both", rowSums.outputs(x, y)),
      ...named("ownNarrow", rowSums.outputs(asNarrow(x))),
    ]);
    const feeds = feedsOf([x, y], 7);
    const session = await runOf(outputs);
    expectNear(await session.run(feeds), await evaluate(widened(outputs), feeds));
    await session.release();
  });

  test("a convolution and its gradients in bfloat16", async () => {
    const c = { ...base, narrow: 1 };
    const w = given("w", [24, 8, 3, 3]);
    const [x, dy] = [parts("x", c.inputChunks, 8, c.input), parts("dy", c.outputChunks, 24, c.output)];
    const [nearX, nearDy] = [x.map(asNarrow), dy.map(asNarrow)];
    const outputs = Object.fromEntries([
      ...bfloat16Conv.outputs(w, ...nearX, c).map((y, i) => [`y${i}`, asWide(y)] as const),
      ...bfloat16GradInput.outputs(w, ...nearDy, c).map((y, i) => [`dx${i}`, asWide(y)] as const),
      ["dw", bfloat16GradWeight(...nearX, ...nearDy, base)] as const,
    ]);
    const feeds = feedsOf([w, ...x, ...dy], 6);
    const session = await runOf(outputs);
    const [actual, expected] = [await session.run(feeds), await evaluate(widened(outputs), feeds)];
    await session.release();
    for (const [name, { data }] of Object.entries(expected)) {
      const error = relativeError(actual[name]!.data as Float32Array, data as Float32Array);
      expect([name, error < (name === "dw" ? 1e-5 : 3e-4)]).toEqual([name, true]);
    }
  });

  test("a step of an attack moves each pixel as its ops do, whatever its gradient's size", async () => {
    const shape = [2, 3, 5, 4];
    const [x, gradient, least, most] = ["x", "gradient", "least", "most"].map((name) => given(name, shape)) as [
      Value,
      Value,
      Value,
      Value,
    ];
    const outputs = { next: boundedStep(x, gradient, least, most, { stepSize: 2 / 255 }) };
    const random = randomNumbers(12);
    const images = filled(shape, () => random());
    const at = images.data as Float32Array;
    const feeds = {
      x: images,
      // Zeros of both signs, the smallest numbers and the largest.
      gradient: filled(shape, (i) => [0, -0, 1.4e-45, -1.4e-45, 1e-39, 1, -2, 3e38, -3e38][i % 9]!),
      least: filled(shape, (i) => at[i]! - random() / 100),
      most: filled(shape, (i) => at[i]! + random() / 100),
    };
    const session = await runOf(outputs);
    const [actual, expected] = [await session.run(feeds), await evaluate(outputs, feeds)];
    await session.release();
    expect(Array.from(actual.next!.data as Float32Array)).toEqual(Array.from(expected.next.data as Float32Array));
  });

  const pool = { ...base, channels: [8, 8], input: [8, 6], output: [4, 3], strides: [2, 2] };
  const POOLS: readonly (readonly [string, Convolution])[] = [
    ["ImageNet's stem", pool],
    ["without overlap", { ...pool, kernel: [2, 2], pads: [0, 0] }],
    ["an uneven window", { ...pool, kernel: [3, 2], pads: [0, 0], strides: [1, 1], output: [6, 5] }],
    ["chunks that cross", { ...pool, inputChunks: [7, 13], outputChunks: [5, 9, 6] }],
    ["three channels", { ...pool, channels: [3, 3] }],
  ];
  test.each(POOLS)("max pooling and its gradient, to the first of equal pixels: %s", async (_, c) => {
    const channels = c.channels[0]!;
    const [x, dy] = [parts("x", c.inputChunks, channels, c.input), parts("dy", c.outputChunks, channels, c.output)];
    const [nearX, nearDy] = [x.map(asNarrow), dy.map(asNarrow)];
    const narrow = { ...c, narrow: 1 };
    const named = (name: string, values: readonly Value[]) => values.map((v, i) => [`${name}${i}`, v] as const);
    const outputs = Object.fromEntries([
      ...named("y", bfloat16MaxPool.outputs(...x, c)),
      ...named("dx", bfloat16MaxPoolGrad.outputs(...x, ...dy, c)),
      ...named("narrowY", bfloat16MaxPool.outputs(...nearX, narrow).map(asWide)),
      ...named("narrowDx", bfloat16MaxPoolGrad.outputs(...nearX, ...nearDy, narrow).map(asWide)),
    ]);
    // Few different numbers, so that windows have equal pixels; those of dy have few bits, so that sums of four are exact.
    const random = randomNumbers(8);
    const few = (shape: readonly number[], of: (v: number) => number) => filled(shape, () => of(random()));
    const feeds = Object.fromEntries([
      ...x.map((v) => [v.node.attributes.name as string, few(v.shape, (r) => Math.round(4 * r - 2) / 2)] as const),
      ...dy.map((v) => [v.node.attributes.name as string, few(v.shape, (r) => Math.round(16 * r - 8) / 8)] as const),
    ]);
    const session = await runOf(outputs);
    const [actual, expected] = [await session.run(feeds), await evaluate(widened(outputs), feeds)];
    await session.release();
    for (const [name, { data }] of Object.entries(expected)) {
      const found = actual[name]!.data as Float32Array;
      expect([name, (data as Float32Array).filter((v, i) => found[i] !== v).length]).toEqual([name, 0]);
    }
  });

  test("a residual block with its values in bfloat16 is what they mean", async () => {
    const { outputs, inputs } = residualBlock();
    const feeds = feedsOf(inputs, 5);
    const made = narrowed(lower(outputs, cpuBfloat16Target()));
    const session = await runOf(made);
    const [actual, expected] = [await session.run(feeds), await evaluate(widened(made), feeds)];
    await session.release();
    for (const name of Object.keys(outputs) as (keyof typeof outputs)[]) {
      const error = relativeError(actual[name]!.data as Float32Array, expected[name].data as Float32Array);
      expect([name, error < 1e-5]).toEqual([name, true]);
    }
  });

  test("is taken for --precision bfloat16, by the native engine; classifiers are judged in float32", async () => {
    const engine = await chooseEngine({ provider: "cpu", threads: 1, precision: "bfloat16" });
    expect([engine.name, engine.precision]).toEqual(["native", "bfloat16"]);
    expect(engine.target.name).toMatch(/^cpu-bfloat16(-32)?$/);
    const other = engine.target.name === "cpu-bfloat16" ? "cpu-bfloat16-32" : "cpu-bfloat16";
    const again = await chooseEngine({ provider: "cpu", threads: 1, precision: "bfloat16", begunWith: other });
    expect(again.target.name).toBe(other);
    const named = await chooseEngine({ provider: "cpu", threads: 1, target: "cpu-bfloat16" });
    expect([named.name, named.precision]).toEqual(["native", "bfloat16"]);
    const session = await engine.loadEvaluation({ y: given("x", [2, 3]) });
    expect(session.inputNames).toEqual(["x"]);
    await session.release();
  });
});

test("a profile counts them among convolutions and matrix products", () => {
  const ran = (name: string, dur: number) => ({
    ...{ cat: "Node", name: `${name}_kernel_time`, ts: 0, dur },
    args: { op_name: name, provider: "CPUExecutionProvider" },
  });
  const events = [ran("bfloat16Conv.float32x3.float32x2", 2), ran("bfloat16GradWeight.float32x4.float32", 1)];
  const { products } = profileOf([...events, ran("rowMap.float32x3.float32", 1)], {
    nodes: new Map(),
  } as unknown as Model);
  expect(products).toBe(0.75);
});

test("strips hold all rows, nearly as many each", () => {
  expect(stripsOf(9216, 2048)).toEqual(Array.from({ length: 18 }, (_, i) => ({ from: 512 * i, count: 512 })));
  expect(stripsOf(7, 4)).toEqual([{ from: 0, count: 7 }]);
  expect(stripsOf(3, 2 ** 21).map(({ from, count }) => [from, count])).toEqual([
    [0, 1],
    [1, 1],
    [2, 1],
  ]);
});

test("which chunks hold some images", () => {
  expect(piecesOf([4, 4, 2], 0, 10)).toEqual([
    { chunk: 0, from: 0, to: 0, count: 4 },
    { chunk: 1, from: 0, to: 4, count: 4 },
    { chunk: 2, from: 0, to: 8, count: 2 },
  ]);
  expect(piecesOf([4, 4], 3, 3)).toEqual([
    { chunk: 0, from: 3, to: 0, count: 1 },
    { chunk: 1, from: 0, to: 1, count: 2 },
  ]);
});

describe("what is said where there is no bfloat16", () => {
  const tools = (hasBfloat16: boolean): OnednnTools => ({
    missingApi: () => undefined,
    openOnednn: () => ({ hasBfloat16 }) as Onednn,
  });
  test.each([
    ["nothing where it can be computed", tools(true), undefined],
    ["no instructions", tools(false), "this processor has no instructions for it (AVX-512 BF16 or AMX)"],
    [
      "no library",
      { ...tools(true), openOnednn: () => undefined },
      "oneDNN 3 is not here: run  sh scripts/install-onednn.sh  or set ADVCL_ONEDNN",
    ],
    [
      "no koffi",
      { ...tools(true), missingApi: (): string => "the package koffi is not installed" },
      "the package koffi is not installed",
    ],
  ] as const)("%s", (_, given, said) => {
    expect(missingBfloat16(1, given)).toBe(said);
  });

  test.each([
    [{ provider: "webgpu", precision: "bfloat16" }, /--precision bfloat16 is for the CPU, and this is webgpu/],
    [{ provider: "cuda", precision: "bfloat16" }, /--precision bfloat16 is for the CPU.*choose --precision float16/],
    [{ provider: "cpu", precision: "bfloat16", engine: "binding" }, /--precision bfloat16 needs --engine native/],
    [{ provider: "cpu", precision: "bfloat16", target: "portable" }, /bfloat16 is not computed by --target portable/],
    [{ provider: "cpu", precision: "float32", target: "cpu-bfloat16" }, /float32 is not computed by --target cpu-bf/],
  ] as const)("%j is refused", async (request, message) => {
    await expect(chooseEngine({ threads: 1, ...request })).rejects.toThrow(message);
  });
});
