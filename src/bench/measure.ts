/** What benchmarks share: batches that look like images, clocks and medians. */

import { readFile } from "node:fs/promises";
import type { Value } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { feedName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { random } from "../data/random.ts";
import type { Engine } from "../engine/engine.ts";
import { initialState } from "../train/initialize.ts";

/** Something for every input of a step: smooth images, noise in [-8/255, 8/255], labels, a learning rate. */
export const benchFeeds = (step: Step, seed: number): Record<string, Tensor> => {
  const feeds: Record<string, Tensor> = Object.fromEntries(initialState(step, seed));
  for (const [name, { dtype, shape }] of step.store.inputs) {
    const numbers = random(seed, 0, 0, `bench.${name}`);
    const size = shape.reduce((a, b) => a * b, 1);
    if (name === "lr") feeds[feedName(name)] = float32(shape, new Float32Array(size).fill(0.01));
    else if (dtype === "int32") {
      const classes = Number(/\d+/.exec(name)?.[0] ?? 2);
      feeds[feedName(name)] = tensor(
        "int32",
        shape,
        Int32Array.from({ length: size }, () => numbers.int(classes)),
      );
    } else {
      const data = new Float32Array(size);
      const noise = name.startsWith("start");
      numbers.fillUniform(data, noise ? -8 / 255 : 0, noise ? 8 / 255 : 1);
      if (!noise) smooth(data, shape.at(-1) ?? 1);
      feeds[feedName(name)] = tensor("float32", shape, data);
    }
  }
  return feeds;
};

/** Blocks of four pixels get one colour: neighbours in images are alike. */
const smooth = (data: Float32Array, width: number): void => {
  for (let i = 0; i < data.length; i++) {
    const [row, column] = [Math.floor(i / width), i % width];
    data[i] = data[(row - (row % 4)) * width + (column - (column % 4))]!;
  }
};

/** Largest resident memory of this process so far, bytes: the kernel's own mark. */
export const peakMemory = async (): Promise<number> => {
  try {
    const status = await readFile("/proc/self/status", "utf8");
    return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
};

/**
 * GFLOP/s of a square MatMul on this engine, the best of five: what convolutions are measured against. CUDA's is large, and
 * neither its operands nor its result cross the bus.
 */
export const gemmPeak = async (engine: Engine): Promise<{ readonly side: number; readonly gflops: number }> => {
  const { Store } = await import("../../graphs/nn/scope.ts");
  const { expand, matMul, slice } = await import("../../graphs/ops/index.ts");
  const filled = engine.provider === "cuda";
  const side = filled ? 8192 : 1536;
  const store = new Store();
  const shape = filled ? [] : [side, side];
  const [a, b] = ["a", "b"].map((name) => store.input(name, { dtype: "float32", shape })) as [Value, Value];
  const product = filled ? matMul(expand(a, [side, side]), expand(b, [side, side])) : matMul(a, b);
  const c = filled ? slice(product, [{ axis: 0, start: 0, end: 1 }]) : product;
  const { session } = await engine.load({ store, outputs: { c } });
  const data = new Float32Array(shape.reduce((m, n) => m * n, 1)).fill(0.5);
  const feeds = { "input.a": tensor("float32", shape, data), "input.b": tensor("float32", shape, data) };
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 6; i++) {
    const start = performance.now();
    await session.run(feeds);
    if (i > 0) best = Math.min(best, performance.now() - start);
  }
  await session.release();
  return { side, gflops: (2 * side ** 3) / (best * 1e6) };
};
