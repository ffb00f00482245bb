/** How programs become sessions: with the kernels that their target asks for, as CUDA graphs, and what is done where either fails. */
import type { Model } from "../../graphs/onnx/write.ts";
import type { Target } from "../../graphs/targets/lower.ts";
import { RunError } from "../errors.ts";
import { capturedOrPlain, tellWithoutGraph } from "./native/capture.ts";
import { launchedKernels } from "./native/kernels.ts";
import { onednnKernels } from "./native/onednn/available.ts";
import { createSession, type Session, type SessionOptions } from "./session.ts";
import { targetNamed, withoutCudnn } from "./targets.ts";

/** What computes a model's own ops. On the CPU that is oneDNN: threads of onnxruntime, which wait awake, would keep cores from its. */
const kernelsOf = async (model: Model, { provider, threads = 1, cuda }: SessionOptions): Promise<SessionOptions> =>
  provider === "cuda"
    ? { kernels: await launchedKernels(model, cuda) }
    : { kernels: onednnKernels(model, threads), threads: 1 };

/** What loading is done with. */
export interface LoadTools {
  readonly create: (model: Model, options: SessionOptions) => Promise<Session>;
  readonly kernelsOf: (model: Model, options: SessionOptions) => Promise<SessionOptions>;
}
const usual: LoadTools = { create: createSession, kernelsOf };

/**
 * Loads a model to be replayed as a CUDA graph, or without one where onnxruntime refuses: it says so when a node is left to
 * the CPU, which is slower and right all the same, so a line on stderr tells.
 */
const loadGraphed = async (
  model: Model,
  options: SessionOptions,
  graph: boolean,
  { create }: LoadTools,
): Promise<Session> => {
  if (!graph) return create(model, options);
  try {
    return await create(model, { ...options, cuda: { ...options.cuda, graph } });
  } catch (error) {
    if (isRefusedByCudnn(error)) throw error;
    const session = await create(model, options);
    tellWithoutGraph(error);
    return session;
  }
};

const isRefusedByCudnn = (error: unknown): boolean => error instanceof RunError && /\bcuDNN\b/.test(error.message);

export interface Loading {
  /** The program, lowered for a target and written. */
  readonly compiled: (target: Target) => Model;
  readonly target: Target;
  readonly options: SessionOptions;
  /** Whether such a model may be replayed as a CUDA graph. */
  readonly graph: (model: Model) => boolean;
}

/** Loads a program. Where cuDNN refuses one of its convolutions, it is loaded with onnxruntime's, and a line on stderr says so. */
export const load = async (
  loading: Loading,
  tools: LoadTools = usual,
): Promise<{ readonly model: Model; readonly session: Session }> => {
  const { compiled, target, options, graph } = loading;
  const model = compiled(target);
  try {
    const all = { ...options, ...(target.kernels && (await tools.kernelsOf(model, options))) };
    return { model, session: await loadGraphed(model, all, graph(model), tools) };
  } catch (error) {
    const stock = withoutCudnn(target.name);
    if (stock === undefined || !isRefusedByCudnn(error)) throw error;
    process.emitWarning(`convolutions are onnxruntime's own (--target ${stock}): ${(error as Error).message}`);
    return load({ ...loading, target: { ...targetNamed(stock), loops: target.loops } }, tools);
  }
};

/** Loads a program that judges or attacks; where CUDA cannot capture it, it runs without a graph. */
export const loadEvaluated = async (loading: Loading): Promise<Session> => {
  const { model, session } = await load(loading);
  return loading.graph(model)
    ? capturedOrPlain(session, async () => (await load({ ...loading, graph: () => false })).session)
    : session;
};
