/** Every CPU lowering against the portable one, on shapes that fit nothing: odd batches, ragged chunks, odd widths. */
import { describe, expect, test } from "@jest/globals";
import { linf } from "../../../graphs/attacks/threat-model.ts";
import { vjp } from "../../../graphs/autodiff/grad.ts";
import { absent, input, type Node, nodesOf, type Type, type Value } from "../../../graphs/onnx/graph.ts";
import { scheduled } from "../../../graphs/onnx/order.ts";
import { sizeOf, type Tensor } from "../../../graphs/onnx/tensor.ts";
import {
  abs,
  add,
  batchNormalization,
  batchNormTraining,
  type ConvAttributes,
  conv,
  globalAveragePool,
  maxPool,
  reduceMean,
  relu,
  reshape,
} from "../../../graphs/ops/index.ts";
import { logitsStep, pgdStep } from "../../../graphs/steps/evaluate.ts";
import { costs } from "../../../graphs/targets/cpu/costs.ts";
import { cpuTarget, cpuTargetFor } from "../../../graphs/targets/cpu/index.ts";
import { limitChannels } from "../../../graphs/targets/cpu/placing.ts";
import { directly, fastest, type Way, waysFor } from "../../../graphs/targets/cpu/ways.ts";
import { tilesOfImage } from "../../../graphs/targets/cpu/winograd.ts";
import { lower, type Target } from "../../../graphs/targets/lower.ts";
import { blockSize } from "../../../src/engine/block.ts";
import { evaluate, filledWith, randomNumbers, randomTensor, relativeError } from "../run.ts";

/** Results of a graph on the CPU target and on the portable one; random inputs by name. */
const compare = async (
  outputs: Readonly<Record<string, Value>>,
  inputs: readonly Value[],
  target: Target,
  tolerance: number,
  seed: number,
): Promise<void> => {
  const random = randomNumbers(seed);
  const feeds: Record<string, Tensor> = {};
  for (const value of inputs) feeds[value.node.attributes.name as string] = randomTensor(random, value.shape);
  const [ours, theirs] = [await evaluate(outputs, feeds, target), await evaluate(outputs, feeds)];
  for (const name of Object.keys(outputs)) {
    const [a, b] = [ours[name]!, theirs[name]!];
    expect(a.shape).toEqual(b.shape);
    const error = relativeError(a.data as Float32Array, b.data as Float32Array);
    if (!(error <= tolerance)) throw new Error(`${name} is off by ${error} (seed ${seed})`);
  }
};

/** With the processor's blocks, and without. */
const block = await blockSize();
const cpuTargets: readonly Target[] = [
  cpuTarget({ name: "pixels" }),
  ...(block === undefined ? [] : [cpuTarget({ name: "blocks", block })]),
];

const image = (name: string, shape: readonly number[]): Value => input(name, { dtype: "float32", shape });

interface Case {
  readonly x: readonly number[];
  readonly filters: number;
  readonly kernel: number;
  readonly attributes: ConvAttributes;
}

const randomCases = (count: number): Case[] => {
  const random = randomNumbers(5);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  return Array.from({ length: count }, () => {
    const kernel = pick([1, 3, 3, 3, 5]);
    const padding = pick(kernel === 1 ? [0] : [kernel >> 1, kernel >> 1, 0]);
    const stride = pick([1, 1, 2]);
    return {
      x: [pick([1, 2, 3, 5, 7]), pick([1, 3, 8, 12, 16]), pick([4, 5, 8, 9, 12, 17]), pick([4, 6, 8, 11, 16])],
      filters: pick([1, 3, 8, 10, 24]),
      kernel: Math.min(kernel, 4 + 2 * padding) | 1,
      attributes: { pads: [padding, padding, padding, padding], strides: [stride, stride] },
    };
  });
};

const CASES: readonly Case[] = [
  { x: [3, 3, 12, 12], filters: 16, kernel: 3, attributes: { pads: [1, 1, 1, 1] } },
  { x: [3, 16, 12, 12], filters: 8, kernel: 3, attributes: { pads: [1, 1, 1, 1] } },
  { x: [2, 8, 4, 8], filters: 16, kernel: 3, attributes: { pads: [1, 1, 1, 1] } },
  { x: [2, 8, 9, 18], filters: 16, kernel: 3, attributes: { pads: [1, 1, 1, 1], strides: [2, 2] } },
  { x: [2, 8, 9, 8], filters: 16, kernel: 1, attributes: { strides: [2, 2] } },
  { x: [2, 3, 20, 20], filters: 8, kernel: 7, attributes: { pads: [3, 3, 3, 3], strides: [2, 2] } },
  { x: [2, 4, 9, 9], filters: 8, kernel: 3, attributes: { pads: [2, 1, 0, 3], dilations: [2, 1] } },
  { x: [2, 4, 9, 9], filters: 8, kernel: 3, attributes: { pads: [1, 1, 1, 1], group: 2 } },
  // Images that Winograd's tiles of 4, 3 and 2 fill, and that none does.
  ...[2, 3, 5, 6, 7].map((side) => ({
    x: [9, 8, side, side],
    filters: 16,
    kernel: 3,
    attributes: { pads: [1, 1, 1, 1] },
  })),
  { x: [4, 8, 3, 12], filters: 8, kernel: 3, attributes: { pads: [1, 1, 1, 1] } },
  // More than one chunk, the last one ragged.
  { x: [5, 8, 96, 96], filters: 8, kernel: 3, attributes: { pads: [1, 1, 1, 1] } },
  { x: [7, 8, 96, 96], filters: 9, kernel: 3, attributes: { pads: [1, 1, 1, 1], strides: [2, 2] } },
  ...randomCases(12),
];

describe("convolutions", () => {
  const ways: readonly Way[] = ["winograd", "thin", "im2col"];
  for (const way of ways)
    test.each(CASES.map((c, i) => [i, c] as const))(
      `${way}, case %i`,
      async (seed, { x, filters, kernel, attributes }) => {
        const group = attributes.group ?? 1;
        const given = image("x", x);
        const w = image("w", [filters, x[1]! / group, kernel, kernel]);
        const bias = image("bias", [filters]);
        const y = conv(given, w, bias, attributes);
        const dy = image("dy", y.shape);
        const [dx, dw] = vjp([y], [dy], [given, w]) as [Value, Value];
        let used = false;
        const target = cpuTarget({
          choose: (_, possible) => {
            used ||= possible.includes(way);
            return possible.includes(way) ? way : (possible[0] as Way);
          },
        });
        await compare({ y, dx, dw }, [given, w, bias, dy], target, way === "winograd" ? 3e-5 : 1e-5, seed);
        if (way === "im2col" && group === 1) expect(used).toBe(true);
      },
    );

  /** Channels that fill blocks, that share one, and of images; sizes and strides that meet the edges; chunks. */
  const blockedCases = [
    ...[3, 4, 8, 16, 32].flatMap((channels) =>
      [8, 16, 32].flatMap((filters) =>
        [1, 2].map((stride) => ({ x: [4, channels, 8, 12], filters, kernel: 3, stride, padding: 1 })),
      ),
    ),
    { x: [6, 16, 9, 7], filters: 16, kernel: 3, stride: 1, padding: 0 },
    { x: [6, 16, 9, 7], filters: 16, kernel: 3, stride: 2, padding: 1 },
    { x: [2, 16, 8, 8], filters: 32, kernel: 1, stride: 2, padding: 0 },
    { x: [4, 8, 8, 8], filters: 16, kernel: 1, stride: 2, padding: 0 },
    { x: [2, 16, 8, 8], filters: 16, kernel: 5, stride: 1, padding: 2 },
    { x: [3, 8, 8, 8], filters: 8, kernel: 3, stride: 1, padding: 1 },
    { x: [2, 64, 16, 16], filters: 128, kernel: 3, stride: 2, padding: 1 },
    { x: [2, 128, 8, 8], filters: 256, kernel: 3, stride: 2, padding: 1 },
    { x: [16, 16, 64, 64], filters: 32, kernel: 3, stride: 2, padding: 1 },
    { x: [32, 8, 64, 64], filters: 8, kernel: 3, stride: 1, padding: 1 },
    // The images of a chunk are input channels of the gradient to the filters: more than a block of them, and not whole blocks.
    { x: [24, 16, 8, 8], filters: 32, kernel: 3, stride: 1, padding: 1 },
    { x: [40, 32, 6, 6], filters: 16, kernel: 3, stride: 2, padding: 1 },
    { x: [48, 8, 8, 8], filters: 8, kernel: 3, stride: 1, padding: 1 },
    { x: [4, 16, 9, 10], filters: 32, kernel: 3, stride: 1, padding: 2, dilation: 2 },
    { x: [4, 16, 12, 12], filters: 16, kernel: 1, stride: 3, padding: 0 },
    // Stems whose stride makes channels of pixels: ImageNet's, others that fit into a block and one that does not, and sizes that don't.
    { x: [4, 3, 20, 16], filters: 16, kernel: 7, stride: 2, padding: 3 },
    { x: [40, 3, 12, 12], filters: 32, kernel: 7, stride: 2, padding: 3 },
    { x: [4, 3, 12, 12], filters: 16, kernel: 5, stride: 2, padding: 2 },
    { x: [4, 3, 12, 12], filters: 16, kernel: 2, stride: 2, padding: 0 },
    { x: [4, 3, 12, 12], filters: 16, kernel: 1, stride: 2, padding: 0 },
    { x: [4, 1, 12, 12], filters: 16, kernel: 3, stride: 3, padding: 0 },
    { x: [4, 3, 16, 16], filters: 16, kernel: 4, stride: 4, padding: 0 },
    { x: [4, 3, 13, 12], filters: 16, kernel: 7, stride: 2, padding: 3 },
    { x: [4, 3, 12, 12], filters: 8, kernel: 7, stride: 2, padding: 3 },
    { x: [4, 1, 12, 12], filters: 8, kernel: 3, stride: 2, padding: 1 },
  ].map((each) => ({ dilation: 1, ...each }));
  test.each(block === undefined ? [] : blockedCases)(
    "in blocks, $x to $filters by $kernel with stride $stride, dilation $dilation",
    async ({ x, filters, kernel, stride, padding, dilation }) => {
      const given = image("x", x);
      const w = image("w", [filters, x[1]!, kernel, kernel]);
      const bias = image("bias", [filters]);
      const [pads, strides, dilations] = [Array<number>(4).fill(padding), [stride, stride], [dilation, dilation]];
      const y = conv(given, w, bias, { pads, strides, dilations });
      const dy = image("dy", y.shape);
      const [dx, dw] = vjp([y], [dy], [given, w]) as [Value, Value];
      const target = cpuTarget({ block: block as number, limits: limitChannels.map(() => Number.POSITIVE_INFINITY) });
      await compare({ y, dx, dw }, [given, w, bias, dy], target, 3e-5, filters);
      const ops = nodesOf(Object.values(lower({ y, dx, dw }, target)), null).map(({ definition }) => definition);
      expect(ops.some(({ domain }) => domain === "com.microsoft.nchwc")).toBe(x[0]! % 2 === 0);

      // What another way brings, and a ReLU behind it, are the last of the convolution.
      const other = image("other", x);
      const joined = relu(add(dx, other));
      await compare({ joined }, [w, dy, other], target, 3e-5, filters);
      const names = nodesOf(Object.values(lower({ joined }, target)), null).map(({ definition }) => definition.name);
      const fused = x[0]! % 2 === 0 && x[1]! >= 4 && stride === 1;
      expect([names.includes("Add"), names.includes("Relu")]).toEqual([!fused, !fused]);

      // So they are of a pass forward alone.
      const shortcut = image("shortcut", y.shape);
      const ended = relu(add(y, shortcut));
      const ahead = cpuTarget({ block: block as number, limits: limitChannels.map(() => Infinity), onlyForward: true });
      await compare({ ended }, [given, w, bias, shortcut], ahead, 3e-5, filters);
      const left = nodesOf(Object.values(lower({ ended }, ahead)), null).map(({ definition }) => definition.name);
      if (x[0]! % 2 === 0 && stride === 1) expect(left.filter((name) => name === "Add" || name === "Relu")).toEqual([]);
    },
  );

  test.each(
    block === undefined
      ? []
      : ([
          [4, 16, 32, 8],
          [4, 4, 8, 8],
          [32, 16, 32, 64],
        ] as const),
  )(
    "gradients of one stride are added before they are joined, %i images of %i to %i channels, size %i",
    async (...given) => {
      const [n, channels, filters, side] = given as readonly [number, number, number, number];
      const x = image("x", [n, channels, side, side]);
      const [w, short] = [image("w", [filters, channels, 3, 3]), image("short", [filters, channels, 1, 1])];
      const [a, b] = [conv(x, w, { pads: [1, 1, 1, 1], strides: [2, 2] }), conv(x, short, { strides: [2, 2] })];
      const [da, db] = [image("da", a.shape), image("db", b.shape)];
      const target = cpuTarget({ block: block as number });
      for (const ways of [
        [a, b],
        [b, a],
      ]) {
        const [dx] = vjp(ways, ways[0] === a ? [da, db] : [db, da], [x]) as [Value];
        await compare({ dx }, [w, short, da, db], target, 3e-5, n);
        const names = nodesOf(Object.values(lower({ dx }, target)), null).map(({ definition }) => definition.name);
        // The 1×1 kernel reaches every fourth pixel; but for filters of images that share blocks nothing is filled with zeros.
        expect([names.includes("Add"), names.includes("Pad")]).toEqual([false, channels < (block as number)]);
      }
    },
  );

  (block === undefined ? test.skip : test)(
    "sums over images and pixels in blocks do not depend on threads",
    async () => {
      for (const [n, channels, filters, side] of [
        [16, 16, 16, 16],
        [64, 32, 32, 16],
        [40, 48, 16, 8],
        [8, 64, 32, 8],
      ] as const) {
        const [given, w] = [image("x", [n, channels, side, side]), image("w", [filters, channels, 3, 3])];
        const y = conv(given, w, absent, { pads: [1, 1, 1, 1] });
        const dy = image("dy", y.shape);
        const [dw] = vjp([y], [dy], [w]) as [Value];
        const random = randomNumbers(n);
        const feeds = { x: randomTensor(random, given.shape), dy: randomTensor(random, dy.shape) };
        const bytes: string[] = [];
        for (const threads of [1, 2, 3]) {
          const { data } = (await evaluate({ dw }, feeds, cpuTarget({ block: block as number }), { threads })).dw;
          bytes.push(Buffer.from((data as Float32Array).slice().buffer).toString("base64"));
        }
        expect(new Set(bytes).size).toBe(1);
      }
    },
  );

  const geometry = (side: number, stride: number) => {
    const out = Math.ceil(side / stride);
    return {
      input: [side, side],
      output: [out, out],
      kernel: [3, 3],
      pads: [1, 1],
      strides: [stride, stride],
      dilations: [1, 1],
    } as const;
  };

  test("Winograd takes 3×3 convolutions of many channels with stride 1, thin those of images", () => {
    const shape = { images: 2, inputChannels: 16, outputChannels: 16, geometry: geometry(8, 1) };
    expect(waysFor(shape)).toEqual(["winograd", "im2col"]);
    expect(waysFor({ ...shape, inputChannels: 3 })).toEqual(["thin", "im2col"]);
    expect(waysFor({ ...shape, geometry: geometry(8, 2) })).toEqual(["im2col"]);
  });

  test.each([
    [2, 1],
    [3, 1],
    [4, 1],
    [5, 4],
    [6, 4],
    [7, 4],
    [8, 4],
    [12, 9],
    [14, 16],
    [224, 56 * 56],
  ])("an image of side %i has %i of Winograd's tiles, by which it takes the least products", (side, tiles) => {
    expect(tilesOfImage([side, side])).toBe(tiles);
  });

  test("the cost table chooses the fastest way at the nearest shape", () => {
    for (const { op, inputChannels, outputChannels, side, rates } of costs) {
      const shape = { images: 16, inputChannels, outputChannels, geometry: geometry(side, 1) };
      const ways = waysFor(shape);
      const chosen = fastest(op, ways, shape);
      expect(rates[chosen]).toBe(Math.max(...Object.values(rates)));
      expect(fastest(op, ways, { ...shape, outputChannels: outputChannels + 1 })).toBe(chosen);
      expect(directly(op, ways, shape)).not.toBe("winograd");
    }
    const wide = { images: 8, inputChannels: 2048, outputChannels: 2048, geometry: geometry(8, 1) };
    expect(fastest("forward", waysFor(wide), wide)).toBe("winograd");
  });

  test("few tiles are not worth reading Winograd's filters for", () => {
    const shape = { inputChannels: 512, outputChannels: 512, geometry: geometry(8, 1) };
    for (const op of ["forward", "input", "weight"] as const) {
      expect(fastest(op, waysFor({ ...shape, images: 2 }), { ...shape, images: 2 })).toBe("im2col");
      expect(fastest(op, waysFor({ ...shape, images: 3 }), { ...shape, images: 3 })).toBe("winograd");
    }
  });
});

test("attacks run on the CPU target where most multiplications are in 3×3 convolutions with stride 1", () => {
  const x = image("x", [4, 16, 8, 8]);
  const narrow = conv(x, image("w", [16, 16, 3, 3]), { pads: [1, 1, 1, 1] });
  const strided = conv(narrow, image("v", [16, 16, 4, 4]), { pads: [1, 1, 1, 1], strides: [2, 2] });
  expect(cpuTargetFor([narrow]).name).toBe("cpu");
  expect(cpuTargetFor([strided]).name).toBe("cpu");
  expect(cpuTargetFor([conv(x, image("v", [16, 16, 4, 4]), { strides: [2, 2] })]).name).toBe("portable");
  expect(cpuTargetFor([relu(x)]).name).toBe("portable");
  if (block !== undefined) expect(cpuTargetFor([narrow], block).name).toBe("portable");
  expect(cpuTargetFor([conv(image("y", [2, 16, 8, 8]), image("w", [16, 16, 3, 3]), { pads: [1, 1, 1, 1] })]).name).toBe(
    "portable",
  );
});

test("a pass back in an attack's loop is one", () => {
  const [stem, second] = [image("stem", [16, 3, 3, 3]), image("second", [16, 16, 3, 3])];
  const pads = [1, 1, 1, 1];
  const classifier = (x: Value) =>
    reshape(globalAveragePool(conv(conv(x, stem, { pads }), second, { pads })), [x.dim(0), 16]);
  const size = { batch: 4, image: [3, 8, 8] } as const;
  const attack = pgdStep(classifier, size, { threat: linf(8 / 255), steps: 2, stepSize: 2 / 255 });
  expect(cpuTargetFor(Object.values(attack), 16).name).toBe("cpu");
  expect(cpuTargetFor(Object.values(logitsStep(classifier, size)), 16).name).toBe("portable");
});

/** Stems of any kernel, stride and padding, many of which lie in blocks by the pixels that their stride jumps over. */
const stems = (count: number) => {
  const random = randomNumbers(77);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  return Array.from({ length: count }, (_, i) => {
    const kernel = [pick([1, 2, 3, 4, 5]), pick([1, 2, 3, 5])] as const;
    const [top, left, bottom, right] = [0, 1, 0, 1].map((axis) => pick([0, 1, kernel[axis]! >> 1]));
    return {
      x: [pick([2, 4, 6, 16]), pick([1, 2, 3, 4, 5]), pick([6, 12, 13, 18]), pick([6, 12, 15, 18])],
      filters: pick([4, 8, 16, 32]),
      kernel,
      attributes: { pads: [top!, left!, bottom!, right!], strides: [pick([1, 2, 2, 3]), pick([1, 2, 2, 3])] },
      limit: i % 2 === 0 ? 0 : Number.POSITIVE_INFINITY,
    };
  });
};
test.each(block === undefined ? [] : stems(60))(
  "a stem from $x to $filters by $kernel, $attributes, values in blocks up to $limit",
  async ({ x, filters, kernel, attributes, limit }) => {
    const [given, w] = [image("x", x), image("w", [filters, x[1]!, ...kernel])];
    const y = conv(given, w, attributes);
    const dy = image("dy", y.shape);
    const [dx, dw] = vjp([y], [dy], [given, w]) as [Value, Value];
    const target = cpuTarget({ block: block as number, limits: limitChannels.map(() => limit) });
    await compare({ y, dx, dw }, [given, w, dy], target, 3e-5, filters);
  },
);

describe("max pooling's gradient", () => {
  const windows: readonly [x: readonly number[], attributes: Parameters<typeof maxPool>[1]][] = [
    [[4, 16, 12, 12], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }],
    [[3, 5, 9, 7], { kernel_shape: [2, 3], strides: [1, 2], pads: [0, 1, 1, 1] }],
    [[2, 8, 11, 10], { kernel_shape: [3, 2], strides: [2, 3], dilations: [2, 1] }],
  ];
  test.each(windows.flatMap((each) => cpuTargets.map((target) => [target.name, ...each, target] as const)))(
    "of %s, %j under %j: the first of equal pixels takes it",
    async (_, shape, attributes, target) => {
      const x = image("x", shape);
      const y = maxPool(x, attributes);
      const dy = image("dy", y.shape);
      const outputs = { y, dx: vjp([y], [dy], [x])[0] as Value };
      const random = randomNumbers(4);
      const few = filledWith(
        "float32",
        shape,
        Array.from({ length: x.size }, () => Math.floor(3 * random())),
      );
      const feeds = { x: few, dy: randomTensor(random, y.shape) };
      const [ours, theirs] = [await evaluate(outputs, feeds, target), await evaluate(outputs, feeds)];
      expect(ours.y.data).toEqual(theirs.y.data);
      expect(relativeError(ours.dx.data as Float32Array, theirs.dx.data as Float32Array)).toBeLessThan(1e-6);
      expect(nodesOf(Object.values(lower(outputs, target)), null).map(({ definition }) => definition.name)).toContain(
        "ScatterElements",
      );
    },
  );
});

describe("max pooling in blocks", () => {
  const windows: readonly Parameters<typeof maxPool>[1][] = [
    { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
    { kernel_shape: [2, 2], strides: [2, 2] },
    { kernel_shape: [3, 2], strides: [2, 2], pads: [1, 0, 0, 0] },
  ];
  const sizes = [
    [8, 16, 12, 10],
    [8, 4, 8, 8],
    [16, 32, 24, 20],
  ];
  const cases = windows.flatMap((window) => sizes.map((shape) => [window, shape] as const));
  test.each(cases)(
    "%j of %j: the first of equal pixels takes it, and no op brings rows back",
    async (window, shape) => {
      if (block === undefined) return;
      const channels = shape[1]!;
      const [x, w] = [image("x", shape), image("w", [channels, channels, 1, 1])];
      const seen = conv(x, w, {});
      const y = maxPool(seen, window);
      const dy = image("dy", y.shape);
      const outputs = { y, dx: vjp([y], [dy], [seen])[0] as Value };
      const random = randomNumbers(5);
      const whole = (type: Type, draw: () => number) =>
        filledWith("float32", type.shape, Array.from({ length: sizeOf(type.shape) }, draw));
      const feeds = {
        // Whole numbers, and a filter that leaves them so: equal pixels, zeros and negative ones are many.
        x: whole(x, () => Math.floor(5 * random()) - 3),
        w: whole(
          w,
          (
            (i) => () =>
              Number(i % channels === Math.floor(i++ / channels))
          )(0),
        ),
        dy: whole(dy, () => Math.floor(9 * random()) - 4),
      };
      const target = cpuTarget({ name: "blocks", block });
      const [ours, theirs] = [await evaluate(outputs, feeds, target), await evaluate(outputs, feeds)];
      for (const name of ["y", "dx"] as const) {
        const expected = theirs[name].data as Float32Array;
        // 0 and -0 are equal.
        expect((ours[name].data as Float32Array).filter((value, i) => value !== expected[i])).toHaveLength(0);
      }
      expect(
        nodesOf(Object.values(lower(outputs, target)), null).map(({ definition }) => definition.name),
      ).not.toContain("ScatterElements");
    },
  );
});

describe("a strided stem", () => {
  const stems: readonly [images: number, channels: number, size: number][] = [
    [4, 16, 32],
    [2, 8, 16],
    [3, 64, 48],
    [12, 64, 96],
  ];
  test.each(stems)(
    "of %i images to %i channels, size %i: batch norm, ReLU and max pooling behind it",
    async (images, channels, size) => {
      const [x, w] = [image("x", [images, 3, size, size]), image("w", [channels, 3, 7, 7])];
      const [scale, bias] = [image("scale", [1, channels]), image("bias", [1, channels])];
      const seen = conv(x, w, { strides: [2, 2], pads: [3, 3, 3, 3] });
      const [normal] = batchNormTraining.outputs(seen, scale, bias, { branches: 1, epsilon: 1e-5 }) as [Value];
      const positive = relu(normal);
      const y = maxPool(positive, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
      const dy = image("dy", y.shape);
      const [dx, dw, dScale, dBias, between] = vjp([y], [dy], [x, w, scale, bias, normal]) as Value[];
      const outputs = { y, dx: dx!, dw: dw!, dScale: dScale!, dBias: dBias!, between: between! };
      for (const target of cpuTargets) await compare(outputs, [x, w, scale, bias, dy], target, 5e-5, size);
    },
  );
});

describe("batch norm", () => {
  test.each([
    [1, 1, 8, 4],
    [2, 3, 8, 5],
    [3, 7, 12, 6],
    [5, 2, 16, 8],
    [3, 3, 8, 96],
  ])("%i branches of %i images, %i channels, size %i", async (branches, each, channels, size) => {
    const x = image("x", [branches * each, 4, size, size]);
    const w = image("w", [channels, 4, 3, 3]);
    const [scale, bias] = [image("scale", [branches, channels]), image("bias", [branches, channels])];
    const convolved = conv(x, w, { pads: [1, 1, 1, 1] });
    const outputs = batchNormTraining.outputs(convolved, scale, bias, { branches, epsilon: 1e-5 });
    const [y, mean, variance] = outputs as [Value, Value, Value];
    const dy = image("dy", y.shape);
    const [dx, dScale, dBias] = vjp([y], [dy], [convolved, scale, bias]) as [Value, Value, Value];
    const results = { y, mean, variance, dx, dScale, dBias };
    for (const target of cpuTargets) await compare(results, [x, w, scale, bias, dy], target, 5e-5, branches);
  });
});

test.each(cpuTargets)(
  "sums of batch norm are computed chunk by chunk, not one sum of all chunks after the other: $name",
  (target) => {
    const [x, w] = [image("x", [32, 4, 64, 64]), image("w", [16, 4, 3, 3])];
    const [scale, bias] = [image("scale", [1, 16]), image("bias", [1, 16])];
    const y = batchNormTraining(conv(x, w, { pads: [1, 1, 1, 1] }), scale, bias, { branches: 1, epsilon: 1e-5 });
    const nodes = scheduled(Object.values(lower({ y }, target)), null);
    const sums = nodes.find(({ definition, inputs }) => definition.name === "Concat" && inputs.length === 16);
    // ONNX Runtime goes back from the last input: two by two, they are a chunk's mean and its squares.
    const places = (sums as Node).inputs.map((sum) => nodes.indexOf(sum.node));
    expect(places).toEqual([...places].sort((a, b) => a - b));
  },
);

test.each(cpuTargets)(
  "batch norm with given statistics, and its gradients, stay in the layout: $name",
  async (target) => {
    const [x, w] = [image("x", [5, 4, 8, 8]), image("w", [16, 4, 3, 3])];
    const [scale, bias, mean] = ["scale", "bias", "mean"].map((name) => image(name, [16])) as [Value, Value, Value];
    const variance = add(abs(image("variance", [16])), 0.5);
    const y = relu(batchNormalization(conv(x, w, { pads: [1, 1, 1, 1] }), scale, bias, mean, variance, {}));
    const dy = image("dy", y.shape);
    const [dx] = vjp([y], [dy], [x]) as [Value];
    const inputs = [x, w, scale, bias, mean, variance.node.inputs[0]!.node.inputs[0]!, dy];
    await compare({ y, dx }, inputs, target, 5e-5, 1);
    // Images and dy come in, y and dx go out: no other value changes its layout.
    const lowered = lower({ y, dx }, target);
    const moving = nodesOf(Object.values(lowered), null).filter(({ definition: { name } }) =>
      ["Transpose", "ReorderInput", "ReorderOutput"].includes(name),
    );
    expect(moving.length).toBeLessThanOrEqual(5);
  },
);

test.each([
  [1, 3],
  [2, 5],
  [3, 2],
])("a residual block and all its gradients, %i branches of %i images", async (branches, each) => {
  const x = image("x", [branches * each, 3, 16, 16]);
  const inputs: Value[] = [x];
  const weight = (name: string, shape: readonly number[]) => {
    inputs.push(image(name, shape));
    return inputs.at(-1) as Value;
  };
  const norm = (name: string, v: Value) =>
    batchNormTraining(v, weight(`${name}.scale`, [branches, v.dim(1)]), weight(`${name}.bias`, [branches, v.dim(1)]), {
      branches,
      epsilon: 1e-5,
    });
  const pads = [1, 1, 1, 1];
  const stem = relu(norm("bn0", conv(x, weight("w0", [16, 3, 3, 3]), { pads })));
  const a = relu(norm("bn1", conv(stem, weight("w1", [32, 16, 3, 3]), { pads, strides: [2, 2] })));
  const b = norm("bn2", conv(a, weight("w2", [32, 32, 3, 3]), { pads }));
  const short = norm("bn3", conv(stem, weight("w3", [32, 16, 1, 1]), { strides: [2, 2] }));
  const y = reduceMean(relu(add(b, short)), { axes: [2, 3], keepdims: 0 });
  const dy = image("dy", y.shape);
  const free = [...inputs];
  const gradients = vjp([y], [dy], free) as Value[];
  const results = { y, ...Object.fromEntries(gradients.map((g, i) => [`d ${free[i]?.node.attributes.name}`, g])) };
  for (const target of cpuTargets) await compare(results, [...inputs, dy], target, 2e-3, branches);
});
