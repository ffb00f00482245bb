/** A verb whose work threads of this process share as ranks: this thread is rank 0, the others perform the same verb silently. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { asRank, joinThreads, OtherRankFailed, sharedMemory, type ThreadPlace } from "../distributed/threads.ts";
import { compiledFile } from "../engine/compiled.ts";
import { RequestError, RunError } from "../errors.ts";
import type { SettingValue } from "../settings/name.ts";

/** What a rank's thread is started with. */
export interface RankData {
  readonly verb: string;
  readonly settings: Readonly<Record<string, SettingValue>>;
  readonly place: ThreadPlace;
}

/** What it says at its end. */
export interface RankReply {
  readonly failed?: { readonly kind: string; readonly message: string };
}

export interface RankRequest {
  readonly verb: string;
  readonly settings: Readonly<Record<string, SettingValue>>;
  /** How many ranks there are, this thread among them. */
  readonly size: number;
  readonly limitSeconds: number;
  readonly signal: AbortSignal | undefined;
}

const errorOf = ({ kind, message }: NonNullable<RankReply["failed"]>, rank: number): Error =>
  kind === "RequestError" ? new RequestError(message) : new RunError(`rank ${rank}: ${message}`);

/** A thread that performs the verb as a rank; what it says at its end, and undefined where it ended without a word. */
const startRank = (data: RankData, signal: AbortSignal | undefined): Promise<RankReply | undefined> => {
  const worker = new Worker(compiledFile("verbs/rank-worker.js"), { workerData: data });
  const abort = () => worker.postMessage("abort");
  signal?.addEventListener("abort", abort, { once: true });
  let reply: RankReply | undefined;
  worker.on("message", (said: RankReply) => {
    reply = said;
  });
  worker.on("error", ({ message }: Error) => {
    reply = { failed: { kind: "Error", message } };
  });
  return once(worker, "exit").then(() => {
    signal?.removeEventListener("abort", abort);
    return reply;
  });
};

/** Performs a verb in this thread as rank 0 and in others; throws what the first rank that failed threw. */
export const overThreads = async <T>(
  { verb, settings, size, limitSeconds, signal }: RankRequest,
  perform: () => Promise<T>,
): Promise<T> => {
  const memory = sharedMemory(size);
  const placeOf = (rank: number): ThreadPlace => ({ rank, size, memory, limitSeconds });
  const own = joinThreads(placeOf(0));
  const others = Array.from({ length: size - 1 }, (_, i) =>
    startRank({ verb, settings, place: placeOf(i + 1) }, signal).then((reply) => {
      if (reply === undefined || reply.failed !== undefined) own.fail();
      return reply;
    }),
  );
  const [mine, ...replies] = await Promise.allSettled([asRank(own, perform), ...others]);
  if (mine!.status === "fulfilled") return mine.value as T;
  if (!(mine!.reason instanceof OtherRankFailed)) throw mine!.reason;
  for (const [i, reply] of replies.entries()) {
    const { failed } = (reply as PromiseFulfilledResult<RankReply | undefined>).value ?? {};
    if (failed !== undefined && failed.kind !== "OtherRankFailed") throw errorOf(failed, i + 1);
  }
  throw new RunError("a thread of this process ended without a word; go on with --resume");
};
