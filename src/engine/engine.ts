/** What computes: a provider of onnxruntime, the target that graphs are lowered for, and how sessions are made. */
import { input, type Value } from "../../graphs/onnx/graph.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { buildModel, type Model } from "../../graphs/onnx/write.ts";
import { conv } from "../../graphs/ops/index.ts";
import { compile, type Step } from "../../graphs/steps/step.ts";
import { cpuTargetFor } from "../../graphs/targets/cpu/index.ts";
import type { Target } from "../../graphs/targets/lower.ts";
import type { WithinProgram } from "../distributed/collective.ts";
import { RequestError } from "../errors.ts";
import { blockFor, cpuTargetName } from "./cpu-target.ts";
import { cudaFiles, gpuDevices } from "./devices.ts";
import { load, loadEvaluated } from "./load.ts";
import { missingApi } from "./native/api.ts";
import { collectiveName, speaks } from "./native/collective-ops.ts";
import { missingKernels } from "./native/kernels.ts";
import { requiredApi } from "./native/session.ts";
import { type Precision, pickPrecision, precisionAsked, precisions } from "./precision.ts";
import {
  createSession,
  type EngineName,
  type Provider,
  type Session,
  type SessionOptions,
  unavailable,
} from "./session.ts";
import { isTargetName, judgingTarget, rewritingOf, stockTargetOf, targetNamed } from "./targets.ts";

export interface EngineRequest {
  readonly provider: Provider | "auto";
  readonly threads: number;
  /** Number of the GPU, for CUDA (default 0). */
  readonly device?: number | undefined;
  /** Target by name; left out, the one for the provider. */
  readonly target?: string | undefined;
  /** The target that a run was begun with: taken again where none is named and this machine has it. */
  readonly begunWith?: string | undefined;
  /** Told before a processor that is not known is timed, once, for its best target; left out, nothing is timed. */
  readonly timing?: ((message: string) => void) | undefined;
  /** How onnxruntime is reached; left out or auto, what wins there (`pickEngine`). */
  readonly engine?: EngineName | "auto" | undefined;
  /** What products compute in (precision.ts); left out or auto, float32 on the CPU and WebGPU, TF32 on CUDA. */
  readonly precision?: Precision | "auto" | undefined;
  /** Who sends messages between ranks from inside of steps, which only the native engine can. */
  readonly ranks?: WithinProgram | undefined;
  /** Whether steps hold such messages whatever the engine is; it then has to be the native one. */
  readonly speaking?: boolean | undefined;
}

export interface Engine {
  readonly provider: Provider;
  /** How onnxruntime is reached, and why so. */
  readonly name: EngineName;
  readonly nameReason: string;
  readonly precision: Precision;
  /** Whether programs are replayed as CUDA graphs. */
  readonly graphs: boolean;
  /** Whether steps average their gradients by messages of their own. */
  readonly speaks: boolean;
  readonly target: Target;
  /** Why this one, for people. */
  readonly reason: string;
  readonly options: SessionOptions;
  /** Whether a training's parameters and state stay on the device between steps. */
  readonly keepsState: boolean;
  /** Lowers, writes and loads a step. */
  load(step: Step, options?: SessionOptions): Promise<{ readonly model: Model; readonly session: Session }>;
  /** The same for a program that judges or attacks a classifier: for the faster target where none was asked for. */
  loadEvaluation(outputs: Step["outputs"], among?: number): Promise<Session>;
  /** Such a program as `createSession` loads it, with `evaluationOptions`: for a thread of its own. */
  evaluationModel(outputs: Step["outputs"]): Model;
  /** Of a session of such a program, or of one of so many that run side by side, which share the engine's threads. */
  evaluationOptions(among?: number): SessionOptions;
}

/**
 * Loads and runs one small convolution: a provider that is not there, or that lacks what convolutions need (CUDA's looks for
 * cuDNN only then), says so before anything is written. Throws a RequestError.
 */
export const probe = async (options: SessionOptions): Promise<void> => {
  const [x, w] = ["x", "w"].map((name) => input(name, { dtype: "float32", shape: [1, 1, 3, 3] })) as [Value, Value];
  const session = await createSession(buildModel({ y: conv(x, w) }), options);
  const nine = float32([1, 1, 3, 3], new Float32Array(9).fill(1));
  try {
    const { y } = await session.run({ x: nine, w: nine });
    if (y?.data[0] !== 9) throw new Error(`a convolution of ones gives ${y?.data[0]} instead of 9`);
  } catch (error) {
    throw unavailable(options.provider ?? "cpu", error);
  } finally {
    await session.release();
  }
};

/**
 * CUDA where its libraries and a device are, then WebGPU where there is a GPU (software drivers are not taken by
 * themselves: they are slower than the CPU), else the CPU. Says why.
 */
const pick = async (threads: number): Promise<{ provider: Provider; reason: string }> => {
  const { nvidia, render } = gpuDevices();
  const tried: string[] = [];
  const works = async (provider: Provider): Promise<boolean> => {
    try {
      await probe({ provider, threads });
      return true;
    } catch (error) {
      tried.push(`${provider}: ${(error as Error).message.split("\n")[0]}`);
      return false;
    }
  };
  if (nvidia && cudaFiles().every(({ found }) => found) && (await works("cuda")))
    return { provider: "cuda", reason: "an NVIDIA GPU and the CUDA provider are here" };
  if (render && (await works("webgpu")))
    return {
      provider: "webgpu",
      reason: nvidia ? "an NVIDIA GPU is here, the CUDA provider is not: see advcl doctor" : "a GPU is here",
    };
  const why =
    tried.length > 0
      ? tried.join("; ")
      : nvidia
        ? "an NVIDIA GPU is here, the CUDA provider is not: advcl doctor says how to install it"
        : "no GPU is here";
  return { provider: "cpu", reason: why };
};

/** What a provider that is asked for comes to, and why. */
export const providerFor = async (
  provider: EngineRequest["provider"],
  threads: number,
): Promise<{ provider: Provider; reason: string }> =>
  provider === "auto" ? pick(threads) : { provider, reason: "as asked" };

/** Choices of the settings that say how onnxruntime is reached and what its products compute in. */
export const engineNames = ["auto", "binding", "native"] as const;
export const precisionNames = ["auto", ...precisions] as const;

/** How onnxruntime is reached on a provider, and why. Throws a RequestError where what was asked for is not there. */
const pickEngine = (asked: EngineName | "auto", provider: Provider): { name: EngineName; nameReason: string } => {
  if (asked === "binding") return { name: asked, nameReason: "as asked" };
  if (asked === "native") {
    if (provider === "webgpu")
      throw new RequestError("--engine native computes on cpu and cuda, and this is webgpu; choose --engine binding");
    requiredApi();
    return { name: asked, nameReason: "as asked" };
  }
  if (provider !== "cuda")
    return {
      name: "binding",
      nameReason: "the native engine is for CUDA; here it gives the same bytes and saves little",
    };
  const missing = missingApi();
  return missing === undefined
    ? { name: "native", nameReason: "CUDA graphs and weights on the GPU need it" }
    : { name: "binding", nameReason: `the native engine cannot be used (${missing}): no CUDA graphs` };
};

/** What `--engine auto` takes on a provider, and whether programs are replayed as CUDA graphs then. */
export const engineOf = (provider: Provider): Pick<Engine, "name" | "nameReason" | "graphs"> => {
  const picked = pickEngine("auto", provider);
  return { ...picked, graphs: picked.name === "native" && provider === "cuda" };
};

/** The CUDA target of a precision with this project's kernels, for the native engine (docs/kernels.md), or the one that a run was begun with. */
const fusedTargetOf = (precision: Precision, begunWith: string | undefined): string => {
  if (begunWith?.startsWith("cuda") && isTargetName(begunWith)) return begunWith;
  return precision === "float16" ? "cuda-fused" : "cuda-fused-float32";
};

/** The engine that is asked for: the native one where steps hold messages between ranks, or kernels on the CPU. */
const engineAsked = (request: EngineRequest, provider: Provider): EngineName | "auto" => {
  const { engine = "auto", speaking } = request;
  if (!speaking) {
    const kernels = provider === "cpu" && precisionAsked(request) === "bfloat16";
    return kernels && engine === "auto" ? "native" : engine;
  }
  if (engine === "binding" || provider === "webgpu")
    throw new RequestError(
      "--batch-norm global, --negatives global and --replicas need --engine native with --provider cpu or cuda; choose those, or leave them out",
    );
  return "native";
};

const evaluationOptionsOf =
  (options: SessionOptions) =>
  (among = 1): SessionOptions => ({
    ...options,
    ...(among > 1 && { threads: Math.max(1, Math.floor((options.threads ?? 1) / among)) }),
    optimization: "all",
  });

/** Picks the engine of a request. Throws a RequestError where what it names is not there. */
export const chooseEngine = async (request: EngineRequest): Promise<Engine> => {
  const { provider, threads, target: named } = request;
  const { provider: chosen, reason } = await providerFor(provider, threads);
  const { name, nameReason } = pickEngine(engineAsked(request, chosen), chosen);
  const precision = pickPrecision(precisionAsked(request), chosen, name, threads);
  const options: SessionOptions = {
    provider: chosen,
    threads,
    ...(name === "native" && { engine: name }),
    ...(name === "native" &&
      chosen === "cuda" && { cuda: { tf32: precision !== "float32", device: request.device ?? 0 } }),
  };
  if (provider !== "auto" && chosen !== "cpu") await probe(options);
  const block = chosen === "cpu" ? await blockFor(named) : undefined;
  const stock = () => targetNamed(chosen === "cuda" ? stockTargetOf(precision) : chosen, block);
  const own =
    chosen === "cpu"
      ? named === undefined && (await cpuTargetName(request, precision, block))
      : chosen === "cuda" && name === "native" && fusedTargetOf(precision, request.begunWith);
  const wanted = named || own ? targetNamed((named ?? own) as string, block) : stock();
  // Where there are no kernels, onnxruntime's own ops compute the same.
  const lacking = wanted.kernels !== undefined && chosen === "cuda" ? missingKernels(name, request.device) : undefined;
  const asked = lacking === undefined ? wanted : stock();
  // A CUDA graph holds no Loop.
  const graphs = name === "native" && chosen === "cuda";
  const target: Target = graphs ? { ...asked, loops: "unroll" } : asked;
  if (target.provider !== undefined && target.provider !== chosen)
    throw new RequestError(
      `--target ${named} is computed rightly by --provider ${target.provider} alone, and this is ${chosen}; ` +
        `take a target with "composed" in its name, or leave --target out`,
    );
  const judging = judgingTarget(target, { stock, graphs, own: named === undefined && precision === "float16" });
  const evaluation = (outputs: Step["outputs"], lowered: Target = judging): Model => {
    const suited = chosen === "cpu" && named === undefined ? cpuTargetFor(Object.values(outputs), block) : lowered;
    // Weights are constants here and the engine rewrites the graph, for which it must know shapes.
    const { rewrite: _, ...plain } = suited;
    return compile({ outputs }, plain);
  };
  const evaluationOptions = evaluationOptionsOf(options);
  return {
    provider: chosen,
    name,
    nameReason,
    precision,
    graphs,
    // A message ends a CUDA graph, which is worth more than one run a step: there only what has to speak does.
    speaks: name === "native" && request.ranks !== undefined && (!graphs || request.speaking === true),
    target,
    reason: lacking === undefined ? reason : `${reason}; ${lacking}`,
    options,
    keepsState: chosen === "webgpu",
    load: (step, more = {}) => {
      const { ranks } = request;
      const compiled = (target: Target) =>
        compile(step, {
          ...target,
          ...(ranks && { kernels: (node) => collectiveName(node) ?? target.kernels?.(node) }),
        });
      const all = { ...options, ...rewritingOf(target, chosen), ranks, ...more };
      // The host speaks in between, and a CUDA graph is the device's alone.
      const graph = (model: Model) => graphs && more.cuda?.graph !== false && !speaks(model);
      return load({ compiled, target, options: all, graph });
    },
    loadEvaluation: (outputs, among) => {
      const compiled = (target: Target) => evaluation(outputs, target);
      return loadEvaluated({ compiled, target: judging, options: evaluationOptions(among), graph: () => graphs });
    },
    evaluationModel: (outputs) => evaluation(outputs),
    evaluationOptions,
  };
};
