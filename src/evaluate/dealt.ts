/**
 * Chunks of an evaluation, dealt out over the processes that share it: each does one, then all tell each other, and every one
 * goes on with the same log. What a chunk gives does not depend on who did it.
 */
import { deserialize, serialize } from "node:v8";
import { alone, type Collective, gathered, isMine } from "../distributed/collective.ts";
import { Interrupted } from "../verbs/verb.ts";
import type { ChunkRecord, EvaluationLog } from "./types.ts";

export interface Dealing {
  readonly log: EvaluationLog;
  readonly signal: AbortSignal;
  readonly ranks?: Collective;
}

export interface Chunk {
  readonly stage: string;
  readonly chunk: number;
  /** Does it: the record, and the images that the log may keep. */
  make(): Promise<{ readonly record: ChunkRecord; readonly x: readonly Float32Array[] }>;
}

type Made = Awaited<ReturnType<Chunk["make"]>>;

/** This rank's chunk of some that wait; undefined where it has none, or was stopped within. */
const own = async (waiting: readonly Chunk[], ranks: Collective, signal: AbortSignal): Promise<Made | undefined> => {
  const chunk = waiting.find((_, i) => isMine(ranks, i));
  try {
    return signal.aborted ? undefined : await chunk?.make();
  } catch (error) {
    if (error instanceof Interrupted) return undefined;
    throw error;
  }
};

/**
 * The records of chunks, as many at most as there are processes: of the log, or made now and logged.
 *
 * @throws Interrupted where any process was asked to stop; what was finished is logged
 */
export const recordsOf = async (chunks: readonly Chunk[], dealing: Dealing): Promise<ChunkRecord[]> => {
  const { log, signal, ranks = alone } = dealing;
  const waiting = chunks.filter(({ stage, chunk }) => !log.finished.has(`${stage}/${chunk}`));
  const found = new Map<string, ChunkRecord>();
  if (waiting.length > 0) {
    const made = await own(waiting, ranks, signal);
    const told =
      ranks.size === 1
        ? [made]
        : (await gathered(ranks, serialize(made))).map((bytes) => deserialize(bytes) as Made | undefined);
    for (const one of told) {
      if (one === undefined) continue;
      await log.keep?.(one.record, one.x);
      log.append(one.record);
      found.set(`${one.record.stage}/${one.record.chunk}`, one.record);
    }
    // One that is missing was stopped, on whichever rank, and all of them see so.
    if (found.size < waiting.length) throw new Interrupted("");
  }
  return chunks.map(({ stage, chunk }) => {
    const key = `${stage}/${chunk}`;
    return (found.get(key) ?? log.finished.get(key)) as ChunkRecord;
  });
};
