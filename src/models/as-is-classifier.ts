/** A classifier's file run as it is, where it computes otherwise than what is read of it. */
import { fromFloat16 } from "../../graphs/onnx/float16.ts";
import { type Tensor, typeName } from "../../graphs/onnx/tensor.ts";
import type { SessionOptions } from "../engine/session.ts";
import { RequestError } from "../errors.ts";
import { openAsIs } from "./as-is.ts";
import type { ModelFile } from "./file.ts";
import type { ImageInput, Normalisation } from "./input.ts";
import { classesOf, type RowOutput } from "./output.ts";

export interface AsIsClassifier {
  /** Logits [classes] of each of the images float32 [N,3,S,S] in [0, 1]. */
  logits(images: Tensor<"float32">): Promise<Float32Array[]>;
  release(): Promise<void>;
}

/** Opens the file for a session; `chosen` is the output that was found to be its logits. */
export const openAsIsClassifier = async (
  model: ModelFile,
  images: ImageInput,
  chosen: RowOutput,
  { mean, std }: Normalisation,
  session: SessionOptions,
): Promise<AsIsClassifier> => {
  const loaded = await openAsIs(model, { images, mean, std, output: chosen.value }, session);
  const classes = classesOf(chosen.width);
  return {
    logits: async (given) => {
      const [n = 0] = given.shape;
      const result = await loaded.run(given);
      if (result.data.length !== n * chosen.width)
        throw new RequestError(
          `${model.path} gives ${typeName(result)} as ${chosen.name} for ${n} images; choose its logits by --output`,
        );
      const values =
        result.dtype === "float16"
          ? fromFloat16(result.data as Uint16Array)
          : Float32Array.from(result.data as ArrayLike<number>, Number);
      return Array.from({ length: n }, (_, i) => {
        const row = values.slice(i * chosen.width, (i + 1) * chosen.width);
        return chosen.width === classes ? row : Float32Array.of(0, ...row);
      });
    },
    release: () => loaded.release(),
  };
};
