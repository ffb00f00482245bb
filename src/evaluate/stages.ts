/**
 * Stages of an evaluation: one attack each, on the images that are still right for it, in chunks of a batch. A chunk, once
 * done, is a line of the log, so that a killed evaluation goes on after its last whole chunk and ends with the same numbers.
 * Chunks are fixed by what came before them, never by where a run was cut.
 */
import { alone } from "../distributed/collective.ts";
import { RequestError } from "../errors.ts";
import { type PlannedStage, planStages } from "./attack-list.ts";
import { recordsOf } from "./dealt.ts";
import type { ChunkRecord, EvaluationRequest, ImageOutcome } from "./types.ts";
import { warningsOf } from "./warnings.ts";

/** What a stage does to a chunk: outcomes and images. */
export interface ChunkResult {
  readonly images: readonly ImageOutcome[];
  readonly x: readonly Float32Array[];
  readonly notes?: Readonly<Record<string, number>>;
}

/** Does a chunk; tells the passes through the model that it has made meanwhile, and the images that they answered. */
export type RunChunk = (
  chunk: readonly number[],
  passed: (passes: number, images: number) => void,
) => Promise<ChunkResult>;

export class Stages {
  readonly warnings: string[] = [];
  /** What each stage found, by image. */
  readonly outcomes = new Map<string, Map<number, ImageOutcome>>();
  readonly #request: EvaluationRequest;
  readonly #plan: readonly PlannedStage[];
  /** Passes that finished chunks count for. */
  #spent = 0;

  constructor(request: EvaluationRequest) {
    this.#request = request;
    this.#plan = planStages(request.attacks, request.settings);
  }

  /** Runs a stage over positions, chunk by chunk; those that the log holds are taken from it. Returns what was noticed. */
  async run(name: string, positions: readonly number[], runChunk: RunChunk): Promise<Readonly<Record<string, number>>> {
    const { batch } = this.#request.oracle;
    const found = new Map<number, ImageOutcome>();
    this.outcomes.set(name, found);
    const notes: Record<string, number> = {};
    const each = this.#passes(name);
    let outlook = this.#outlook(name, positions, found, 0);
    const report = (passes: number, images: number) =>
      this.#request.progress({
        stage: name,
        total: positions.length,
        share: (this.#spent + passes) / (this.#spent + outlook.ahead),
        accuracy: outlook.accuracy,
        images,
      });
    const chunks = Array.from({ length: Math.ceil(positions.length / batch) }, (_, chunk) => {
      const members = positions.slice(chunk * batch, (chunk + 1) * batch);
      let passes = 0;
      const passed = (more: number, answered: number) => {
        passes += more;
        report(Math.min(passes, members.length * each), answered);
      };
      return { stage: name, chunk, members, make: () => this.#make(name, chunk, members, passed, runChunk) };
    });
    // As many at once as there are processes.
    const { size } = this.#request.ranks ?? alone;
    for (let begin = 0; begin < chunks.length; begin += size) {
      const dealt = chunks.slice(begin, begin + size);
      const records = await recordsOf(dealt, this.#request);
      for (const [i, { members }] of dealt.entries()) {
        const record = this.#checked(records[i]!, members);
        for (const outcome of record.images) found.set(outcome.i, outcome);
        for (const [note, count] of Object.entries(record.notes ?? {})) notes[note] = (notes[note] ?? 0) + count;
        this.#spent += members.length * each;
        outlook = this.#outlook(name, positions, found, (begin + i) * batch + members.length);
        report(0, members.length);
      }
    }
    this.warnings.push(...warningsOf(name, notes, positions.length));
    return notes;
  }

  /** Positions that a stage left standing. */
  survivors(stage: string, positions: readonly number[]): number[] {
    const found = this.outcomes.get(stage);
    return positions.filter((i) => found?.get(i)?.broken === false);
  }

  async #make(
    stage: string,
    chunk: number,
    members: readonly number[],
    passed: (passes: number, images: number) => void,
    runChunk: RunChunk,
  ): Promise<{ record: ChunkRecord; x: readonly Float32Array[] }> {
    const { images, x, notes } = await runChunk(members, passed);
    return { record: { stage, chunk, images, ...(notes && { notes }) }, x };
  }

  /** A record, which has to be of the images that the chunk has in this evaluation. */
  #checked(record: ChunkRecord, members: readonly number[]): ChunkRecord {
    if (record.images.map(({ i }) => i).join() !== members.join())
      throw new RequestError(
        `the log of finished batches does not fit this evaluation (${record.stage}); choose another folder`,
      );
    return record;
  }

  #passes(stage: string): number {
    return this.#plan.find(({ name }) => name === stage)?.passes ?? 0;
  }

  /** The passes still to come, where no image breaks that still stands, and the accuracy by now: `done` images of the stage are. */
  #outlook(
    stage: string,
    positions: readonly number[],
    found: ReadonlyMap<number, ImageOutcome>,
    done: number,
  ): { readonly ahead: number; readonly accuracy: number } {
    const { count } = this.#request.images;
    const broken = [...found.values()].filter((outcome) => outcome.broken).length;
    const standing = positions.length - broken;
    const clean = [...(this.outcomes.get("clean")?.keys() ?? [])];
    const right = stage === "clean" ? standing : this.survivors("clean", clean).length;
    const inAutoattack = stage.startsWith("autoattack/");
    const later = this.#plan.slice(this.#plan.findIndex(({ name }) => name === stage) + 1);
    const ahead = later.reduce(
      (sum, { name, passes }) => sum + passes * (inAutoattack && name.startsWith("autoattack/") ? standing : right),
      (positions.length - done) * this.#passes(stage),
    );
    return { ahead, accuracy: stage === "clean" ? (done - broken) / done : standing / count };
  }
}
