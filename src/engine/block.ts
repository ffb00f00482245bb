/** The block of channels in which this processor's direct convolutions work, found by what its reorder of images does. */
import { input } from "../../graphs/onnx/graph.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { reshape } from "../../graphs/ops/index.ts";
import { toBlocked } from "../../graphs/targets/cpu/blocked/nchwc.ts";
import { createSession } from "./session.ts";

const CHANNELS = 16;

const find = async (): Promise<number | undefined> => {
  const x = input("x", { dtype: "float32", shape: [1, CHANNELS, 1, 2] });
  try {
    const session = await createSession(buildModel({ y: reshape(toBlocked(x), [-1]) }), { threads: 1 });
    try {
      const numbers = Float32Array.from({ length: 2 * CHANNELS }, (_, i) => i);
      const { y } = await session.run({ x: float32([1, CHANNELS, 1, 2], numbers) });
      // Number 1 is the second pixel of the first channel: it comes after the first block of the first pixel.
      const at = y === undefined ? -1 : [...(y.data as Float32Array)].indexOf(1);
      return at > 1 ? at : undefined;
    } finally {
      await session.release();
    }
  } catch {
    // An engine built without these convolutions knows no such op, and does without.
    return undefined;
  }
};

let found: Promise<number | undefined> | undefined;
/** Channels of a block; undefined where the engine has no such convolutions. */
export const blockSize = (): Promise<number | undefined> => {
  found ??= find();
  return found;
};
