/** The classifiers of a comparison: each contender's encoder, finetuned by a scheme on a dataset and attacked. */
import { join } from "node:path";
import type { DatasetName } from "../data/dataset.ts";
import { RequestError } from "../errors.ts";
import { evaluate } from "../evaluate/evaluate.ts";
import { finetune } from "../train/finetune.ts";
import type { SchemeName } from "../train/finetune-settings.ts";
import { scaledMilestones } from "../train/schedule.ts";
import type { Settings } from "./compare-settings.ts";
import { commonOf } from "./encoders.ts";
import { slug } from "./folders.ts";
import { type Pipeline, resuming } from "./pipeline.ts";
import type { Cell } from "./table.ts";
import { parseVariant, type Variant } from "./variant.ts";

export const schemeNames = ["slf", "alf", "aff"] as const satisfies SchemeName[];

/** The control that is not pretrained: everything is trained from nothing by the same schemes. */
const untrained = "none";

/** A line of the table. */
export interface Contender {
  readonly name: string;
  /** What pretrains the encoder; undefined for {@link untrained}. */
  readonly variant?: Variant;
}

/**
 * Reads what is compared.
 * @throws RequestError where a method is not known, or nothing could be trained from nothing
 */
export const contendersOf = (
  { methods, schemes: chosen }: Settings,
  table?: Parameters<typeof parseVariant>[1],
): readonly Contender[] =>
  methods.map((text) => {
    if (text !== untrained) return { name: text, variant: parseVariant(text, table) };
    if (!chosen.includes("aff"))
      throw new RequestError(
        "methods none: slf and alf train a head on an encoder, and none has no encoder; add --schemes aff",
      );
    return { name: text };
  });

/** One of the table's classifiers. */
export interface Classifier {
  readonly contender: Contender;
  readonly seed: number;
  readonly dataset: DatasetName;
  readonly scheme: SchemeName;
}

/** Whether a scheme trains a contender: a head alone, on no encoder, says nothing. */
export const suits = ({ variant }: Contender, scheme: SchemeName): boolean => variant !== undefined || scheme === "aff";

/** The name of a classifier's run, and of its folder in that of the comparison. */
const runOf = ({ contender, seed, dataset, scheme }: Classifier): string =>
  `finetune-${slug(contender.name)}-${dataset}-${scheme}-seed${seed}`;

/** Accuracies of an encoder (a run folder; undefined: nothing) that is finetuned. */
export const classify = async (
  classifier: Classifier,
  encoder: string | undefined,
  settings: Settings,
  pipeline: Pipeline,
): Promise<Cell> => {
  const { contender, seed, dataset, scheme } = classifier;
  const { workers, target, testLimit, finetuneEpochs: epochs } = settings;
  const { finetuneBatch: batch, finetuneLr: lr, finetuneLimit: limit, arch, depth, width, size } = settings;
  const name = runOf(classifier);
  const out = join(settings.out, name);
  const milestones = scaledMilestones(epochs);
  const { accuracy, robustAccuracy, testImages } = await pipeline.once(name, finetune, {
    ...{ ...commonOf(settings), scheme, from: encoder ?? untrained, dataset, seed, epochs, milestones },
    ...{ testLimit, workers, target, batch, lr, limit, out, evaluate: true, ...resuming(out) },
    ...(encoder === undefined && { arch, depth, width, size: size || undefined }),
  });
  return {
    ...{ variant: contender.name, seed, dataset, scheme, images: testImages },
    figures: {
      SA: Number(accuracy),
      RA: Number(robustAccuracy),
      ...(settings.autoattack && { AA: await underAutoAttack(classifier, settings, pipeline) }),
    },
    ...(settings.radii.length > 0 && { curve: await curveOf(classifier, settings, pipeline) }),
  };
};

/** What an evaluation of a classifier is asked; it goes on where it was stopped. */
const evaluated = (classifier: Classifier, name: string, settings: Settings) => {
  const out = join(settings.out, name);
  const { dataset, seed } = classifier;
  const limit = settings.testLimit || undefined;
  return {
    ...commonOf(settings),
    model: join(settings.out, runOf(classifier)),
    dataset,
    seed,
    limit,
    out,
    ...resuming(out),
  };
};

const underAutoAttack = async (classifier: Classifier, settings: Settings, pipeline: Pipeline): Promise<number> => {
  const name = `autoattack-${runOf(classifier)}`;
  const { attacks } = await pipeline.once(name, evaluate, {
    ...evaluated(classifier, name, settings),
    attacks: ["clean", "autoattack"],
  });
  return Number(attacks.autoattack?.accuracy);
};

/** Accuracy under PGD-20 at each radius. */
const curveOf = async (classifier: Classifier, settings: Settings, pipeline: Pipeline): Promise<Cell["curve"]> => {
  const radii = [...new Set(settings.radii)].sort((a, b) => a - b);
  const name = `radii-${radii.map((eps) => Number((255 * eps).toFixed(2))).join("-")}-${runOf(classifier)}`;
  const { curve, attacks } = await pipeline.once(name, evaluate, {
    ...evaluated(classifier, name, settings),
    attacks: ["clean", "pgd20"],
    eps: radii,
  });
  const points = curve ?? radii.map((eps) => ({ eps, attacks }));
  return points.map(({ eps, attacks: at }) => ({ eps, accuracy: Number(at.pgd20?.accuracy) }));
};
