/**
 * Times where values lie best on this processor, in blocks or by pixels: a residual block (He et al. 2016) with batch norm under two
 * steps of an attack, then all its gradients, for images and channels as stages of networks have them.
 */

import { vjp } from "../../../graphs/autodiff/grad.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../../graphs/onnx/tensor.ts";
import { add, batchNormTraining, conv, relu, reshape, slice, stopGradient } from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import { type Limits, limitChannels, usualLimits } from "../../../graphs/targets/cpu/placing.ts";
import type { Target } from "../../../graphs/targets/lower.ts";
import { median } from "../median.ts";
import { createSession, type SessionOptions } from "../session.ts";

/** What was timed at one size. */
export interface LayoutRow {
  readonly channels: number;
  /** Side of the square images. */
  readonly side: number;
  readonly images: number;
  /** Milliseconds, medians of some runs in turn. */
  readonly blocks: number;
  readonly pixels: number;
  /** Median over these turns of the time in blocks over that by pixels. */
  readonly ratio: number;
}

export interface LayoutTimes {
  readonly rows: readonly LayoutRow[];
  readonly limits: Limits;
}

/** Sides that are timed for each of `limitChannels`: the next one only where blocks win at those before it. */
const sides: readonly (readonly number[])[] = [
  [32, 64],
  [16, 32, 64],
  [8, 16, 32, 48],
  [4, 8, 16, 24],
  [4, 8, 16],
];

/** What is faster by less is not told from noise, and changes nothing: the usual limits hold there. */
const DOUBT = 1.1;
/** Turns that are timed, after one that is not. */
const TURNS = 9;
/** Elements of a value at least, and images: no layout of a few is worth a choice. */
const ELEMENTS = 2 ** 18;
const IMAGES = 8;
/** Steps of the attack, which share what is made of the filters. */
const ATTACK_STEPS = 2;
/** Milliseconds after which nothing more is timed. */
const BUDGET = 18_000;

const float = (name: string, shape: readonly number[]): Value => input(name, { dtype: "float32", shape });

/** Of a result that is timed one element, so that nothing but the work is. */
export const firstElement = (value: Value): Value => slice(reshape(value, [-1]), [{ axis: 0, start: 0, end: 1 }]);

/** One element of each gradient. */
const gradients = (channels: number, side: number, images: number): Record<string, Value> => {
  const filters = [0, 1].map((i) => float(`w${i}`, [channels, channels, 3, 3]));
  const [scale, bias] = [float("scale", [1, channels]), float("bias", [1, channels])];
  const normalized = (value: Value, filter: Value) =>
    batchNormTraining(conv(value, filter, { pads: [1, 1, 1, 1] }), scale, bias, { branches: 1, epsilon: 1e-5 });
  const block = (value: Value): Value => {
    const [first, second] = filters as [Value, Value];
    return relu(add(normalized(relu(normalized(value, first)), second), value));
  };
  let x = float("x", [images, channels, side, side]);
  for (let step = 0; step < ATTACK_STEPS; step++) {
    const y = block(x);
    x = stopGradient(add(x, vjp([y], [y], [x])[0] as Value));
  }
  const y = block(x);
  const found = vjp([y], [y], [x, ...filters, scale, bias]) as Value[];
  return Object.fromEntries(found.map((value, i) => [`d${i}`, firstElement(value)]));
};

/** Numbers in [-0.5, 0.5) for what is timed, the same each time. */
export const someNumbers = (shape: readonly number[]): Tensor => {
  const length = shape.reduce((a, b) => a * b, 1);
  return float32(
    shape,
    Float32Array.from({ length }, (_, i) => ((i * 7919) % 257) / 257 - 0.5),
  );
};

const load = async (outputs: Record<string, Value>, target: Target, options: SessionOptions) => {
  const model = compile({ outputs }, target);
  const session = await createSession(model, { ...options, optimization: "disabled" });
  const feeds = Object.fromEntries(Object.entries(model.inputs).map(([name, { shape }]) => [name, someNumbers(shape)]));
  const run = async (): Promise<number> => {
    const start = performance.now();
    await session.run(feeds);
    return performance.now() - start;
  };
  return { run, release: () => session.release() };
};

/** Times one size on a processor with such blocks. */
const timeAt = async (
  block: number,
  [channels, side]: readonly [number, number],
  options: SessionOptions,
): Promise<LayoutRow> => {
  const images = IMAGES * Math.max(1, 2 ** Math.round(Math.log2(ELEMENTS / (IMAGES * channels * side * side))));
  const outputs = gradients(channels, side, images);
  const all = limitChannels.map(() => Number.POSITIVE_INFINITY);
  const [blocks, pixels] = await Promise.all(
    [cpuTarget({ block, limits: all }), cpuTarget()].map((target) => load(outputs, target, options)),
  );
  const turns: (readonly [number, number])[] = [];
  for (let turn = 0; turn <= TURNS; turn++) turns.push([await blocks!.run(), await pixels!.run()]);
  await Promise.all([blocks!.release(), pixels!.release()]);
  const timed = turns.slice(1);
  return {
    ...{ channels, side, images },
    blocks: median(timed.map(([inBlocks]) => inBlocks)),
    pixels: median(timed.map(([, byPixels]) => byPixels)),
    ratio: median(timed.map(([inBlocks, byPixels]) => inBlocks / byPixels)),
  };
};

/** Whether blocks are taken at one size, where they usually are up to a side of `usual`: the faster layout where it clearly is, else the usual one. */
const takesBlocks = (usual: number, { side, ratio }: LayoutRow): boolean =>
  side <= usual ? ratio <= DOUBT : ratio * DOUBT < 1;

/** The limits that some times say; where nothing was timed for so many channels, the usual one. */
export const limitsOf = (rows: readonly LayoutRow[]): Limits =>
  limitChannels.map((channels, i) => {
    const own = rows.filter((row) => row.channels === channels);
    if (own.length === 0) return usualLimits[i]!;
    const won = own.filter((row) => takesBlocks(usualLimits[i]!, row));
    if (won.length === sides[i]!.length) return Number.POSITIVE_INFINITY;
    return Math.max(0, ...won.map(({ side }) => side));
  });

/** Times what this processor, with blocks of so many channels, does best; at most about 20 s. */
export const timeLayouts = async (
  block: number,
  options: SessionOptions,
  each: (row: LayoutRow) => void = () => {},
): Promise<LayoutTimes> => {
  const rows: LayoutRow[] = [];
  const start = performance.now();
  for (const [i, channels] of limitChannels.entries())
    for (const side of sides[i]!) {
      if (performance.now() - start > BUDGET) break;
      const row = await timeAt(block, [channels, side], options);
      rows.push(row);
      each(row);
      if (!takesBlocks(usualLimits[i]!, row)) break;
    }
  return { rows, limits: limitsOf(rows) };
};
