/** The thread of a rank (rank-threads.ts): the verb that the main thread performs, on its share of every batch, silently. */
import { parentPort, workerData } from "node:worker_threads";
import { asRank, joinThreads, OtherRankFailed } from "../distributed/threads.ts";
import type { RankData, RankReply } from "./rank-threads.ts";
import { quietReporter, type Reporter } from "./reporter.ts";
import type { Verb } from "./verb.ts";

const { verb, settings, place } = workerData as RankData;
const port = parentPort!;
const tell = (reply: RankReply): void => port.postMessage(reply);

const aborting = new AbortController();
port.once("message", () => aborting.abort());

/** Rank 0 says what is to be said. */
const silent: Reporter = { ...quietReporter, warn: () => {} };

try {
  const verbs = (await import("../index.ts")) as unknown as Readonly<Record<string, Verb<never, unknown>>>;
  const { perform } = verbs[verb] as Verb<never, unknown>;
  await asRank(joinThreads(place), () => perform(settings as never, { reporter: silent, signal: aborting.signal }));
  tell({});
} catch (error) {
  const { name, message } = error as Error;
  tell({ failed: { kind: error instanceof OtherRankFailed ? "OtherRankFailed" : name, message } });
} finally {
  port.close();
}
