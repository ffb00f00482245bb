/** What a model that sees nothing may reach, and what may be wrong with one that does no better. */
import { constant, input } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor } from "../../graphs/onnx/tensor.ts";
import { div, mul, sub } from "../../graphs/ops/index.ts";
import type { Classifier } from "../../graphs/steps/evaluate.ts";
import type { Dataset } from "../data/dataset.ts";
import { subset } from "../data/subset.ts";
import type { Engine } from "../engine/engine.ts";
import type { LoadedClassifier } from "./classifier.ts";
import { imageBatch } from "./images.ts";
import { predictionsOf } from "./prediction.ts";

/** The share of the largest class among labels, and two standard deviations. */
export const chanceOf = (labels: Int32Array): number => {
  const counts = new Map<number, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const share = Math.max(0, ...counts.values()) / Math.max(1, labels.length);
  return share + 2 * Math.sqrt((share * (1 - share)) / Math.max(1, labels.length));
};

const channels = (values: readonly number[]) => constant(float32([1, 3, 1, 1], values));

/** What models often want of pixels in [0, 1], and the flags that give it. */
const usual: readonly { readonly flags: string; readonly of: (build: Classifier) => Classifier }[] = [
  { flags: "neither --mean nor --std", of: (build) => build },
  { flags: "--mean 0 --std 0.00392157 (pixels of 0 to 255)", of: (build) => (x) => build(mul(x, 255)) },
  { flags: "--mean 0.5 --std 0.5 (pixels of -1 to 1)", of: (build) => (x) => build(div(sub(x, 0.5), 0.5)) },
  {
    flags: "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (ImageNet's)",
    of: (build) => (x) => build(div(sub(x, channels([0.485, 0.456, 0.406])), channels([0.229, 0.224, 0.225]))),
  },
];

/** Images that a guess is tried on. */
const TRIED = 200;

/** Share of images that a classifier is right for: of many, of some that are spread over them. */
export const shareRight = async (
  build: Classifier,
  { fixedBatch, image }: Pick<LoadedClassifier, "fixedBatch" | "image">,
  all: Dataset & { readonly labels: Int32Array },
  engine: Pick<Engine, "loadEvaluation">,
): Promise<number> => {
  const count = Math.min(TRIED, all.count);
  // Those of a folder stand class by class.
  const dataset = subset(
    all,
    Int32Array.from({ length: count }, (_, i) => Math.floor((i * all.count) / count)),
  );
  const batch = fixedBatch ?? Math.min(count, 50);
  const x = input("x", { dtype: "float32", shape: [batch, ...image] });
  const session = await engine.loadEvaluation({ logits: build(x) });
  try {
    let right = 0;
    for (let from = 0; from < count; from += batch) {
      const { logits } = await session.run({ x: imageBatch(dataset, from, batch) });
      const found = predictionsOf(logits as Tensor).slice(0, count - from);
      right += found.filter((prediction, i) => prediction === dataset.labels?.[from + i]).length;
    }
    return right / count;
  } finally {
    await session.release();
  }
};

/** A model that was found to be no better than chance. */
export interface Judged extends Pick<LoadedClassifier, "source" | "unnormalised" | "fixedBatch" | "image"> {
  /** The file behind it; undefined of a run. */
  readonly model?: unknown;
}

/** The way of normalising pixels that the model is best with; undefined where none gets beyond chance. */
const bestWay = async (
  judged: Judged,
  dataset: Dataset & { readonly labels: Int32Array },
  engine: Pick<Engine, "loadEvaluation">,
  chance: number,
): Promise<{ readonly flags: string; readonly accuracy: number } | undefined> => {
  let best: { flags: string; accuracy: number } | undefined;
  for (const { flags, of } of usual) {
    const accuracy = await shareRight(of(judged.unnormalised), judged, dataset, engine);
    if (accuracy > (best?.accuracy ?? chance)) best = { accuracy, flags };
  }
  return best;
};

/**
 * What to say of a model that is no better than chance on its clean images; undefined where it is better. The ways in which
 * models usually want their pixels are tried, and the one that helps is named.
 */
export const chanceWarning = async (
  accuracy: number,
  judged: Judged,
  dataset: Dataset & { readonly labels: Int32Array },
  engine: Pick<Engine, "loadEvaluation">,
): Promise<string | undefined> => {
  const chance = chanceOf(dataset.labels);
  // One class alone is no chance to beat.
  if (accuracy > chance || chance >= 1) return undefined;
  const best = await bestWay(judged, dataset, engine, chance);
  const ofRun = judged.model === undefined;
  const forGood = ofRun ? "; give advcl import the same, if the weights were imported" : "";
  const checks = ofRun
    ? `train it longer or at another rate, check --branch, and of imported weights --mean, --std and that the classes of ${dataset.name} are in their order`
    : `check --mean and --std, --layout and --output, and that the classes of ${dataset.name} are in the model's order`;
  const remedy =
    best === undefined
      ? checks
      : `with ${best.flags} it is right for ${(100 * best.accuracy).toFixed(1)} % of ${Math.min(TRIED, dataset.count)} images${forGood}`;
  return `${judged.source} is no better than chance on clean images (${(100 * accuracy).toFixed(2)} %; chance gives up to ${(100 * chance).toFixed(2)} %): ${remedy}`;
};
