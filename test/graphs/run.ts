/** What graph tests share: running values on ONNX Runtime and drawing inputs. */
import { type DType, dtypes } from "../../graphs/onnx/dtype.ts";
import { inputName, isInput, ordered, type Value } from "../../graphs/onnx/graph.ts";
import { sizeOf, type Tensor } from "../../graphs/onnx/tensor.ts";
import type { OpDefinition } from "../../graphs/ops/index.ts";
import { add, batchNormTraining, reciprocal, reshape, sqrt } from "../../graphs/ops/index.ts";
import { compile } from "../../graphs/steps/step.ts";
import { cudnnTraining } from "../../graphs/targets/cuda/batch-norm.ts";
import { type Lowering, lower, type Target } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { createSession, type Feeds, type SessionOptions } from "../../src/engine/session.ts";
import { rewritingOf } from "../../src/engine/targets.ts";

/** Lowers values for a target, runs them on the CPU and returns them under their names. */
export const evaluate = async <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  feeds: Feeds,
  target: Target = portable,
  options: SessionOptions = { threads: 1 },
): Promise<Record<K, Tensor>> => {
  const session = await createSession(compile({ outputs }, target), { ...rewritingOf(target, "cpu"), ...options });
  try {
    const used = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]!]));
    return (await session.run(used)) as Record<K, Tensor>;
  } finally {
    await session.release();
  }
};

/** What CUDA's provider computes for the form of BatchNormalization with five outputs, in ops that the CPU computes. */
const training: Lowering = ({ inputs, attributes }) => {
  const [x, scale, bias] = inputs.map(({ plain }) => plain) as [Value, Value, Value];
  const row = (v: Value) => reshape(v, [1, -1]);
  const flat = (v: Value) => reshape(v, [-1]);
  const norm = { branches: 1, epsilon: attributes.epsilon as number };
  const lowered = batchNormTraining.definition.lower?.([x, row(scale), row(bias)], norm, [x, row(scale), row(scale)]);
  const [y, mean, variance] = lowered as [Value, Value, Value];
  const invStd = reciprocal(sqrt(add(flat(variance), norm.epsilon)));
  return [y, flat(mean), flat(variance), flat(mean), invStd];
};
const onlyOnCuda = { ...portable, lowerings: new Map([[cudnnTraining as OpDefinition, training]]) };

/** Values as a CUDA target lowers them, in ops that the CPU computes too. */
export const loweredForCuda = <K extends string>(
  outputs: Readonly<Record<K, Value>>,
  target: Target,
): Record<K, Value> => lower(lower(outputs, target), onlyOnCuda);

/** A small generator with a fixed seed (mulberry32): numbers in [0, 1). */
export const randomNumbers = (seed: number) => {
  let state = seed >>> 0;
  return (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
};

export const randomTensor = (
  random: () => number,
  shape: readonly number[],
  low = -1,
  high = 1,
  dtype: DType = "float32",
): Tensor => {
  const values = Array.from({ length: sizeOf(shape) }, () => low + (high - low) * random());
  return filledWith(dtype, shape, values);
};

export const filledWith = (dtype: DType, shape: readonly number[], values: readonly number[]): Tensor => {
  const data = new dtypes[dtype].array(values.length);
  values.forEach((v, i) => {
    data[i] = data instanceof BigInt64Array || data instanceof BigUint64Array ? BigInt(v) : v;
  });
  return { dtype, shape, data };
};

export const inputsOf = (outputs: readonly Value[]): string[] =>
  ordered(outputs, () => true)
    .filter((node) => isInput(node.outputs[0]!))
    .map((node) => inputName(node.outputs[0]!));

/** ‖a - b‖ / ‖b‖. */
export const relativeError = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / Math.max(norm, 1e-24));
};
