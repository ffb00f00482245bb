/** A run of a session that is bound to nothing: inputs lie where the caller has them, results in new tensors. */
import type { Type } from "../../../graphs/onnx/graph.ts";
import { type Tensor, zeros } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { RunError } from "../../errors.ts";
import type { Feeds } from "../session-contract.ts";
import type { Handle, OrtApi } from "./api.ts";
import type { NativeSession } from "./session.ts";
import { type SlotType, tensorOfValue, valueOfTensor } from "./values.ts";

/** Names as the C API takes them: an array of pointers, and what they point to. */
const namesOf = (api: OrtApi, names: readonly string[]): { pointers: BigUint64Array; kept: readonly Uint8Array[] } => {
  const kept = names.map((name) => new TextEncoder().encode(`${name}\0`));
  return { pointers: BigUint64Array.from(kept, (bytes) => api.koffi.address(bytes)), kept };
};

/**
 * A tensor for the engine to write an output into, where this project wrote the model and the engine says the same of its type;
 * null lets the engine make its own, which is then copied.
 */
const placeFor = (type: Type | undefined, slot: SlotType | undefined): Tensor | null =>
  type !== undefined && type.dtype === slot?.dtype && type.shape.join() === slot.shape.join()
    ? zeros(type.dtype, type.shape)
    : null;

/** Runs a session in the caller's turn, and fetches all outputs or those that are named. */
export const runOnce = async (
  session: NativeSession,
  model: Model | undefined,
  feeds: Feeds,
  fetches: readonly string[] = session.outputNames,
): Promise<Record<string, Tensor>> => {
  const { api, inputNames, outputs } = session;
  for (const name of fetches) if (!outputs.has(name)) throw new RunError(`internal: the model has no output ${name}`);
  const values: Handle[] = [];
  const over = (name: string, tensor: Tensor): bigint => {
    const value = valueOfTensor(api, name, tensor);
    values.push(value);
    return value.address;
  };
  const results = new BigUint64Array(fetches.length);
  const places = fetches.map((name) => placeFor(model?.outputs[name], outputs.get(name)));
  const names = [inputNames, fetches].map((list) => namesOf(api, list));
  try {
    const given = BigUint64Array.from(inputNames, (name) => over(name, session.checked(name, feeds[name])));
    places.forEach((place, i) => {
      if (place !== null) results[i] = over(fetches[i]!, place);
    });
    const [from, to] = names.map(({ pointers }) => pointers) as [BigUint64Array, BigUint64Array];
    await session.invoke("Run", session.address, null, from, given, given.length, to, fetches.length, results);
    return Object.fromEntries(fetches.map((name, i) => [name, places[i] ?? tensorOfValue(api, name, results[i]!)]));
  } catch (error) {
    throw session.explain(error);
  } finally {
    // Named here, the names' memory lives until the run has ended.
    names.length = 0;
    for (const value of values) value.release();
    results.forEach((value, i) => {
      if (places[i] === null && value !== 0n) api.call("ReleaseValue", value);
    });
  }
};
