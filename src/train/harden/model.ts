/** A classifier from a file as a program whose weights can be trained. */
import { bind } from "../../../graphs/deploy/rewrite.ts";
import { trainableInitializers } from "../../../graphs/import/trainable.ts";
import type { Store } from "../../../graphs/nn/scope.ts";
import { constant, input, type Value } from "../../../graphs/onnx/graph.ts";
import { type FileModel, parseModel } from "../../../graphs/onnx/parse.ts";
import { float32, type Tensor } from "../../../graphs/onnx/tensor.ts";
import { div, sub } from "../../../graphs/ops/index.ts";
import { RequestError } from "../../errors.ts";
import { imagesOf, readClassifier } from "../../evaluate/classifier.ts";

export interface Trainable {
  readonly file: FileModel;
  /** The weights that move, by the file's names. */
  readonly weights: ReadonlyMap<string, Tensor>;
  /** Images to logits, with the weights as parameters of the store. */
  readonly classify: (store: Store) => (x: Value) => Value;
}

export interface Preprocessing {
  readonly mean?: readonly number[] | undefined;
  readonly std?: readonly number[] | undefined;
}

/** Reads a classifier for batches of images [batch, …image]. */
export const trainable = (
  bytes: Uint8Array,
  path: string,
  batch: number,
  image: readonly number[],
  { mean, std }: Preprocessing,
): Trainable => {
  const file = parseModel(bytes);
  const names = trainableInitializers(file);
  const bound = input("images", { dtype: "float32", shape: [batch, ...image] });
  const { logits, parameters, weights } = readClassifier(file, path, {
    batch,
    bind: { [imagesOf(file, path).name]: bound },
    parameter: (name) => (names.has(name) ? name : undefined),
  });
  if (names.size === 0)
    throw new RequestError(`${path} holds no weights as initializers, so none can be trained; export it with them`);
  const along = (values: readonly number[] | undefined, otherwise: number): Value => {
    const list = values === undefined || values.length === 0 ? [otherwise] : values;
    return constant(float32([1, list.length, 1, 1], list));
  };
  const normal = (x: Value): Value =>
    mean === undefined && std === undefined ? x : div(sub(x, along(mean, 0)), along(std, 1));
  return {
    file,
    weights: new Map([...names].map((name) => [name, weights[name] as Tensor])),
    classify: (store) => {
      const values = new Map<Value, Value>();
      for (const name of names) {
        const value = parameters[name] as Value;
        values.set(value, store.parameter(name, value.shape, { kind: "constant", value: 0 }));
      }
      return (x) => bind({ logits }, new Map([...values, [bound, normal(x)]])).logits;
    },
  };
};
