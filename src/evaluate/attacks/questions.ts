/**
 * Answers the questions of attacks with models of fixed batch sizes: a batch that is not full is padded with its first
 * image and the rest of the results is dropped. Smaller models take over when few images are left.
 *
 * Several such models in threads of their own answer side by side (`inLanes`): two cores get through small batches 1.3 times
 * as fast so as when they share each product (ResNet-18 of width 16).
 */

import type { PgdOptions } from "../../../graphs/attacks/pgd.ts";
import type { Value } from "../../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../../graphs/onnx/tensor.ts";
import { type Classifier, gradientStep, isTargeted, logitsStep, pgdStep } from "../../../graphs/steps/evaluate.ts";
import type { Engine } from "../../engine/engine.ts";
import type { Feeds, Session } from "../../engine/session.ts";
import type { Answer, Query } from "./attack.ts";

export interface QuestionOptions {
  readonly classifier: Classifier;
  readonly image: readonly [channels: number, height: number, width: number];
  /** Largest batch. */
  readonly batch: number;
  /** Whether the model runs at that batch size only. */
  readonly fixed?: boolean;
  readonly load: Engine["loadEvaluation"];
}

export interface PgdRun {
  /** [n,C,H,W] */
  readonly x: Float32Array;
  /** [n,classes] of x. */
  readonly logits: Float32Array;
}

/** A model as attacks see it. Sessions are made when they are first needed and kept until `release`. */
export interface Questions {
  readonly batch: number;
  /** Images that a run for n images has room for: what is not asked is computed all the same. */
  rows(n: number): number;
  /**
   * Answers questions of one kind, any number of them.
   * @param steady whether as many are going to be asked again and again: a model of exactly that size is then worth its loading
   */
  answer(queries: readonly Query[], steady?: boolean): Promise<Answer[]>;
  /** A whole PGD attack on n images [n,C,H,W] at once; n up to the batch. */
  pgd(options: PgdOptions, clean: Float32Array, start: Float32Array, labels: readonly number[]): Promise<PgdRun>;
  /** Those that answer side by side, each for a share of the images; itself where there is one. */
  readonly lanes: readonly Questions[];
  /** Frees all sessions; later questions make them anew. */
  release(): Promise<void>;
}

/** Sessions kept, the longest unused giving way: each holds the weights and the memory of its activations. */
const MOST_SESSIONS = 6;

/** Batch sizes of the models: halves, down to an eighth. */
const sizesOf = (batch: number, fixed: boolean): number[] => {
  if (fixed) return [batch];
  const sizes = [1, 2, 4, 8].map((part) => Math.ceil(batch / part));
  return [...new Set(sizes)].reverse();
};

export const askModel = ({ classifier, image, batch, fixed = false, load }: QuestionOptions): Questions => {
  const pixels = image[0] * image[1] * image[2];
  const sizes = sizesOf(batch, fixed);
  const sessions = new Map<string, Session>();
  const sessionOf = async (name: string, build: () => Record<string, Value>): Promise<Session> => {
    const known = sessions.get(name);
    if (known !== undefined) {
      sessions.delete(name);
      sessions.set(name, known);
      return known;
    }
    for (const [oldest, idle] of sessions) {
      if (sessions.size < MOST_SESSIONS) break;
      sessions.delete(oldest);
      await idle.release();
    }
    const made = await load(build());
    sessions.set(name, made);
    return made;
  };
  const smallestFor = (n: number): number => sizes.find((size) => size >= n) ?? batch;

  const imagesOf = (rows: readonly Float32Array[], size: number): Tensor => {
    const data = new Float32Array(size * pixels);
    for (let i = 0; i < size; i++) data.set(rows[i] ?? (rows[0] as Float32Array), i * pixels);
    return tensor("float32", [size, ...image], data);
  };
  const classesOf = (values: readonly number[], size: number): Tensor =>
    tensor(
      "int32",
      [size],
      Int32Array.from({ length: size }, (_, i) => values[i] ?? values[0] ?? 0),
    );

  const batchOf = async (queries: readonly Query[], steady: boolean): Promise<Answer[]> => {
    const { kind } = queries[0] as Query;
    const size = steady && !fixed ? queries.length : smallestFor(queries.length);
    const feeds: Record<string, Tensor> = {
      "input.x": imagesOf(
        queries.map((q) => q.x),
        size,
      ),
    };
    let made: Session;
    if (kind === "logits")
      made = await sessionOf(`logits/${size}`, () => logitsStep(classifier, { batch: size, image }));
    else {
      made = await sessionOf(`${kind}/${size}`, () => gradientStep(classifier, { batch: size, image }, kind));
      const asked = queries as readonly Exclude<Query, { kind: "logits" }>[];
      feeds["input.label"] = classesOf(
        asked.map((q) => q.label),
        size,
      );
      if (isTargeted(kind))
        feeds["input.target"] = classesOf(
          asked.map((q) => q.target),
          size,
        );
    }
    const { logits, loss, gradient } = (await made.run(feeds)) as Record<string, Tensor<"float32">>;
    const classes = (logits as Tensor).shape[1] as number;
    const row = (values: Tensor<"float32"> | undefined, i: number, length: number): Float32Array =>
      values === undefined ? new Float32Array(0) : values.data.slice(i * length, (i + 1) * length);
    return queries.map((_, i) => ({
      logits: row(logits, i, classes),
      loss: loss === undefined ? Number.NaN : (loss.data[i] as number),
      gradient: row(gradient, i, pixels),
    }));
  };

  const questions: Questions = {
    batch,
    get lanes() {
      return [questions];
    },
    rows: smallestFor,
    answer: async (queries, steady = false) => {
      const answers: Answer[] = [];
      for (let i = 0; i < queries.length; i += batch)
        answers.push(...(await batchOf(queries.slice(i, i + batch), steady)));
      return answers;
    },
    pgd: async (options, clean, start, labels) => {
      const n = labels.length;
      const name = `pgd/${options.threat.name}/${options.threat.eps}/${options.steps}/${options.stepSize}`;
      const made = await sessionOf(`${name}/${batch}`, () => pgdStep(classifier, { batch, image }, options));
      const padded = (rows: Float32Array): Tensor =>
        imagesOf(
          Array.from({ length: n }, (_, i) => rows.subarray(i * pixels, (i + 1) * pixels)),
          batch,
        );
      const feeds: Feeds = {
        "input.clean": padded(clean),
        "input.start": padded(start),
        "input.label": classesOf(labels, batch),
      };
      const { x, logits } = (await made.run(feeds)) as Record<"x" | "logits", Tensor<"float32">>;
      const classes = logits.shape[1] as number;
      return { x: x.data.slice(0, n * pixels), logits: logits.data.slice(0, n * classes) };
    },
    release: async () => {
      for (const made of sessions.values()) await made.release();
      sessions.clear();
    },
  };
  return questions;
};

/** Cuts [0, n) into as many parts, equal but for one. */
const partsOf = (n: number, parts: number): readonly (readonly [begin: number, end: number])[] =>
  Array.from({ length: parts }, (_, k) => [Math.floor((n * k) / parts), Math.floor((n * (k + 1)) / parts)] as const);

/** One from several, of which each answers its part. The largest batch is theirs together, or a little less. */
export const inLanes = (lanes: readonly Questions[], batch: number): Questions => {
  const [first] = lanes as [Questions];
  const each = async <T>(n: number, ask: (lane: Questions, begin: number, end: number) => Promise<T>): Promise<T[]> => {
    const parts = partsOf(n, lanes.length);
    const busy = lanes.flatMap((lane, k) => {
      const [begin, end] = parts[k] as readonly [number, number];
      return begin === end ? [] : [ask(lane, begin, end)];
    });
    return Promise.all(busy);
  };
  return {
    batch,
    lanes,
    rows: first.rows,
    answer: async (queries, steady) =>
      (await each(queries.length, (lane, begin, end) => lane.answer(queries.slice(begin, end), steady))).flat(),
    pgd: async (options, clean, start, labels) => {
      const pixels = clean.length / labels.length;
      const runs = await each(labels.length, (lane, begin, end) => {
        const part = (rows: Float32Array) => rows.subarray(begin * pixels, end * pixels);
        return lane.pgd(options, part(clean), part(start), labels.slice(begin, end));
      });
      const joined = (rows: readonly Float32Array[]): Float32Array => {
        const out = new Float32Array(rows.reduce((sum, { length }) => sum + length, 0));
        let at = 0;
        for (const part of rows) {
          out.set(part, at);
          at += part.length;
        }
        return out;
      };
      return { x: joined(runs.map(({ x }) => x)), logits: joined(runs.map(({ logits }) => logits)) };
    },
    release: async () => {
      await Promise.all(lanes.map((lane) => lane.release()));
    },
  };
};
