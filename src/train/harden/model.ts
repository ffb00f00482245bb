/** A classifier from a file as a program whose weights can be trained. */
import { bind } from "../../../graphs/deploy/rewrite.ts";
import { trainableInitializers } from "../../../graphs/import/trainable.ts";
import type { Store } from "../../../graphs/nn/scope.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import type { FileModel } from "../../../graphs/onnx/parse.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { RequestError } from "../../errors.ts";
import type { LoadedClassifier } from "../../models/classifier.ts";

export interface Trainable {
  readonly file: FileModel;
  /** The weights that move, by the file's names. */
  readonly weights: ReadonlyMap<string, Tensor>;
  /** Images to logits, with the weights as parameters of the store. */
  readonly classify: (store: Store) => (x: Value) => Value;
}

/** Looks for the weights of a classifier that came from a file, for batches of so many images. */
export const trainable = ({ model, image, source, asIs }: LoadedClassifier, batch: number): Trainable => {
  if (asIs !== undefined)
    throw new RequestError(
      `${source} computes on integers, which do not train; give the model before it was quantised`,
    );
  if (model === undefined) throw new RequestError(`${source} is no ONNX file; give one`);
  const { file, path } = model;
  const names = trainableInitializers(file);
  const bound = input("images", { dtype: "float32", shape: [batch, ...image] });
  const { logits, parameters, weights } = model.read(bound, (name) => (names.has(name) ? name : undefined));
  if (names.size === 0) throw untrainable(path, file);
  return {
    file,
    weights: new Map([...names].map((name) => [name, weights[name]!])),
    classify: (store) => {
      const values = new Map<Value, Value>();
      for (const name of names) {
        const value = parameters[name]!;
        values.set(value, store.parameter(name, value.shape, { kind: "constant", value: 0 }));
      }
      return (x) => bind({ logits }, new Map([...values, [bound, x]])).logits;
    },
  };
};

/** Why no weight can be trained, and what to do. */
const untrainable = (path: string, { initializers }: FileModel): RequestError => {
  const halves = [...initializers.values()].some(({ dtype, shape }) => dtype === "float16" && shape.length > 1);
  return new RequestError(
    halves
      ? `the weights of ${path} are float16, of which training loses the small steps; export the model in float32 (model.float())`
      : `${path} holds no weights that can be trained; export it with its weights as initializers (export_params=True)`,
  );
};
