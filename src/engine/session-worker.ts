import { parentPort } from "node:worker_threads";
import { createSession, type Session } from "./session.ts";
import type { SessionReply, SessionRequest } from "./session-channel.ts";

/** A thread that holds sessions and runs them; see session-thread.ts. */

const port = parentPort!;
const sessions = new Map<number, Session>();

const answer = async (request: SessionRequest): Promise<Omit<SessionReply, "id">> => {
  if (request.kind === "create") {
    const made = await createSession(request.bytes, request.options);
    sessions.set(request.session, made);
    return { names: { inputNames: made.inputNames, outputNames: made.outputNames } };
  }
  const session = sessions.get(request.session) as Session;
  if (request.kind === "run") return { results: await session.run(request.feeds, request.fetches) };
  sessions.delete(request.session);
  await session.release();
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
