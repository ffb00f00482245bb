/** Shares of images that a classifier gets right: as they are, and under PGD. */

import type { AttackOptions } from "../../graphs/attacks/pgd.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { type ClassifierBatch, classifierStep } from "../../graphs/steps/finetune.ts";
import type { Dataset } from "../data/dataset.ts";
import { random } from "../data/random.ts";
import { alone, type Collective, isMine } from "../distributed/collective.ts";
import type { Engine } from "../engine/engine.ts";
import { imageBatch } from "../models/images.ts";
import { predictionOf } from "../models/prediction.ts";
import { weightFeeds } from "../runs/network.ts";

/** An accuracy as commands print it. */
export const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

export interface Accuracies extends Record<string, number> {
  readonly accuracy: number;
}

/** Measures a classifier; made once, used with new weights each time. */
export interface Judge {
  /**
   * `accuracy` and, where there is an attack, `robustAccuracy`. `weights` are by PyTorch name.
   * @param ranks processes that each judge a part of the batches
   */
  measure(dataset: Dataset, weights: ReadonlyMap<string, Tensor>, ranks?: Collective): Promise<Accuracies>;
  release(): Promise<void>;
}

export interface JudgeOptions extends ClassifierBatch, AttackOptions {
  /** Of the attack's random starts. */
  readonly seed: number;
  /** Weights that never change: constants of the program. */
  readonly encoder?: ReadonlyMap<string, Tensor> | undefined;
}

/** The attack, with any steps at all, starts at uniform noise in the ball, keyed by (seed, image). */
export const createJudge = async (engine: Pick<Engine, "loadEvaluation">, options: JudgeOptions): Promise<Judge> => {
  const { batch, classes, eps, seed } = options;
  const step = classifierStep(options);
  const session = await engine.loadEvaluation(step.outputs);
  return {
    measure: async (dataset, weights, ranks = alone) => {
      const labels = dataset.labels as Int32Array;
      const feeds = weightFeeds(step.store, weights, "the classifier");
      let [ownRight, ownRobust] = [0, 0];
      for (let from = 0; from < dataset.count; from += batch) {
        if (!isMine(ranks, from / batch)) continue;
        const rows = Math.min(batch, dataset.count - from);
        const at = (row: number) => Math.min(from + row, dataset.count - 1);
        const clean = imageBatch(dataset, from, batch);
        const start = new Float32Array(clean.data.length);
        const length = start.length / batch;
        for (let row = 0; row < rows; row++)
          random(seed, 0, dataset.index[at(row)]!, "evaluate.start").fillUniform(
            start.subarray(row * length, (row + 1) * length),
            -eps,
            eps,
          );
        const results = await session.run({
          ...feeds,
          "input.clean": clean,
          "input.start": tensor("float32", clean.shape, start),
          "input.label": tensor(
            "int32",
            [batch],
            Int32Array.from({ length: batch }, (_, row) => labels[at(row)]!),
          ),
        });
        const hits = (logits: Tensor | undefined): number => {
          if (logits === undefined) return 0;
          let count = 0;
          for (let row = 0; row < rows; row++) {
            const scores = (logits.data as Float32Array).subarray(row * classes, (row + 1) * classes);
            if (predictionOf(scores) === labels[from + row]) count++;
          }
          return count;
        };
        ownRight += hits(results.logits);
        ownRobust += hits(results.robustLogits);
      }
      const counts = Float32Array.of(ownRight, ownRobust);
      await ranks.sum(counts);
      const [right, robust] = counts as unknown as [number, number];
      const accuracy = right / dataset.count;
      return options.attackSteps === 0 ? { accuracy } : { accuracy, robustAccuracy: robust / dataset.count };
    },
    release: () => session.release(),
  };
};
