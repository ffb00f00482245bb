/** Accuracy on common corruptions (Hendrycks & Dietterich, ICLR 2019): the .npy files of CIFAR-10-C and CIFAR-100-C. */

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { byteResizer } from "../data/resize.ts";
import { samplePlaces } from "../data/sample.ts";
import { alone, type Collective } from "../distributed/collective.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { isHidden } from "../files/hidden.ts";
import { openNpy, readNpyLabels } from "../files/npy.ts";
import { pixelsOf, planesOf } from "../models/images.ts";
import { predictionOf } from "../models/prediction.ts";
import { Interrupted } from "../verbs/verb.ts";
import type { Oracle } from "./attacks/oracle.ts";
import { recordsOf } from "./dealt.ts";
import type { EvaluationLog, EvaluationProgress } from "./types.ts";

/** The .npy files of a folder. */
export interface CorruptionFiles {
  readonly folder: string;
  /** Of the corruptions: `fog.npy`. */
  readonly names: readonly string[];
}

/** The same with their labels. */
export interface Corruptions extends CorruptionFiles {
  /** The model's class of each image. */
  readonly labels: Int32Array;
  /** Places of the images to look at. */
  readonly chosen: readonly number[];
}

export interface CorruptionOptions extends Corruptions {
  readonly oracle: Oracle;
  /** Side of the model's images. */
  readonly size: number;
  readonly log: EvaluationLog;
  readonly signal: AbortSignal;
  /** Processes that share the work. */
  readonly ranks?: Collective;
  readonly progress: (update: EvaluationProgress) => void;
}

export interface CorruptionFigures {
  /** Mean over the corruptions. */
  readonly accuracy: number;
  readonly byCorruption: Readonly<Record<string, number>>;
}

/** Severities of the published files, one after another, each of the same images. */
const SEVERITIES = 5;

/** What there is to score. Throws a RequestError where the folder is no such folder. */
export const findCorruptions = async (folder: string): Promise<CorruptionFiles> => {
  let found: string[];
  try {
    found = (await readdir(folder)).filter((name) => name.endsWith(".npy") && !isHidden(name)).sort();
  } catch (error) {
    throw fileError(error, "read", folder);
  }
  const names = found.filter((name) => name !== "labels.npy");
  if (names.length === 0) throw new RequestError(`${folder} holds no .npy files; give the folder of CIFAR-10-C`);
  if (!found.includes("labels.npy"))
    throw new RequestError(
      `${folder} has no labels.npy beside ${names[0]}; give the folder of CIFAR-10-C, or save the labels there by that name`,
    );
  return { folder, names };
};

/** Whether labels are those of one severity again and again. */
const repeats = (labels: Uint8Array): boolean => {
  const each = labels.length / SEVERITIES;
  return Number.isInteger(each) && each > 0 && labels.every((label, i) => label === labels[i % each]);
};

/** Refuses what are no images of that many labels; returns how many there are in the first file. */
const checkShapes = async ({ folder, names }: CorruptionFiles, labels: number): Promise<number> => {
  let first: number | undefined;
  for (const name of names) {
    const file = await openNpy(join(folder, name));
    await file.close();
    const { shape } = file;
    const [n = 0, h, w, channels] = shape;
    first ??= n;
    if (shape.length === 4 && channels === 3 && h === w && n === first && (n === labels || n === SEVERITIES * labels))
      continue;
    const remedy =
      shape.length === 4 && h === 3 && w === channels
        ? "; its channels come first: save it through numpy.transpose(x, (0, 2, 3, 1))"
        : "; give the files that belong together";
    throw new RequestError(
      `${join(folder, name)} is [${shape.join(",")}]; expected [${labels},H,H,3] as labels.npy has it${remedy}`,
    );
  }
  return first ?? 0;
};

export interface LabelOptions {
  /** Of the dataset that the labels number. */
  readonly classes: number;
  /** For each of them the model's; undefined where they are in one order. */
  readonly places: Int32Array | undefined;
  /** Images of each severity to look at, a sample of every class by `seed`; undefined is all. */
  readonly limit?: number | undefined;
  readonly seed: number;
  readonly warn: (message: string) => void;
}

/**
 * Reads the labels and chooses the images, the same of each severity.
 * @throws RequestError where the labels are not of that many classes, or a file does not hold images of their number
 */
export const readCorruptions = async (
  { folder, names }: CorruptionFiles,
  { classes, places, limit, seed, warn }: LabelOptions,
): Promise<Corruptions> => {
  const own = await readNpyLabels(join(folder, "labels.npy"), classes);
  const count = await checkShapes({ folder, names }, own.length);
  // Labels of one severity serve for each.
  const given =
    count === SEVERITIES * own.length ? Uint8Array.from({ length: count }, (_, i) => own[i % own.length]!) : own;
  const severities = repeats(given) ? SEVERITIES : 1;
  const each = given.length / severities;
  if (severities === 1)
    warn(
      `the labels in ${folder} don't repeat ${SEVERITIES} times: its ${given.length} images are taken as of one severity`,
    );
  const block = samplePlaces({
    ...{ count: each, limit: limit ?? each, labels: given.subarray(0, each), seed },
    stream: "corruptions",
  });
  const chosen = Array.from({ length: severities }, (_, severity) =>
    Array.from(block, (i) => severity * each + i),
  ).flat();
  return { folder, names, labels: Int32Array.from(given, (label) => places?.[label] ?? label), chosen };
};

/** Scores one corruption: hits among the chosen images. Throws Interrupted where the signal came before the end. */
const scoreCorruption = async (options: CorruptionOptions, place: number): Promise<number> => {
  const { folder, names, labels, chosen, oracle, size, progress } = options;
  const { size: together } = options.ranks ?? alone;
  const name = names[place]!;
  const file = await openNpy(join(folder, name));
  try {
    const [, h = 0, w = 0] = file.shape;
    const stage = `corruptions/${name.slice(0, -4)}`;
    const resize = byteResizer(h, w, size);
    const chunks = Array.from({ length: Math.ceil(chosen.length / oracle.batch) }, (_, chunk) => {
      const members = chosen.slice(chunk * oracle.batch, (chunk + 1) * oracle.batch);
      const make = async () => {
        const images: Float32Array[] = [];
        for (const i of members) images.push(scaled(await file.rows(i, i + 1), size, resize));
        const answers = await oracle.answer(images.map((x) => ({ kind: "logits", x })));
        const hits = answers.filter(({ logits }, k) => predictionOf(logits) === labels[members[k]!]).length;
        return { record: { stage, chunk, images: [], notes: { right: hits } }, x: [] };
      };
      return { stage, chunk, members, make };
    });
    let [right, done] = [0, 0];
    for (let begin = 0; begin < chunks.length; begin += together) {
      const dealt = chunks.slice(begin, begin + together);
      const records = await recordsOf(dealt, options);
      for (const [i, { members }] of dealt.entries()) {
        right += records[i]?.notes?.right ?? 0;
        done += members.length;
        const share = (place + done / chosen.length) / names.length;
        progress({ stage, total: chosen.length, share, accuracy: right / done, images: members.length });
      }
    }
    return right;
  } finally {
    await file.close();
  }
};

/** Scores every corruption of a folder; undefined where the signal came before the end. */
export const evaluateCorruptions = async (options: CorruptionOptions): Promise<CorruptionFigures | undefined> => {
  const { names, chosen } = options;
  // Names are those of files: `__proto__.npy` is one like others.
  const byCorruption: Record<string, number> = Object.create(null);
  for (const [place, name] of names.entries()) {
    try {
      byCorruption[name.slice(0, -4)] = (await scoreCorruption(options, place)) / chosen.length;
    } catch (error) {
      if (error instanceof Interrupted) return undefined;
      throw error;
    }
  }
  const all = Object.values(byCorruption);
  return { accuracy: all.reduce((a, b) => a + b, 0) / all.length, byCorruption };
};

/** Rows of RGB bytes [H,H,3] to pixels [3,size,size] in [0, 1]. */
const scaled = (
  bytes: Uint8Array,
  size: number,
  resize: (source: Uint8Array, out: Uint8Array) => void,
): Float32Array => {
  const out = new Uint8Array(3 * size * size);
  resize(planesOf(bytes), out);
  return pixelsOf(out);
};
