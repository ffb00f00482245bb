/** Sessions: what they are is in session-contract.ts, who makes them is chosen here. */
import type { Model } from "../../graphs/onnx/write.ts";
import { createBindingSession } from "./binding.ts";
import { createNativeSession } from "./native/session.ts";
import type { Session, SessionOptions } from "./session-contract.ts";

export {
  byteLength,
  DeviceTensor,
  type EngineName,
  explained,
  type Feeds,
  type Provider,
  type Session,
  type SessionOptions,
  unavailable,
} from "./session-contract.ts";

/** Loads a model. Throws a RequestError where the provider is not there, a RunError where the engine refuses the model. */
export const createSession = (model: Model | Uint8Array, options: SessionOptions = {}): Promise<Session> =>
  options.engine === "native" ? createNativeSession(model, options) : createBindingSession(model, options);
