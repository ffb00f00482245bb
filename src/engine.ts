/** What computes: a provider of onnxruntime, the target that graphs are lowered for, and how sessions are made. */
import { input } from "../graphs/onnx/graph.ts";
import { buildModel, type Model } from "../graphs/onnx/write.ts";
import { relu } from "../graphs/ops/index.ts";
import { compile, type Step } from "../graphs/steps/step.ts";
import { cpuTarget } from "../graphs/targets/cpu/index.ts";
import type { Target } from "../graphs/targets/lower.ts";
import { portable } from "../graphs/targets/portable.ts";
import { createSession, type Provider, type Session, type SessionOptions } from "./runtime.ts";

export interface EngineRequest {
  readonly provider: Provider | "auto";
  readonly threads: number;
  /** Target by name; left out, the one for the provider. */
  readonly target?: string | undefined;
}

export interface Engine {
  readonly provider: Provider;
  readonly target: Target;
  /** Why this one, for people. */
  readonly reason: string;
  readonly options: SessionOptions;
  /** Lowers, writes and loads a step. */
  load(step: Step, options?: SessionOptions): Promise<{ readonly model: Model; readonly session: Session }>;
}

const targets: Readonly<Record<string, () => Target>> = { portable: () => portable, cpu: () => cpuTarget() };
export const targetNames = Object.keys(targets);

/** Loads the smallest model there is: a provider that is not there says so before anything is written. */
const probe = async (options: SessionOptions): Promise<void> => {
  const x = input("x", { dtype: "float32", shape: [1] });
  const session = await createSession(buildModel({ y: relu(x) }), options);
  await session.release();
};

/** Picks the engine of a request. Throws a RequestError where what it names is not there. */
export const chooseEngine = async ({ provider, threads, target: named }: EngineRequest): Promise<Engine> => {
  const chosen = provider === "auto" ? "cpu" : provider;
  const options: SessionOptions = { provider: chosen, threads };
  if (chosen !== "cpu") await probe(options);
  const target = (targets[named ?? chosen] ?? targets.portable)!();
  const optimization = target.optimization && { optimization: target.optimization };
  return {
    provider: chosen,
    target,
    reason: provider === "auto" ? "the CPU serves everywhere" : "as asked",
    options,
    load: async (step, more = {}) => {
      const model = compile(step, target);
      return { model, session: await createSession(model, { ...options, ...optimization, ...more }) };
    },
  };
};
