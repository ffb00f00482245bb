import { dtypes } from "../../graphs/onnx/dtype.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";

/** Bytes from which on a value is worth memory of its own; smaller ones are part of the message. */
const LARGE = 4096;

/** Puts a value of a name where those before it lay. */
export type Handover = (name: string, value: Tensor) => Tensor;

/**
 * Memory in which values pass from one thread to another, the same for a name as long as they are as large: copies of every batch that
 * is asked are gigabytes of garbage, whose collection holds up both threads.
 */
export const handover = (): Handover => {
  const known = new Map<string, Tensor["data"]>();
  return (name, { dtype, shape, data }) => {
    if (data.byteLength < LARGE) return { dtype, shape, data };
    const { array } = dtypes[dtype];
    const before = known.get(name);
    const same = before instanceof array && before.length === data.length;
    const own = same ? before : new array(new SharedArrayBuffer(data.byteLength));
    known.set(name, own);
    (own as Float32Array).set(data as Float32Array);
    return { dtype, shape, data: own };
  };
};

/** The same for all values of a run. */
export const handedOver = (over: Handover, values: Readonly<Record<string, Tensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, over(name, value)]));
