import { parentPort } from "node:worker_threads";
import { createSession, type Session } from "./session.ts";
import { type Handover, handedOver, handover, type SessionReply, type SessionRequest } from "./session-channel.ts";

/** A thread that holds sessions and runs them; see session-thread.ts. */

const port = parentPort!;
/** A session with the memory of its feeds and of its results. */
interface Held {
  readonly session: Session;
  readonly feeds: Handover;
  readonly results: Handover;
}
const sessions = new Map<number, Held>();

const run = async ({ session, ...memory }: Held, request: SessionRequest & { kind: "run" }) => {
  if (!request.over) return session.run(request.feeds, request.fetches);
  return handedOver(memory.results, await session.run(handedOver(memory.feeds, request.feeds), request.fetches));
};

const answer = async (request: SessionRequest): Promise<Omit<SessionReply, "id">> => {
  if (request.kind === "create") {
    const session = await createSession(request.bytes, request.options);
    sessions.set(request.session, { session, feeds: handover(ArrayBuffer), results: handover(SharedArrayBuffer) });
    return { names: { inputNames: session.inputNames, outputNames: session.outputNames } };
  }
  const held = sessions.get(request.session) as Held;
  if (request.kind === "run") return { results: await run(held, request) };
  sessions.delete(request.session);
  await held.session.release();
  return {};
};

let turn: Promise<void> = Promise.resolve();
port.on("message", (request: SessionRequest) => {
  turn = turn.then(async () => {
    const reply: SessionReply = await answer(request)
      .catch((error: unknown) => ({ error: error instanceof Error ? error.message : String(error) }))
      .then((given) => ({ id: request.id, ...given }));
    port.postMessage(reply);
  });
});
