/**
 * Oracles in threads of their own. onnxruntime-node computes in the thread that calls it: sessions of one thread run one after the
 * other, those of several threads side by side. An attack of ours runs where the sessions are: with a message for each batch, the
 * threads waited a tenth of the time for the one that led all attacks (ResNet-18 of width 16, two cores).
 */
import { Worker } from "node:worker_threads";
import { float32 } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { compiledFile } from "../../engine/compiled.ts";
import { handover } from "../../engine/handover.ts";
import { explained, type SessionOptions } from "../../engine/session.ts";
import { withoutTelemetry } from "../../engine/telemetry.ts";
import { RunError } from "../../errors.ts";
import { Interrupted } from "../../verbs/verb.ts";
import type { Answer, AttackResult, Query } from "./attack.ts";
import { type AttackWatch, type Oracle, type OracleOptions, type PgdRun, roomFor } from "./oracle.ts";
import type { OracleProgram } from "./programs.ts";
import type { PackedAnswers, ReplicaData, ReplicaQuestion, ReplicaReply, ReplicaRequest } from "./replica-channel.ts";
import { packed } from "./rows.ts";

export interface ReplicaOptions extends Omit<OracleOptions, "load"> {
  readonly session: SessionOptions;
  /** Builds a program. */
  readonly model: (program: OracleProgram) => Model;
}

/** An oracle in a thread; it is `release`d with its thread. */
export interface Replica extends Oracle {
  readonly attack: NonNullable<Oracle["attack"]>;
}

/** Models that are kept for the next thread that asks: threads ask for the same ones at about the same time. */
const KEPT = 2;

/** Models by their programs, the last few of which are built once for all threads. */
export const sharedModels = (model: ReplicaOptions["model"]): ReplicaOptions["model"] => {
  const kept = new Map<string, Model>();
  return (program) => {
    const key = JSON.stringify(program);
    const made = kept.get(key) ?? model(program);
    kept.delete(key);
    kept.set(key, made);
    const [oldest] = kept.keys();
    if (kept.size > KEPT) kept.delete(oldest!);
    return made;
  };
};

interface Waiting {
  done(result: unknown): void;
  failed(error: Error): void;
}

/** A thread, and the questions that wait for it. It starts with its first question. */
class ReplicaThread {
  readonly #data: ReplicaData;
  readonly #model: ReplicaOptions["model"];
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #asked = 0;
  /** Who follows the attack that is under way. */
  #watch: AttackWatch | undefined;
  /** Why a program could not be built: the thread only hears that. */
  #unbuilt: Error | undefined;

  constructor({ session, model, ...oracle }: ReplicaOptions) {
    this.#data = { oracle, session };
    this.#model = model;
  }

  async ask(question: ReplicaQuestion, watch?: AttackWatch): Promise<unknown> {
    this.#worker ??= this.#start();
    this.#unbuilt = undefined;
    this.#watch = watch;
    const id = this.#asked++;
    const answered = new Promise((done, failed) => this.#waiting.set(id, { done, failed }));
    const stop = () => this.#post({ kind: "stop" });
    this.#post({ kind: "question", id, question });
    if (watch?.signal.aborted) stop();
    watch?.signal.addEventListener("abort", stop);
    try {
      return await answered;
    } finally {
      watch?.signal.removeEventListener("abort", stop);
    }
  }

  /** Ends an attack that is under way, then the thread: one that is ended within onnxruntime takes the process with it. */
  async close(): Promise<void> {
    if (this.#worker === undefined) return;
    this.#post({ kind: "stop" });
    await this.ask({ kind: "release" });
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.terminate();
  }

  #post(request: ReplicaRequest): void {
    this.#worker?.postMessage(request);
  }

  #start(): Worker {
    withoutTelemetry();
    const started = new Worker(compiledFile("evaluate/attacks/replica-worker.js"), { workerData: this.#data });
    const fail = (reason: string): void => {
      for (const { failed } of this.#waiting.values()) failed(new RunError(`a thread of attacks failed: ${reason}`));
      this.#waiting.clear();
    };
    started.on("message", (reply: ReplicaReply) => this.#hear(reply));
    started.on("error", (error) => fail(error.message));
    started.on("exit", (code) => {
      if (this.#worker !== started) return;
      this.#worker = undefined;
      fail(`it ended with code ${code}`);
    });
    return started;
  }

  #hear(reply: ReplicaReply): void {
    if (reply.kind === "passed") this.#watch?.passed(reply.passes, reply.images);
    else if (reply.kind === "program") this.#build(reply.program, reply.wanted);
    else {
      const { done, failed } = this.#waiting.get(reply.id) as Waiting;
      this.#waiting.delete(reply.id);
      if (reply.kind === "answer") done(reply.result);
      else if (reply.kind === "stopped") failed(new Interrupted(""));
      else failed(this.#unbuilt ?? this.#explained(reply.message, reply.program));
    }
  }

  #build(program: number, wanted: OracleProgram): void {
    try {
      this.#post({ kind: "program", program, bytes: this.#model(wanted).bytes });
    } catch (error) {
      this.#unbuilt = error as Error;
      this.#post({ kind: "program", program });
    }
  }

  /** Says where the program made what onnxruntime refused. */
  #explained(message: string, program: OracleProgram | undefined): Error {
    return program === undefined ? new Error(message) : explained(message, this.#model(program));
  }
}

/** Opens an oracle in a thread of its own. */
export const openReplica = (options: ReplicaOptions): Replica => {
  const thread = new ReplicaThread(options);
  const images = handover();
  const given = (queries: readonly Query[]) =>
    images("x", float32([queries.length, queries[0]!.x.length], packed(queries.map(({ x }) => x))));
  const answer = async (queries: readonly Query[], steady?: boolean): Promise<Answer[]> => {
    if (queries.length === 0) return [];
    const aimed = queries as readonly Exclude<Query, { kind: "logits" }>[];
    const [labels, targets] = [aimed.map(({ label }) => label), aimed.map(({ target }) => target)];
    const { kind: asked } = queries[0]!;
    const question = { kind: "answer", asked, images: given(queries), labels, targets, steady } as const;
    return unpacked((await thread.ask(question)) as PackedAnswers);
  };
  const replica: Replica = {
    batch: options.batch,
    get replicas() {
      return [replica];
    },
    rows: roomFor(options),
    answer,
    pgd: (attack, clean, start, labels) => thread.ask({ kind: "pgd", attack, clean, start, labels }) as Promise<PgdRun>,
    attack: (attack, images, settings, watch) => {
      // A view would bring along all that it is a part of.
      const copies = images.map((image) => ({ ...image, clean: image.clean.slice() }));
      return thread.ask({ kind: "attack", attack, images: copies, settings }, watch) as Promise<AttackResult[]>;
    },
    release: () => thread.close(),
  };
  return replica;
};

/** Answers in memory of their own: the next ones lie where these do. */
const unpacked = ({ values, infinite }: PackedAnswers): Answer[] => {
  const row = (name: string, i: number): Float32Array => {
    const { shape, data } = values[name]!;
    return (data as Float32Array).slice(i * shape[1]!, (i + 1) * shape[1]!);
  };
  const losses = values.loss!.data as Float32Array;
  return infinite.map((some, i) => ({
    logits: row("logits", i),
    loss: losses[i]!,
    gradient: row("gradient", i),
    ...(some && { infinite: true }),
  }));
};
