/** Sessions by onnxruntime-node's binding: the only module that knows it. */
import { createRequire } from "node:module";
import type * as ort from "onnxruntime-node";
import type { DType } from "../../graphs/onnx/dtype.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Model } from "../../graphs/onnx/write.ts";
import {
  checkedFeed,
  DeviceTensor,
  explained,
  type Session,
  type SessionOptions,
  unavailable,
} from "./session-contract.ts";
import { withoutTelemetry } from "./telemetry.ts";

// The ES module wrapper of the package loads the same binding; require keeps one copy of it in tests.
const require = createRequire(import.meta.url);
const load = (): typeof ort => {
  withoutTelemetry();
  const loaded = require("onnxruntime-node") as typeof ort;
  // What goes wrong is thrown as well; the log would say it twice, and in colours.
  loaded.env.logLevel = "fatal";
  return loaded;
};

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

/** Loads a model by the binding, as createSession does. */
export const createBindingSession = async (model: Model | Uint8Array, options: SessionOptions): Promise<Session> => {
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
      const value = checkedFeed(name, feeds[name], types?.[name]);
      given[name] =
        value instanceof DeviceTensor
          ? (value.handle as ort.Tensor)
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
          ? new DeviceTensor(value.type as DType, value.dims, value)
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
