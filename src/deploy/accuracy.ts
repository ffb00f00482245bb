/** How right exported classifiers are: on images as they are, and on images attacked through the float32 classifier. */
import { attackStep } from "../../graphs/deploy/attack.ts";
import { fromFloat16 } from "../../graphs/onnx/float16.ts";
import { input, type Value } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import type { Dataset } from "../data/dataset.ts";
import { random } from "../data/random.ts";
import type { Engine } from "../engine/engine.ts";
import { createSession, type Session, type SessionOptions } from "../engine/session.ts";
import { imageBatch } from "../models/images.ts";
import { predictionsOf } from "../models/prediction.ts";

/** The attack of an evaluation: PGD with cross-entropy from a random start. */
export interface Pgd {
  readonly eps: number;
  readonly stepSize: number;
  readonly steps: number;
}

export const pgd20: Pgd = { eps: 8 / 255, stepSize: 2 / 255, steps: 20 };

/** Labels of a batch, beyond the last image that image's again. */
const labelsOf = ({ labels, count }: Dataset, start: number, n: number): Tensor =>
  tensor(
    "int32",
    [n],
    Int32Array.from({ length: n }, (_, i) => (labels as Int32Array)[Math.min(start + i, count - 1)]!),
  );

/** How images are cut into batches. */
export interface Batching {
  /** Images of a batch (default 50). */
  readonly size?: number | undefined;
  /** Whether the last batch is filled up too, with its last image. */
  readonly filled?: boolean;
}

/** Where batches begin, and how many images they have. */
const batches = (count: number, { size = batchSize, filled = false }: Batching): [start: number, n: number][] =>
  Array.from({ length: Math.ceil(count / size) }, (_, i) => [
    i * size,
    filled ? size : Math.min(count - i * size, size),
  ]);

const batchSize = 50;

/** Attacks the images of a dataset in batches through a classifier. `logits` builds it over images of a shape. */
export const attackImages = async (
  logits: (x: Value) => Value,
  dataset: Dataset,
  pgd: Pgd,
  seed: number,
  engine: Pick<Engine, "loadEvaluation">,
  batching: Batching = {},
): Promise<Tensor<"float32">[]> => {
  const attacked: Tensor<"float32">[] = [];
  const sessions = new Map<number, Session>();
  try {
    for (const [start, n] of batches(dataset.count, batching)) {
      const clean = imageBatch(dataset, start, n);
      let session = sessions.get(n);
      if (session === undefined) {
        const step = attackStep(clean.shape, logits);
        session = await engine.loadEvaluation(step.outputs);
        sessions.set(n, session);
      }
      const noise = new Float32Array(clean.data.length);
      random(seed, 0, start, "export.attack").fillUniform(noise, -pgd.eps, pgd.eps);
      let x = float32(
        clean.shape,
        noise.map((v, i) => Math.max(0, Math.min(1, v + clean.data[i]!))),
      );
      const fixed = {
        clean,
        label: labelsOf(dataset, start, n),
        eps: float32([], [pgd.eps]),
        step_size: float32([], [pgd.stepSize]),
      };
      for (let i = 0; i < pgd.steps; i++)
        x = (await session.run({ x, ...fixed }, ["next"])).next as unknown as Tensor<"float32">;
      attacked.push(x);
    }
    return attacked;
  } finally {
    for (const session of sessions.values()) await session.release();
  }
};

/** Images of a dataset in the batches that `attackImages` makes. */
export const cleanImages = (dataset: Dataset, batching: Batching = {}): Tensor<"float32">[] =>
  batches(dataset.count, batching).map(([start, n]) => imageBatch(dataset, start, n));

/** Share of the images whose class a model's `logits` give. `prepare` makes of a batch what the model takes. */
export const accuracyOf = async (
  model: Uint8Array,
  images: readonly Tensor[],
  labels: Int32Array,
  prepare: (images: Tensor) => Tensor = (x) => x,
  options: SessionOptions = {},
): Promise<number> => {
  const session = await createSession(model, options);
  try {
    let [at, right] = [0, 0];
    for (const batch of images) {
      const { logits } = await session.run({ image: prepare(batch) }, ["logits"]);
      for (const guess of predictionsOf(floating(logits as Tensor))) if (guess === labels[at++]) right++;
    }
    return right / Math.max(at, 1);
  } finally {
    await session.release();
  }
};

const floating = (value: Tensor): Tensor =>
  value.dtype === "float16" ? float32(value.shape, fromFloat16(value.data as Uint16Array)) : value;

/** The class that a classifier gives each image. */
export const classify = async (
  logits: (x: Value) => Value,
  images: readonly Tensor[],
  engine: Pick<Engine, "loadEvaluation">,
): Promise<number[]> => {
  const sessions = new Map<number, Session>();
  const guesses: number[] = [];
  try {
    for (const batch of images) {
      const [n = 0] = batch.shape;
      let session = sessions.get(n);
      if (session === undefined) {
        const x = input("x", { dtype: "float32", shape: batch.shape });
        session = await engine.loadEvaluation({ logits: logits(x) });
        sessions.set(n, session);
      }
      guesses.push(...predictionsOf((await session.run({ x: batch })).logits as Tensor));
    }
    return guesses;
  } finally {
    for (const session of sessions.values()) await session.release();
  }
};
