/** Runs models on ONNX Runtime: the only module that knows onnxruntime-node. */
import { createRequire } from "node:module";
import type * as ort from "onnxruntime-node";
import type { DType } from "../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor, typeName } from "../../graphs/onnx/tensor.ts";
import type { Model } from "../../graphs/onnx/write.ts";
import { RequestError, RunError } from "../errors.ts";

// The ES module wrapper of the package loads the same binding; require keeps one copy of it in tests.
const require = createRequire(import.meta.url);
const load = (): typeof ort => {
  const loaded = require("onnxruntime-node") as typeof ort;
  // What goes wrong is thrown as well; the log would say it twice, and in colours.
  loaded.env.logLevel = "fatal";
  return loaded;
};

export type Provider = "cpu" | "cuda" | "webgpu";

export interface SessionOptions {
  readonly provider?: Provider;
  /** Threads inside an op; default: onnxruntime's choice (all cores). */
  readonly threads?: number;
  readonly optimization?: "disabled" | "basic" | "extended" | "all";
  /** File prefix of a profile, which `endProfiling` completes. */
  readonly profile?: string;
  /** Outputs that stay in the memory of the device. */
  readonly keepOnDevice?: readonly string[];
}

export type Feeds = Readonly<Record<string, Tensor>>;

/** A value in the memory of the device: an output that a session was told to keep there. It is not read, only fed on. */
export class DeviceTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** @internal */
  readonly handle: ort.Tensor;
  constructor(handle: ort.Tensor) {
    this.dtype = handle.type as DType;
    this.shape = handle.dims;
    this.handle = handle;
  }
  /** Gives its memory back; nothing else does. */
  dispose(): void {
    this.handle.dispose();
  }
}

/** A loaded model. Running blocks this thread: onnxruntime-node computes in the calling thread and its pool. */
export interface Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  /** Runs the model; fetches all outputs unless some are named. Throws a RunError that names the graph's node. */
  run(feeds: Feeds, fetches?: readonly string[]): Promise<Record<string, Tensor>>;
  /** The same where values may lie on the device: those of `keepOnDevice` come back so. */
  runOnDevice(feeds: Readonly<Record<string, Tensor | DeviceTensor>>): Promise<Record<string, Tensor | DeviceTensor>>;
  /** Ends profiling; the file lies at the prefix given. */
  endProfiling(): void;
  release(): Promise<void>;
}

const toOrt: Partial<Record<DType, ort.Tensor.Type>> = {
  float32: "float32",
  float64: "float64",
  float16: "float16",
  int8: "int8",
  uint8: "uint8",
  int16: "int16",
  uint16: "uint16",
  int32: "int32",
  uint32: "uint32",
  int64: "int64",
  uint64: "uint64",
  bool: "bool",
};

/** Loads a model. Throws a RequestError where the provider is not there, a RunError where the engine refuses the model. */
export const createSession = async (model: Model | Uint8Array, options: SessionOptions = {}): Promise<Session> => {
  const { InferenceSession, Tensor: OrtTensor } = load();
  const bytes = model instanceof Uint8Array ? model : model.bytes;
  const types = model instanceof Uint8Array ? undefined : model.inputs;
  const { provider = "cpu" } = options;
  const explain = (error: unknown): Error => explained(error, model instanceof Uint8Array ? undefined : model);
  let session: ort.InferenceSession;
  try {
    session = await InferenceSession.create(bytes, {
      executionProviders: provider === "cpu" ? ["cpu"] : [provider, "cpu"],
      graphOptimizationLevel: options.optimization ?? "extended",
      // Memory patterns double the peak of a training step and slow its second run.
      enableMemPattern: false,
      ...(options.threads !== undefined && { intraOpNumThreads: options.threads }),
      ...(options.profile !== undefined && { enableProfiling: true, profileFilePrefix: options.profile }),
      ...(options.keepOnDevice !== undefined && {
        preferredOutputLocation: Object.fromEntries(options.keepOnDevice.map((name) => [name, "gpu-buffer" as const])),
      }),
      // What goes wrong is thrown.
      logSeverityLevel: 4,
      // A walk over the graph that only rewriting of quantised models needs: 0.5 s of a step of 40,000 nodes.
      ...(options.optimization === "disabled" && { extra: { session: { disable_quant_qdq: "1" } } }),
    });
  } catch (error) {
    if (provider !== "cpu" && !/Node|node|graph/.test(String(error))) throw unavailable(provider, error);
    throw explain(error);
  }
  const run = async (
    feeds: Readonly<Record<string, Tensor | DeviceTensor>>,
    fetches?: readonly string[],
  ): Promise<Record<string, Tensor | DeviceTensor>> => {
    const given: Record<string, ort.Tensor> = {};
    for (const name of session.inputNames) {
      const value = feeds[name];
      if (value === undefined) throw new RunError(`internal: the input ${name} is not fed`);
      const type = types?.[name];
      if (type !== undefined && (type.dtype !== value.dtype || type.shape.join() !== value.shape.join()))
        throw new RunError(`internal: the input ${name} is ${typeName(value)} but the model takes ${typeName(type)}`);
      given[name] =
        value instanceof DeviceTensor
          ? value.handle
          : new OrtTensor(toOrt[value.dtype] as "float32", value.data as Float32Array, [...value.shape]);
    }
    let results: ort.InferenceSession.OnnxValueMapType;
    try {
      results = await (fetches === undefined ? session.run(given) : session.run(given, [...fetches]));
    } catch (error) {
      throw explain(error);
    }
    return Object.fromEntries(
      Object.entries(results as Record<string, ort.Tensor>).map(([name, value]) => [
        name,
        value.location === "gpu-buffer"
          ? new DeviceTensor(value)
          : ({ dtype: value.type, shape: value.dims, data: value.data } as Tensor),
      ]),
    );
  };
  return {
    inputNames: session.inputNames,
    outputNames: session.outputNames,
    run: (feeds, fetches) => run(feeds, fetches) as Promise<Record<string, Tensor>>,
    runOnDevice: (feeds) => run(feeds),
    endProfiling: () => session.endProfiling(),
    release: () => session.release(),
  };
};

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";

/** The last clause of the engine's message, which names what failed, without the places in its source. */
const reasonOf = (error: unknown): string =>
  firstLine(error)
    .replace(/^.*(?:was false\.|\] : \d+ : \w+ :|\w::\w+:|Status Message:)\s*/, "")
    .replace(/[.\s]+$/, "");

/** What a request for a provider that does not work here is answered with. */
export const unavailable = (provider: Provider, error: unknown): RequestError =>
  new RequestError(
    `the provider ${provider} is not available here (${reasonOf(error)}); choose --provider cpu, or see advcl doctor`,
  );

/** Finds the node that the engine's message names, and says where the program made it. */
export const explained = (error: unknown, model: Model | undefined): RunError => {
  // A thread of sessions has said it once.
  const said = (error instanceof Error ? error.message : String(error)).replace(/^onnxruntime: /, "");
  const message = said.trim().replace(/\s*[\r\n]+\s*/g, " ");
  const names = Array.from(message.matchAll(/[Nn]ode[^'"(]*[('"]+([^'")]+)/g), (match) => match[1] ?? "");
  const node = names.map((name) => model?.nodes.get(name)).find((found) => found !== undefined);
  const place =
    node === undefined
      ? ""
      : ` (${node.definition.name} at ${node.path || "the top"}, made ${lineOf(node.origin?.stack)})`;
  return new RunError(`onnxruntime: ${message}${place}`, { cause: error });
};

const lineOf = (stack: string | undefined): string => {
  const line = stack?.split("\n").find((l) => l.includes(" at ") && !/graphs\/(onnx|ops|autodiff|targets)\//.test(l));
  return line?.trim() ?? "somewhere";
};

/** Bytes of a tensor in host memory. */
export const byteLength = (value: Tensor): number => sizeOf(value.shape) * value.data.BYTES_PER_ELEMENT;
