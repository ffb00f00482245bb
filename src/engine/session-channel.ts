import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Feeds, SessionOptions } from "./session.ts";

/** What a thread of sessions is asked (session-thread.ts), one thing after the other; `session` is a number of the asker's. */
export type SessionRequest = { readonly id: number; readonly session: number } & (
  | { readonly kind: "create"; readonly bytes: Uint8Array; readonly options: SessionOptions }
  | { readonly kind: "run"; readonly feeds: Feeds; readonly fetches?: readonly string[] | undefined }
  | { readonly kind: "release" }
);

/** Names of a session that was created, results of a run, or why there are none. */
export interface SessionReply {
  readonly id: number;
  readonly names?: { readonly inputNames: readonly string[]; readonly outputNames: readonly string[] };
  readonly results?: Readonly<Record<string, Tensor>>;
  readonly error?: string;
}
