/**
 * A classifier as attacks see it: an oracle that answers queries for logits and gradients, with models of fixed batch sizes. A
 * batch that is not full is padded with its first image and the rest of the results is dropped. Smaller models take over
 * when few images are left.
 */

import type { Norm } from "../../../graphs/attacks/threat-model.ts";
import { type Tensor, tensor } from "../../../graphs/onnx/tensor.ts";
import { isTargeted } from "../../../graphs/steps/evaluate.ts";
import type { Session } from "../../engine/session.ts";
import type { AttackSettings } from "../types.ts";
import type { Answer, AttackedImage, AttackResult, Query } from "./attack.ts";
import type { QueriedAttack } from "./attack-of.ts";
import type { OracleProgram } from "./programs.ts";

export interface OracleOptions {
  readonly image: readonly [channels: number, height: number, width: number];
  /** Largest batch. */
  readonly batch: number;
  /** Whether the model runs at that batch size only. */
  readonly fixed?: boolean;
  readonly load: (program: OracleProgram) => Promise<Session>;
}

/** PGD as a whole in one run. */
export interface PgdAttack {
  readonly norm: Norm;
  readonly eps: number;
  readonly steps: number;
  readonly stepSize: number;
}

export interface PgdRun {
  /** [n,C,H,W] */
  readonly x: Float32Array;
  /** [n,classes] of x. */
  readonly logits: Float32Array;
}

/** Who follows attacks, and may end them. */
export interface AttackWatch {
  /** Told now and then of passes through the model, one with a gradient counting as two, and of images that it answered. */
  readonly passed: (passes: number, images: number) => void;
  readonly signal: AbortSignal;
}

/** A model as attacks see it. Sessions are made when they are first needed and kept until `release`. */
export interface Oracle {
  readonly batch: number;
  /** Images that a run for n images has room for: what is not asked is computed all the same. */
  rows(n: number): number;
  /**
   * Answers queries of one kind, any number of them.
   * @param steady whether as many are going to be made again and again: a model of exactly that size is then worth its loading
   */
  answer(queries: readonly Query[], steady?: boolean): Promise<Answer[]>;
  /** A whole PGD attack on n images [n,C,H,W] at once; n up to the batch. */
  pgd(attack: PgdAttack, clean: Float32Array, start: Float32Array, labels: readonly number[]): Promise<PgdRun>;
  /** Those that answer side by side, each for a share of the images; itself where there is one. */
  readonly replicas: readonly Oracle[];
  /** Attacks images where the model is, results in their order: of an oracle in another thread, which need not be asked query by query. */
  attack?(
    attack: QueriedAttack,
    images: readonly AttackedImage[],
    settings: AttackSettings,
    watch: AttackWatch,
  ): Promise<AttackResult[]>;
  /** Frees all sessions; later queries make them anew. */
  release(): Promise<void>;
}

/** Sessions kept, the longest unused giving way: each holds the weights and the memory of its activations. */
const MAX_SESSIONS = 6;

/** Batch sizes of the models: halves, down to an eighth. */
const sizesOf = (batch: number, fixed: boolean): number[] => {
  if (fixed) return [batch];
  const sizes = [1, 2, 4, 8].map((part) => Math.ceil(batch / part));
  return [...new Set(sizes)].reverse();
};

/** Sessions of programs, of which the least recently used give way. */
class SessionCache {
  readonly #sessions = new Map<string, Session>();
  readonly #load: OracleOptions["load"];
  /** Images of runs that have ended, for those of the next one of that program. */
  readonly memory = new Map<string, Float32Array>();

  constructor(load: OracleOptions["load"]) {
    this.#load = load;
  }

  async get(name: string, program: OracleProgram): Promise<Session> {
    const sessions = this.#sessions;
    const known = sessions.get(name);
    if (known !== undefined) {
      sessions.delete(name);
      sessions.set(name, known);
      return known;
    }
    for (const [oldest, idle] of sessions) {
      if (sessions.size < MAX_SESSIONS) break;
      sessions.delete(oldest);
      await idle.release();
    }
    const made = await this.#load(program);
    sessions.set(name, made);
    return made;
  }

  async release(): Promise<void> {
    for (const made of this.#sessions.values()) await made.release();
    this.#sessions.clear();
    this.memory.clear();
  }
}

type Image = OracleOptions["image"];

/** Rows as a tensor of `size` images, padded with the first; in given memory where that is as large. */
const imagesOf = (
  rows: readonly Float32Array[],
  size: number,
  image: Image,
  memory?: Float32Array,
): Tensor<"float32"> => {
  const pixels = image[0] * image[1] * image[2];
  const data = memory?.length === size * pixels ? memory : new Float32Array(size * pixels);
  for (let i = 0; i < size; i++) data.set(rows[i] ?? rows[0]!, i * pixels);
  return tensor("float32", [size, ...image], data);
};

/** Classes as a tensor of `size`, padded with the first. */
const classesOf = (values: readonly number[], size: number): Tensor =>
  tensor(
    "int32",
    [size],
    Int32Array.from({ length: size }, (_, i) => values[i] ?? values[0] ?? 0),
  );

/** Makes 0 of what is not finite, in place; whether there was any. */
const dropInfinite = (values: Float32Array): boolean => {
  let found = false;
  for (let i = 0; i < values.length; i++)
    if (!Number.isFinite(values[i])) {
      values[i] = 0;
      found = true;
    }
  return found;
};

/** Queries of one kind, at most a batch of them, through a model of `size` images. */
const answerBatch = async (
  { image }: OracleOptions,
  sessions: SessionCache,
  queries: readonly Query[],
  size: number,
): Promise<Answer[]> => {
  const { kind } = queries[0]!;
  const rows = queries.map(({ x }) => x);
  const name = `${kind}/${size}`;
  const images = imagesOf(rows, size, image, sessions.memory.get(name));
  sessions.memory.delete(name);
  const feeds: Record<string, Tensor> = { "input.x": images };
  if (kind !== "logits") {
    const given = queries as readonly Exclude<Query, { kind: "logits" }>[];
    const [labels, targets] = [given.map(({ label }) => label), given.map(({ target }) => target)];
    feeds["input.label"] = classesOf(labels, size);
    if (isTargeted(kind)) feeds["input.target"] = classesOf(targets, size);
  }
  const session = await sessions.get(name, { kind, size });
  const { logits, loss, gradient } = (await session.run(feeds)) as Record<string, Tensor<"float32">>;
  sessions.memory.set(name, images.data);
  const classes = (logits as Tensor).shape[1]!;
  const row = (values: Tensor<"float32"> | undefined, i: number, length: number): Float32Array =>
    values === undefined ? new Float32Array(0) : values.data.slice(i * length, (i + 1) * length);
  return queries.map((_, i) => {
    const own = row(gradient, i, image[0] * image[1] * image[2]);
    return {
      logits: row(logits, i, classes),
      loss: loss === undefined ? Number.NaN : loss.data[i]!,
      gradient: own,
      ...(dropInfinite(own) && { infinite: true }),
    };
  });
};

/** A PGD attack as one run of a model. */
const runPgd = async (
  { image, batch }: OracleOptions,
  sessions: SessionCache,
  attack: PgdAttack,
  clean: Float32Array,
  start: Float32Array,
  labels: readonly number[],
): Promise<PgdRun> => {
  const n = labels.length;
  const pixels = image[0] * image[1] * image[2];
  const { norm, eps, steps, stepSize } = attack;
  const name = `pgd/${norm}/${eps}/${steps}/${stepSize}/${batch}`;
  const session = await sessions.get(name, { kind: "pgd", size: batch, attack });
  const padded = (rows: Float32Array): Tensor => {
    const each = Array.from({ length: n }, (_, i) => rows.subarray(i * pixels, (i + 1) * pixels));
    return imagesOf(each, batch, image);
  };
  const feeds = { "input.clean": padded(clean), "input.start": padded(start), "input.label": classesOf(labels, batch) };
  const { x, logits } = (await session.run(feeds)) as Record<"x" | "logits", Tensor<"float32">>;
  const classes = logits.shape[1]!;
  return { x: x.data.slice(0, n * pixels), logits: logits.data.slice(0, n * classes) };
};

/** Images of the smallest model that holds n. */
export const roomFor = ({ batch, fixed = false }: Pick<OracleOptions, "batch" | "fixed">): Oracle["rows"] => {
  const sizes = sizesOf(batch, fixed);
  return (n) => sizes.find((size) => size >= n) ?? batch;
};

/** An oracle whose sessions are made of programs that are told in plain data. */
export const oracleOf = (options: OracleOptions): Oracle => {
  const { batch, fixed = false, load } = options;
  const sessions = new SessionCache(load);
  const smallestFor = roomFor(options);
  const oracle: Oracle = {
    batch,
    get replicas() {
      return [oracle];
    },
    rows: smallestFor,
    answer: async (queries, steady = false) => {
      const answers: Answer[] = [];
      for (let i = 0; i < queries.length; i += batch) {
        const part = queries.slice(i, i + batch);
        const size = steady && !fixed ? part.length : smallestFor(part.length);
        answers.push(...(await answerBatch(options, sessions, part, size)));
      }
      return answers;
    },
    pgd: (attack, clean, start, labels) => runPgd(options, sessions, attack, clean, start, labels),
    release: () => sessions.release(),
  };
  return oracle;
};
