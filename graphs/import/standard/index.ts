/**
 * A model file as the rest of the program reads it: whole in itself, of standard ops, its weights plain initializers. Bytes that
 * are so already stay as they are.
 */
import { GraphError } from "../../onnx/error.ts";
import { checkWire } from "../../onnx/scan.ts";
import { widenBfloat16 } from "./bfloat16.ts";
import { hoistConstants } from "./constants.ts";
import { type ReadExternal, takeIn } from "./external.ts";
import { inlineFunctions } from "./functions.ts";
import { type ModelProto, onnx, type Rewrite } from "./protos.ts";

export type { ReadExternal } from "./external.ts";

export interface StandardFile {
  readonly bytes: Uint8Array;
  /** What a user should know of the changes, each to follow the file's name. */
  readonly notes: readonly string[];
}

/**
 * @param read gives the data that lies in other files
 * @throws GraphError (malformed) where the bytes are no sound model, (unsupported) where it asks for too much
 */
export const standardFile = (bytes: Uint8Array, read: ReadExternal): StandardFile => {
  checkWire(bytes);
  let model: ModelProto;
  try {
    model = onnx.ModelProto.decode(bytes);
  } catch (error) {
    throw new GraphError("malformed", "this is not an ONNX model: its messages are damaged", { path: String(error) });
  }
  const rewrites: Rewrite[] = [
    takeIn(model, read),
    widenBfloat16(model),
    inlineFunctions(model),
    hoistConstants(model),
  ];
  const changed = rewrites.some((rewrite) => rewrite.changed);
  const notes = rewrites.flatMap((rewrite) => rewrite.notes);
  return { bytes: changed ? onnx.ModelProto.encode(model).finish() : bytes, notes };
};
