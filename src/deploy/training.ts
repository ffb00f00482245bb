/** The files of on-device training: two graphs, a checkpoint, and a manifest that says what is in them. */
import { type OnDeviceOptions, onDevice } from "../../graphs/deploy/training.ts";
import { featureSize } from "../../graphs/nn/encoder.ts";
import type { Weights } from "../../graphs/nn/folded.ts";
import { float32, type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { random } from "../data/random.ts";
import { encodeCheckpoint } from "./checkpoint-file.ts";

export interface TrainingFiles {
  readonly trainingModel: Uint8Array;
  readonly evalModel: Uint8Array;
  readonly checkpoint: Uint8Array;
  /** JSON. */
  readonly manifest: Readonly<Record<string, unknown>>;
}

/** A head as PyTorch starts a linear layer. */
export const freshHead = (classes: number, features: number, seed: number): Map<string, Tensor> => {
  const [weight, bias] = [new Float32Array(classes * features), new Float32Array(classes)];
  const bound = 1 / Math.sqrt(features);
  random(seed, 0, 0, "init.fc.weight").fillUniform(weight, -bound, bound);
  random(seed, 0, 0, "init.fc.bias").fillUniform(bias, -bound, bound);
  return new Map<string, Tensor>([
    ["fc.weight", float32([classes, features], weight)],
    ["fc.bias", float32([classes], bias)],
  ]);
};

/**
 * Makes the files. `weights` are those of the folded network by PyTorch name; a head that they lack is a fresh one.
 */
export const trainingFiles = (
  options: OnDeviceOptions,
  weights: Weights,
  seed: number,
  metadata: Readonly<Record<string, string>>,
): TrainingFiles => {
  const { feeds, parameters, reset, evaluation, training, trained } = onDevice(options);
  const head = weights.has("fc.weight") ? weights : freshHead(options.classes, featureSize(options), seed);
  const tensors = new Map<string, Tensor>();
  for (const [name, { shape }] of parameters)
    tensors.set(name, weights.get(name) ?? head.get(name) ?? zeros("float32", shape));
  const inputs = [...feeds, ...parameters.values()];
  const build = (outputs: typeof evaluation, more: typeof inputs) =>
    buildModel(lower(outputs, portable), more, { name: "training", metadata }).bytes;
  return {
    trainingModel: build(training, [...inputs, reset]),
    evalModel: build(evaluation, inputs),
    checkpoint: encodeCheckpoint(tensors, metadata),
    manifest: {
      engine: "onnxruntime-web 1.17 to 1.19.2, entry onnxruntime-web/training",
      trains: options.trains,
      batch: options.batch,
      momentum: options.momentum,
      weightDecay: options.weightDecay,
      inputs: ["image", "label", "lr"],
      outputs: Object.keys(training),
      trained,
      tensors: Array.from(tensors, ([name, { shape }]) => ({ name, shape })),
      metadata,
    },
  };
};
