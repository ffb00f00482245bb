/** Batch sizes that a file may have fixed in a Reshape though it declares its batch as open. */
import type { FileModel } from "../../graphs/onnx/parse.ts";

/** The largest batch that is looked for in the shapes of a file. */
const MOST = 4096;
/** Sizes that are tried at most. */
const TRIED = 8;

/** Sizes to try in order, 1 first: the first numbers of constant shapes. */
export const bakedSizes = ({ nodes, initializers }: Pick<FileModel, "nodes" | "initializers">): number[] => {
  const sizes = new Set([1]);
  const add = (first: number | bigint | undefined): void => {
    const size = Number(first ?? 0);
    if (size > 0 && size <= MOST) sizes.add(size);
  };
  for (const { op, inputs } of nodes) if (op === "Reshape") add(initializers.get(inputs[1] ?? "")?.data[0]);
  for (const { op, attributes } of nodes) {
    const value = op === "Constant" ? attributes.get("value") : undefined;
    if (value?.kind !== "tensor" || value.value.dtype !== "int64" || value.value.shape.length !== 1) continue;
    add(value.value.data[0]);
  }
  return [...sizes].slice(0, TRIED);
};
