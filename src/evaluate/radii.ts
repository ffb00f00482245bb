/**
 * An evaluation at several radii: one of them is that of the report, whose images are kept and shown; the others give the curve of
 * accuracy against radius. Clean predictions and the inspection are asked once.
 */
import { evaluateRobustness } from "./evaluation.ts";
import { type PlainFigures, plainFigures } from "./results.ts";
import type { ChunkRecord, EvaluationLog, EvaluationRequest, EvaluationResult } from "./types.ts";

/** Accuracies at one radius. */
export interface RadiusFigures {
  readonly eps: number;
  /** By attack, in the order of the request. */
  readonly attacks: Readonly<Record<string, PlainFigures>>;
}

export interface RadiiResult {
  /** At the largest radius. */
  readonly result: EvaluationResult;
  /** Of every radius, from the smallest on; undefined where only one was asked for. */
  readonly curve: readonly RadiusFigures[] | undefined;
}

/** Stages that no radius changes. */
const common = ["clean", "inspection"];

/** The log as an evaluation at one radius sees it: its stages stand under a name of their own, unless that is empty. */
const logAt = (log: EvaluationLog, known: Map<string, ChunkRecord>, place: string): EvaluationLog => {
  const named = (stage: string): string => (place === "" || common.includes(stage) ? stage : `${place}/${stage}`);
  const plain = (stage: string): string => (stage.startsWith(`${place}/`) ? stage.slice(place.length + 1) : stage);
  const finished = new Map<string, ChunkRecord>();
  for (const [key, record] of known) {
    const shared = common.includes(record.stage);
    if (place === "" || shared || record.stage.startsWith(`${place}/`))
      finished.set(shared ? key : `${plain(record.stage)}/${record.chunk}`, { ...record, stage: plain(record.stage) });
  }
  return {
    finished,
    append: (record) => {
      const own = { ...record, stage: named(record.stage) };
      known.set(`${own.stage}/${own.chunk}`, own);
      log.append(own);
    },
    keep: async (record, x) => log.keep?.({ ...record, stage: named(record.stage) }, x),
  };
};

/** Sorted, each once. */
export const sortedRadii = (radii: readonly number[]): number[] => [...new Set(radii)].sort((a, b) => a - b);

type RadiiRequest = Omit<EvaluationRequest, "settings"> & {
  /** From the smallest on. */
  readonly radii: readonly number[];
  /** Settings of the attacks at a radius. */
  readonly settingsAt: (eps: number) => EvaluationRequest["settings"];
};

/**
 * Runs the attacks at each radius.
 * @returns undefined where the signal came before the end: what is finished is in the log
 */
export const evaluateRadii = async (request: RadiiRequest): Promise<RadiiResult | undefined> => {
  const { radii, settingsAt, log, progress } = request;
  const known = new Map(log.finished);
  const curve: RadiusFigures[] = [];
  let last: EvaluationResult | undefined;
  for (const [i, eps] of radii.entries()) {
    const place = i === radii.length - 1 ? "" : `eps${eps}`;
    last = await evaluateRobustness({
      ...request,
      settings: settingsAt(eps),
      log: logAt(log, known, place),
      progress: (update) => progress({ ...update, share: (i + update.share) / radii.length }),
    });
    if (last === undefined) return undefined;
    const { figures } = last;
    curve.push({ eps, attacks: Object.fromEntries(figures.map((own) => [own.attack, plainFigures(own)])) });
  }
  if (last === undefined) throw new RangeError("internal: an evaluation without a radius");
  return { result: last, curve: radii.length > 1 ? curve : undefined };
};
