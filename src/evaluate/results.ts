/** What an evaluation leaves: its summary, a table for people, a file of images, a picture of attacks. */
import { join } from "node:path";
import { writeFileAtomic } from "../files/atomic.ts";
import { writeSealed } from "../files/seal.ts";
import type { LoadedClassifier } from "../models/classifier.ts";
import { type GridCell, writeAttackGrid } from "./attack-grid.ts";
import type { CorruptionFigures } from "./corruptions.ts";
import type { DiskLog } from "./evaluation-log.ts";
import type { AttackFigures, EvaluatedImages, EvaluationLog, EvaluationResult } from "./types.ts";

/** Figures of an attack as they are kept: shares rounded to a millionth. */
export interface PlainFigures {
  /** Share of all images that are right and stay so. */
  readonly accuracy: number;
  /** 95 % interval (Wilson). */
  readonly interval: readonly number[];
  readonly right: number;
  readonly count: number;
  /** Images that it was tried on: those that were right before. */
  readonly attacked: number;
  readonly queries: number;
  /** Whose gradients the attack followed, where not the model's own. */
  readonly gradients?: "float32 shadow";
  /** Of AutoAttack's parts, each on what the parts before it left. */
  readonly parts?: Readonly<Record<string, PlainFigures>>;
}

const rounded = (x: number): number => Number(x.toFixed(6));

export const plainFigures = ({
  accuracy,
  interval,
  right,
  count,
  attacked,
  queries,
  gradients,
  parts,
}: AttackFigures): PlainFigures => ({
  accuracy: rounded(accuracy),
  interval: interval.map(rounded),
  right,
  count,
  attacked,
  queries,
  ...(gradients && { gradients }),
  ...(parts && { parts: Object.fromEntries(parts.map((part) => [part.attack, plainFigures(part)])) }),
});

const percent = (x: number): string => (100 * x).toFixed(2);

const rowOf = (
  name: string,
  { accuracy, interval, right, count, queries, attacked, gradients }: AttackFigures,
): string[] => [
  gradients === undefined ? name : `${name} (by the gradients of its ${gradients})`,
  percent(accuracy),
  interval.map(percent).join(" to "),
  `${right}/${count}`,
  (queries / Math.max(1, attacked)).toFixed(1),
];

/** Rows with their columns aligned, the first to the left. */
const aligned = (rows: readonly (readonly string[])[]): string => {
  const widths = (rows[0] ?? []).map((_, k) => Math.max(...rows.map((row) => (row[k] ?? "").length)));
  const padded = (text: string, k: number): string => text[k === 0 ? "padEnd" : "padStart"](widths[k] ?? 0);
  return rows.map((row) => row.map(padded).join("  ")).join("\n");
};

/** The figures as a table. */
export const figuresTable = (figures: readonly AttackFigures[], corruptions: CorruptionFigures | undefined): string => {
  const rows: string[][] = [["attack", "accuracy %", "95 % interval", "right", "queries/attacked image"]];
  for (const whole of figures) {
    for (const part of whole.parts ?? []) rows.push(rowOf(`  + ${part.attack}`, part));
    rows.push(rowOf(whole.attack, whole));
  }
  for (const [name, accuracy] of Object.entries(corruptions?.byCorruption ?? {}))
    rows.push([`  ${name}`, percent(accuracy)]);
  if (corruptions !== undefined) rows.push(["corruptions", percent(corruptions.accuracy)]);
  return aligned(rows);
};

/** Accuracy against radius for people: a row a radius, a column an attack. */
export const curveTable = (
  curve: readonly { readonly eps: number; readonly attacks: Readonly<Record<string, PlainFigures>> }[],
  printed: (eps: number) => string,
): string =>
  aligned([
    ["radius", ...Object.keys(curve[0]?.attacks ?? {}).map((name) => `${name} %`)],
    ...curve.map(({ eps, attacks }) => [
      printed(eps),
      ...Object.values(attacks).map(({ accuracy }) => percent(accuracy)),
    ]),
  ]);

/** Writes `images.jsonl` and `evaluation.json`. */
export const writeResults = async (out: string, { rows }: EvaluationResult, summary: object): Promise<void> => {
  await writeFileAtomic(join(out, "images.jsonl"), `${rows.map((row) => JSON.stringify(row)).join("\n")}\n`);
  await writeSealed(join(out, "evaluation.json"), summary);
};

/** The first images that are right when clean: those that the picture shows. */
export const firstRight = (count: number) => {
  const chosen = new Set<number>();
  const look = (log: EvaluationLog): void => {
    chosen.clear();
    for (let chunk = 0; chosen.size < count; chunk++) {
      const record = log.finished.get(`clean/${chunk}`);
      if (record === undefined) return;
      for (const { i, broken } of record.images) if (!broken && chosen.size < count) chosen.add(i);
    }
  };
  return {
    has: (i: number) => chosen.has(i),
    /** The log, which is looked at again after each chunk of clean images. */
    watch: (log: DiskLog): DiskLog => {
      look(log);
      return {
        ...log,
        append: (record) => {
          log.append(record);
          if (record.stage === "clean") look(log);
        },
      };
    },
  };
};

export interface PictureOptions {
  readonly out: string;
  /** Images in the picture. */
  readonly grid: number;
  /** Whether all adversarial images that were kept stay, one file a stage. */
  readonly saveAdversarial: boolean;
}

export type NamedImages = EvaluatedImages & { readonly classNames: readonly string[] };

/** The cells of the picture, and the largest perturbation of a pixel in them. */
const cellsOf = (
  kept: Awaited<ReturnType<DiskLog["kept"]>>,
  { grid }: PictureOptions,
  names: readonly string[],
  images: NamedImages,
  { rows }: EvaluationResult,
): { readonly cells: readonly GridCell[]; readonly range: number } => {
  const nameOf = (k: number): string => (k < 0 ? "no class" : (names[k] ?? `class ${k}`));
  const cells: GridCell[] = [];
  let range = 0;
  for (const [i, row] of rows.entries()) {
    if (cells.length >= grid) break;
    const stages = [...kept].filter(([, found]) => found.has(i));
    if (stages.length === 0 || row.brokenBy === "clean") continue;
    const broke = stages.find(([stage]) => stage === row.brokenBy?.replaceAll("/", "."));
    const shown = (broke ?? stages.at(-1))?.[1].get(i);
    if (shown === undefined) continue;
    const clean = images.pixels(i);
    clean.forEach((v, k) => {
      range = Math.max(range, Math.abs(v - (shown.x[k] ?? v)));
    });
    cells.push({
      clean,
      adversarial: shown.x,
      label: nameOf(row.label),
      prediction: nameOf(shown.prediction),
      // Of AutoAttack the part: the whole name is wider than a picture.
      attack: broke === undefined ? undefined : row.brokenBy?.split("/").at(-1),
    });
  }
  return { cells, range };
};

/** Writes `attacks.png`, and joins or removes the adversarial images that were kept. */
export const writePictures = async (
  options: PictureOptions,
  classifier: LoadedClassifier,
  images: NamedImages,
  result: EvaluationResult,
  disk: DiskLog,
): Promise<void> => {
  const names = classifier.classNames.length > 0 ? classifier.classNames : images.classNames;
  const { cells, range } = cellsOf(await disk.kept(), options, names, images, result);
  if (cells.length > 0)
    await writeAttackGrid(join(options.out, "attacks.png"), cells, {
      shape: images.shape,
      range: Math.max(range, 1e-6),
      title: `${classifier.source}: clean, perturbation (±${(255 * range).toFixed(1)}/255), adversarial`,
    });
  if (options.saveAdversarial) await disk.merge();
  else await disk.clear();
};
