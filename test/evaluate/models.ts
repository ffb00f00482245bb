/** Small classifiers for tests of attacks. */
import { constant, type Value } from "../../graphs/onnx/graph.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { conv, gemm, relu, reshape } from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import { compile } from "../../graphs/steps/step.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { createSession, type Session } from "../../src/engine/session.ts";
import type { AttackedImage } from "../../src/evaluate/attacks/attack.ts";
import { randomNumbers } from "../graphs/run.ts";

/** Loads a program for the portable target. */
export const portably = (outputs: Readonly<Record<string, Value>>): Promise<Session> =>
  createSession(compile({ outputs }, portable), { threads: 1 });

export const image = [2, 8, 8] as const;
export const classes = 5;

const weights = (random: () => number, shape: number[], scale: number): Value =>
  constant(
    float32(
      shape,
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => scale * (2 * random() - 1)),
    ),
  );

/** A convolution, a ReLU and a linear layer with random weights. */
export const convolutional = (seed = 1, outputs: number = classes): Classifier => {
  const random = randomNumbers(seed);
  const kernel = weights(random, [6, image[0], 3, 3], 0.6);
  const matrix = weights(random, [outputs, 6 * 16], 0.4);
  return (x) => {
    const h = relu(conv(x, kernel, { pads: [1, 1, 1, 1], strides: [2, 2] }));
    return gemm(reshape(h, [x.dim(0), -1]), matrix, { transB: 1 });
  };
};

/** Logits that are linear in the pixels. */
export const linearModel = (seed = 2) => {
  const random = randomNumbers(seed);
  const pixels = image[0] * image[1] * image[2];
  const matrix = weights(random, [classes, pixels], 0.3);
  const classifier: Classifier = (x) => gemm(reshape(x, [x.dim(0), -1]), matrix, { transB: 1 });
  return { classifier, matrix };
};

/** Random images; labels are filled in by what the model says of them. */
export const randomImages = (count: number, seed = 3): AttackedImage[] => {
  const random = randomNumbers(seed);
  const pixels = image[0] * image[1] * image[2];
  return Array.from({ length: count }, (_, index) => ({
    clean: Float32Array.from({ length: pixels }, random),
    shape: image,
    label: 0,
    index,
  }));
};
