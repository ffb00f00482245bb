/** Models that return probabilities where logits are wanted. */
import { input } from "../../graphs/onnx/graph.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Dataset } from "../data/dataset.ts";
import type { Engine } from "../engine/engine.ts";
import type { LoadedClassifier } from "./classifier.ts";
import { imageBatch } from "./images.ts";

/** Whether a row sums to 1 with nothing below 0. */
export const areProbabilities = (logits: Float32Array): boolean =>
  logits.every((v) => v >= 0 && v <= 1) && Math.abs(logits.reduce((a, b) => a + b, 0) - 1) < 1e-3;

/** Said of a model all of whose rows are probabilities. */
export const probabilitiesWarning =
  "the model seems to return probabilities: attacks need the logits before the softmax; export it without the softmax, or give --output the name of what the softmax reads";

/** Images that are looked at. */
const LOOKED_AT = 8;

/** Warns of a model that returns probabilities for some images. */
export const warnOfProbabilities = async (
  { build, image, fixedBatch }: LoadedClassifier,
  dataset: Dataset,
  engine: Pick<Engine, "loadEvaluation">,
  warn: (message: string) => void,
): Promise<void> => {
  const batch = fixedBatch ?? LOOKED_AT;
  const session = await engine.loadEvaluation({
    logits: build(input("x", { dtype: "float32", shape: [batch, ...image] })),
  });
  try {
    const { data, shape } = (await session.run({ x: imageBatch(dataset, 0, batch) })).logits as Tensor<"float32">;
    const width = shape[1]!;
    const rows = Array.from({ length: batch }, (_, i) => data.subarray(i * width, (i + 1) * width));
    if (rows.every(areProbabilities)) warn(probabilitiesWarning);
  } finally {
    await session.release();
  }
};
