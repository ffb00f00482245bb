/** Names of kernels in files: ONNX Runtime wants one name for one list of types, `pgdStep.float32x3.float32`. */
import type { DType } from "../onnx/dtype.ts";
import type { Type } from "../onnx/graph.ts";

/** The name of a kernel over these types. */
export const typedName = (name: string, inputs: readonly Type[], outputs: readonly Type[]): string =>
  [name, ...[inputs, outputs].map(runs)].join(".");

const runs = (types: readonly Type[]): string => {
  const counted: { dtype: DType; count: number }[] = [];
  for (const { dtype } of types) {
    const last = counted.at(-1);
    if (last?.dtype === dtype) last.count += 1;
    else counted.push({ dtype, count: 1 });
  }
  return counted.map(({ dtype, count }) => (count === 1 ? dtype : `${dtype}x${count}`)).join("_");
};
