/**
 * The block of channels in which this processor's direct convolutions work, found by what its reorder of images does, where the engine
 * takes such convolutions as the gradients to filters are: onnxruntime 1.32 refuses groups of images as channels.
 */
import { input, type Value } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { reshape } from "../../graphs/ops/index.ts";
import { toBlocked } from "../../graphs/targets/cpu/blocked/nchwc.ts";
import { placesGradWeight } from "../../graphs/targets/cpu/blocked/weight-gradient.ts";
import { createSession } from "./session.ts";

const CHANNELS = 16;

/** The first result of a small program on one thread; undefined where the engine has no such ops. */
const tried = async (y: Value, feeds: Record<string, Tensor>): Promise<readonly number[] | undefined> => {
  try {
    const session = await createSession(buildModel({ y: reshape(y, [-1]) }), { threads: 1 });
    try {
      const { y } = await session.run(feeds);
      return y === undefined ? undefined : [...(y.data as Float32Array)];
    } finally {
      await session.release();
    }
  } catch {
    return undefined;
  }
};

const reorderedBlock = async (): Promise<number | undefined> => {
  const shape = [1, CHANNELS, 1, 2];
  const numbers = Float32Array.from({ length: 2 * CHANNELS }, (_, i) => i);
  const y = await tried(toBlocked(input("x", { dtype: "float32", shape })), { x: float32(shape, numbers) });
  // Number 1 is the second pixel of the first channel: it comes after the first block of the first pixel.
  const at = y?.indexOf(1) ?? -1;
  return at > 1 ? at : undefined;
};

/** Whether the gradient to filters of two images of ones is what it is: at the kernel's centre all pixels of both, at a corner one of each. */
const takesImagesAsChannels = async (block: number): Promise<boolean> => {
  const shape = [2, block, 2, 2];
  const [x, dy] = ["x", "dy"].map((name) => input(name, { dtype: "float32", shape })) as [Value, Value];
  const size = [2, 2] as const;
  const geometry = {
    input: size,
    output: size,
    kernel: [3, 3],
    pads: [1, 1],
    strides: [1, 1],
    dilations: [1, 1],
  } as const;
  const ones = float32(shape, new Float32Array(8 * block).fill(1));
  const dw = await tried(placesGradWeight([x], [dy], block, block, geometry), { x: ones, dy: ones });
  return dw?.[0] === 2 && dw[4] === 8;
};

const find = async (): Promise<number | undefined> => {
  const block = await reorderedBlock();
  return block !== undefined && (await takesImagesAsChannels(block)) ? block : undefined;
};

let found: Promise<number | undefined> | undefined;
/** Channels of a block; undefined where the engine has no such convolutions. */
export const blockSize = (): Promise<number | undefined> => {
  found ??= find();
  return found;
};
