/** The logits of a classifier from elsewhere. */
import type { Value } from "../onnx/graph.ts";
import type { FileModel } from "../onnx/parse.ts";
import { type ReadModel, type ReadOptions, readModel } from "./read.ts";

/**
 * Reads the first output that is a row of numbers an image, float32[batch,classes]; undefined where none is. What only later
 * outputs need is not read, so it may be anything.
 * @throws GraphError as readModel does
 */
export const readLogits = (
  file: FileModel,
  options: ReadOptions & { readonly batch: number },
): (ReadModel & { readonly logits: Value }) | undefined => {
  for (const output of file.outputs) {
    const model = readModel(file, { ...options, outputs: [output] });
    const logits = model.outputs[output]!;
    if (logits.dtype === "float32" && logits.rank === 2 && logits.dim(0) === options.batch) return { ...model, logits };
  }
  return undefined;
};
