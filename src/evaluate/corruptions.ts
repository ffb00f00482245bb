/** Accuracy on common corruptions (Hendrycks & Dietterich, ICLR 2019): the .npy files of CIFAR-10-C and CIFAR-100-C. */

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { byteResizer } from "../data/resize.ts";
import { RequestError } from "../errors.ts";
import { fileError } from "../files/file-error.ts";
import { openNpy } from "../files/npy.ts";
import { pixelsOf, planesOf } from "../models/images.ts";
import { predictionOf } from "../models/prediction.ts";
import type { Oracle } from "./attacks/oracle.ts";
import type { EvaluationLog, EvaluationProgress } from "./types.ts";

/** The .npy files of a folder. */
export interface Corruptions {
  readonly folder: string;
  readonly names: readonly string[];
  readonly labels: Uint8Array;
}

export interface CorruptionOptions extends Corruptions {
  readonly oracle: Oracle;
  /** Side of the model's images. */
  readonly size: number;
  /** Images of each severity to look at; undefined is all. */
  readonly limit: number | undefined;
  readonly log: EvaluationLog;
  readonly signal: AbortSignal;
  readonly progress: (update: EvaluationProgress) => void;
}

export interface CorruptionFigures {
  /** Mean over the corruptions. */
  readonly accuracy: number;
  readonly byCorruption: Readonly<Record<string, number>>;
}

/** Images of one severity in the published files. */
const SEVERITY = 10_000;

/** What there is to score. Throws a RequestError where the folder is no such folder. */
export const findCorruptions = async (folder: string): Promise<Corruptions> => {
  let names: string[];
  try {
    names = (await readdir(folder)).filter((name) => name.endsWith(".npy") && name !== "labels.npy").sort();
  } catch (error) {
    throw fileError(error, "read", folder);
  }
  if (names.length === 0) throw new RequestError(`${folder} holds no .npy files; give the folder of CIFAR-10-C`);
  const file = await openNpy(join(folder, "labels.npy"));
  const labels = await file.rows(0, file.shape[0]!);
  await file.close();
  return { folder, names, labels };
};

/** Scores every corruption of a folder; undefined where the signal came before the end. */
export const evaluateCorruptions = async (options: CorruptionOptions): Promise<CorruptionFigures | undefined> => {
  const { folder, names, labels, oracle, size, limit, log, signal, progress } = options;
  const count = labels.length;
  const byCorruption: Record<string, number> = {};
  for (const [place, name] of names.entries()) {
    const file = await openNpy(join(folder, name));
    try {
      const [n, h = 0, w = 0, channels] = file.shape;
      if (file.shape.length !== 4 || channels !== 3 || h !== w || n !== count)
        throw new RequestError(
          `${join(folder, name)} is [${file.shape.join(",")}]; expected [${count},H,H,3] as labels.npy has it`,
        );
      const stage = `corruptions/${name.slice(0, -4)}`;
      const chosen = Array.from({ length: count }, (_, i) => i).filter(
        (i) => limit === undefined || i % SEVERITY < limit,
      );
      const resize = byteResizer(h, w, size);
      let right = 0;
      for (let begin = 0, chunk = 0; begin < chosen.length; begin += oracle.batch, chunk++) {
        const members = chosen.slice(begin, begin + oracle.batch);
        let record = log.finished.get(`${stage}/${chunk}`);
        if (record === undefined) {
          if (signal.aborted) return undefined;
          const images = [];
          for (const i of members) images.push(scaled(await file.rows(i, i + 1), size, resize));
          const answers = await oracle.answer(images.map((x) => ({ kind: "logits", x })));
          const hits = answers.filter(({ logits }, k) => predictionOf(logits) === labels[members[k]!]).length;
          record = { stage, chunk, images: [], notes: { right: hits } };
          log.append(record);
        }
        right += record.notes?.right ?? 0;
        const done = begin + members.length;
        const share = (place + done / chosen.length) / names.length;
        progress({ stage, total: chosen.length, share, accuracy: right / done, images: members.length });
      }
      byCorruption[name.slice(0, -4)] = right / chosen.length;
    } finally {
      await file.close();
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
