/**
 * Sessions in a thread of their own. onnxruntime-node computes in the thread that calls it: sessions of one thread run one after
 * the other and nothing else happens meanwhile, those of several threads run side by side.
 */
import { Worker } from "node:worker_threads";
import type { Model } from "../../graphs/onnx/write.ts";
import { RunError } from "../errors.ts";
import { compiledFile } from "./compiled.ts";
import { explained, type Session, type SessionOptions } from "./session.ts";
import { handedOver, handover, type SessionReply, type SessionRequest } from "./session-channel.ts";
import { withoutTelemetry } from "./telemetry.ts";

export interface SessionThread {
  /** Loads a model in the thread. Results of a run hold until the next one of the session, which writes over them. */
  createSession(model: Model, options: SessionOptions): Promise<Session>;
  /** Ends the thread, and its sessions with it. */
  close(): Promise<void>;
}

type Without<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

/** Starts a thread with its first session. */
export const sessionThread = (): SessionThread => {
  const waiting = new Map<number, { done(reply: SessionReply): void; failed(error: Error): void }>();
  let worker: Worker | undefined;
  let closing = false;
  let [asked, made] = [0, 0];
  const start = (): Worker => {
    withoutTelemetry();
    const started = new Worker(compiledFile("engine/session-worker.js"));
    const fail = (cause: unknown): void => {
      const reason = cause instanceof Error ? cause.message : String(cause);
      for (const { failed } of waiting.values()) failed(new RunError(`a thread of sessions failed: ${reason}`));
      waiting.clear();
    };
    started.on("message", (reply: SessionReply) => {
      waiting.get(reply.id)?.done(reply);
      waiting.delete(reply.id);
    });
    started.on("error", fail);
    started.on("exit", (code) => {
      if (!closing) fail(new Error(`it ended with code ${code}`));
    });
    return started;
  };
  const ask = async (request: Without<SessionRequest, "id">, model: Model): Promise<SessionReply> => {
    const id = asked++;
    worker ??= start();
    const reply = await new Promise<SessionReply>((done, failed) => {
      waiting.set(id, { done, failed });
      worker?.postMessage({ id, ...request });
    });
    if (reply.error !== undefined) throw explained(reply.error, model);
    return reply;
  };
  return {
    createSession: async (model, options) => {
      const session = made++;
      const { names } = await ask({ kind: "create", session, bytes: model.bytes, options }, model);
      const shared = handover(SharedArrayBuffer);
      let running = 0;
      const unsupported = () => {
        throw new Error("internal: sessions of a thread neither keep values on a device nor profile");
      };
      return {
        ...(names as NonNullable<typeof names>),
        run: async (feeds, fetches) => {
          // Memory that both threads see is of one run at a time; what is asked beside it goes by itself.
          const over = running === 0;
          running++;
          try {
            const given = over ? handedOver(shared, feeds) : feeds;
            const { results } = await ask({ kind: "run", session, feeds: given, fetches, over }, model);
            return results as NonNullable<typeof results>;
          } finally {
            running--;
          }
        },
        runOnDevice: unsupported,
        endProfiling: unsupported,
        release: async () => void (await ask({ kind: "release", session }, model)),
      };
    },
    close: async () => {
      closing = true;
      await worker?.terminate();
    },
  };
};
