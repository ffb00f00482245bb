/** Sessions by the C API of onnxruntime, through koffi: what the binding does, and what it does not show. */

import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { RequestError, RunError } from "../../errors.ts";
import {
  checkedFeed,
  explained,
  type Feeds,
  type Session,
  type SessionOptions,
  unavailable,
} from "../session-contract.ts";
import { type Argument, Handle, missingApi, type OrtApi, ortApi } from "./api.ts";
import { type BoundProgram, bindProgram } from "./bound-program.ts";
import { collectiveOps, speaks } from "./collective-ops.ts";
import { loadCudaRuntime } from "./cuda-runtime.ts";
import { type CustomOpDomain, customOpDomain } from "./custom-op.ts";
import { cudaPlaces, type Memory } from "./memory.ts";
import { sessionOptions } from "./options.ts";
import { runOnce } from "./run-once.ts";
import { type SlotType, typeOfSlot } from "./values.ts";

export interface NativeSession extends Session {
  readonly api: OrtApi;
  /** Types of inputs and outputs as the engine has them. */
  readonly inputs: ReadonlyMap<string, SlotType>;
  readonly outputs: ReadonlyMap<string, SlotType>;
  /** Address of the session; throws once it is released. */
  readonly address: bigint;
  /** Whether runs that are bound are replayed as a CUDA graph. */
  readonly graph: boolean;
  /** Takes a turn: what is given runs when all before it has ended, and before the session is released. */
  turn<T>(work: () => Promise<T>): Promise<T>;
  /** A feed of the type that the model and the engine want; throws a RunError. */
  checked(name: string, value: Tensor | undefined): Tensor;
  /** Calls what computes: in another thread on the CPU, in this one on a GPU or where kernels are called or ranks speak. */
  invoke(name: "Run" | "RunWithBinding", ...args: readonly Argument[]): Promise<void>;
  /** The engine's error as one of ours, which names node and path. */
  explain(error: unknown): Error;
}

/** Names and types of a session's inputs or outputs, in order. */
const slotsOf = (api: OrtApi, session: bigint, kind: "Input" | "Output"): Map<string, SlotType> => {
  const allocator = api.out("GetAllocatorWithDefaultOptions");
  const count = Number(api.out(`SessionGet${kind}Count`, session));
  return new Map(
    Array.from({ length: count }, (_, i) => {
      const name = api.out(`SessionGet${kind}Name`, session, i, allocator);
      try {
        return [api.text(name), typeOfSlot(api, session, kind, i)] as const;
      } finally {
        api.call("AllocatorFree", allocator, name);
      }
    }),
  );
};

/** The C API, or a sentence why it is not to be had. */
export const requiredApi = (): OrtApi => {
  const missing = missingApi();
  if (missing !== undefined)
    throw new RequestError(`the native engine cannot be used here (${missing}); choose --engine binding`);
  return ortApi();
};

/** What one run at a time means: each waits for all before it, failed or not. */
const turns = () => {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const next = last.then(work);
    last = next.catch(() => undefined);
    return next;
  };
};

/** The ops of domain `advcl` that a model holds; undefined where it holds none. */
const kernelDomain = (api: OrtApi, model: Model, { kernels, ranks }: SessionOptions): CustomOpDomain | undefined => {
  const ops = [...(kernels?.ops ?? []), ...(ranks === undefined ? [] : collectiveOps(model, ranks))];
  return ops.length === 0 ? undefined : customOpDomain(api, ops);
};

/** Loads a model; its session is the caller's to release. */
const openSession = async (
  api: OrtApi,
  bytes: Uint8Array,
  options: SessionOptions,
  explain: (error: unknown) => Error,
  built: Model | undefined,
): Promise<Handle> => {
  const { provider = "cpu" } = options;
  let made: Handle;
  let kernels: CustomOpDomain | undefined;
  const ended = () => {
    kernels?.release();
    options.kernels?.ended?.();
  };
  try {
    made = sessionOptions(api, options);
    kernels = built && kernelDomain(api, built, options);
    if (kernels !== undefined) api.call("AddCustomOpDomain", made.address, kernels.address);
  } catch (error) {
    ended();
    throw provider === "cpu" ? explain(error) : unavailable(provider, error);
  }
  try {
    const place = new BigUint64Array(1);
    await api.callAsync("CreateSessionFromArray", api.env, bytes, bytes.byteLength, made.address, place);
    return new Handle(place[0]!, "a session", (pointer) => {
      api.call("ReleaseSession", pointer);
      ended();
    });
  } catch (error) {
    ended();
    throw explain(error);
  } finally {
    made.release();
  }
};

/** Loads a model by the C API, as createSession does. */
export const createNativeSession = async (
  model: Model | Uint8Array,
  options: SessionOptions,
): Promise<NativeSession> => {
  const { provider = "cpu" } = options;
  if (provider === "webgpu")
    throw new RequestError("the native engine computes on cpu and cuda, and this is webgpu; choose --engine binding");
  const api = requiredApi();
  const bytes = model instanceof Uint8Array ? model : model.bytes;
  const built = model instanceof Uint8Array ? undefined : model;
  const explain = (error: unknown): Error =>
    error instanceof RunError || error instanceof RequestError ? error : explained(error, built);
  const session = await openSession(api, bytes, options, explain, built);
  const [inputs, outputs] = [slotsOf(api, session.address, "Input"), slotsOf(api, session.address, "Output")];
  const turn = turns();
  const checked = (name: string, given: Tensor | undefined): Tensor => {
    const value = checkedFeed(name, given, built?.inputs[name]);
    checkSlot(name, value, inputs.get(name) as SlotType);
    return value;
  };
  const speaking = options.ranks !== undefined && built !== undefined && speaks(built);
  // The CUDA provider keeps what it captured, its handles and its workspaces for each thread that runs it. On the CPU kernels and messages
  // between ranks are JavaScript's, which another thread would have to wait for, each time.
  const here = provider === "cuda" || options.kernels !== undefined || speaking;
  const invoke: NativeSession["invoke"] = async (name, ...args) => {
    options.kernels?.began?.();
    if (here) api.call(name, ...args);
    else await api.callAsync(name, ...args);
  };
  let ending: Promise<void> | undefined;
  const ended = (): boolean => ending !== undefined;
  const taken = <T>(work: () => Promise<T>): Promise<T> =>
    ended() ? Promise.reject(new RunError("internal: a session that was released is run")) : turn(work);
  const native: NativeSession = {
    api,
    inputs,
    outputs,
    inputNames: [...inputs.keys()],
    outputNames: [...outputs.keys()],
    graph: options.cuda?.graph ?? false,
    get address() {
      return session.address;
    },
    turn: taken,
    checked,
    invoke,
    explain,
    run: (feeds, fetches) =>
      taken(() => (graphed === undefined ? runOnce(native, built, feeds, fetches) : graphed.run(feeds, fetches))),
    runOnDevice: (feeds) => native.run(feeds as Feeds),
    endProfiling: () => {
      const allocator = api.out("GetAllocatorWithDefaultOptions");
      api.call("AllocatorFree", allocator, api.out("SessionEndProfiling", session.address, allocator));
    },
    release: () => {
      ending ??= turn(async () => {
        graphed?.release();
        session.release();
      });
      return ending;
    },
  };
  const graphed = native.graph ? graphedRuns(native, options.cuda?.device ?? 0) : undefined;
  return native;
};

/** Whether a session is one of these. */
export const isNative = (session: Session): session is NativeSession => "invoke" in session;

/**
 * Runs of a session that replays a CUDA graph: its inputs and outputs stay at fixed addresses, so feeds are copied there and
 * results from there. Made when it is first run, since a runner binds places of its own.
 */
const graphedRuns = (session: NativeSession, device: number) => {
  let made: { readonly memory: Memory; readonly program: BoundProgram } | undefined;
  const none = new Map();
  return {
    run: async (feeds: Feeds, fetches: readonly string[] = session.outputNames): Promise<Record<string, Tensor>> => {
      for (const name of fetches)
        if (!session.outputs.has(name)) throw new RunError(`internal: the model has no output ${name}`);
      if (made === undefined) {
        const memory = cudaPlaces(session.api, loadCudaRuntime(), session.address, device);
        made = { memory, program: bindProgram(session, memory, [none]) };
      }
      made.program.feed(0, feeds);
      const results = await made.program.run(0);
      return Object.fromEntries(fetches.map((name) => [name, results[name]!]));
    },
    release: () => {
      made?.program.release();
      made?.memory.release();
      made = undefined;
    },
  };
};

/** What the engine itself says of an input, for models that came as bytes: past the data of another type lies other memory. */
const checkSlot = (name: string, value: Tensor, { dtype, shape }: SlotType): void => {
  const fits =
    value.dtype === dtype &&
    shape.length === value.shape.length &&
    shape.every((d, i) => d < 0 || d === value.shape[i]);
  if (!fits)
    throw new RunError(
      `internal: the input ${name} is ${value.dtype}[${value.shape.join(",")}] but the model takes ${dtype}[${shape.map((d) => (d < 0 ? "?" : d)).join(",")}]`,
    );
};
