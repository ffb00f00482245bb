/** Runs models on ONNX Runtime: what a session is, whichever way the engine is reached. */
import type { DType } from "../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor, typeName } from "../../graphs/onnx/tensor.ts";
import type { Model } from "../../graphs/onnx/write.ts";
import type { WithinProgram } from "../distributed/collective.ts";
import { RequestError, RunError } from "../errors.ts";
import type { CudaOptions } from "./native/cuda-options.ts";
import type { Kernels } from "./native/custom-op.ts";

export type Provider = "cpu" | "cuda" | "webgpu";

/** How onnxruntime is reached: by onnxruntime-node's binding, or by the C API of the same library (native/). */
export type EngineName = "binding" | "native";

export interface SessionOptions {
  /** Default: the binding. */
  readonly engine?: EngineName;
  readonly provider?: Provider;
  /** The ops of this project's own that a model holds; only the native engine can. */
  readonly kernels?: Kernels | undefined;
  /** Who sends the messages between ranks that a model holds; only the native engine can. */
  readonly ranks?: WithinProgram | undefined;
  /** What the CUDA provider is told; only the native engine can. */
  readonly cuda?: CudaOptions | undefined;
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
  /** @internal The engine's own tensor. */
  readonly handle: { dispose(): void };
  constructor(dtype: DType, shape: readonly number[], handle: { dispose(): void }) {
    this.dtype = dtype;
    this.shape = shape;
    this.handle = handle;
  }
  /** Gives its memory back; nothing else does. */
  dispose(): void {
    this.handle.dispose();
  }
}

/**
 * A loaded model. Running blocks this thread with the binding, which computes in the calling thread and its pool; the native
 * engine computes in another, one run of a session after the other.
 */
export interface Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  /** Runs the model; fetches all outputs unless some are named. Throws a RunError that names the graph's node. */
  run(feeds: Feeds, fetches?: readonly string[]): Promise<Record<string, Tensor>>;
  /** The same where values may lie on the device: those of `keepOnDevice` come back so. */
  runOnDevice(feeds: Readonly<Record<string, Tensor | DeviceTensor>>): Promise<Record<string, Tensor | DeviceTensor>>;
  /** Ends profiling; the file lies at the prefix given. */
  endProfiling(): void;
  /** Waits for what runs, and gives everything back. */
  release(): Promise<void>;
}

/** A feed that a model takes: throws a RunError where it is not there or of another type. */
export const checkedFeed = <T extends { readonly dtype: DType; readonly shape: readonly number[] }>(
  name: string,
  value: T | undefined,
  type: { readonly dtype: DType; readonly shape: readonly number[] } | undefined,
): T => {
  if (value === undefined) throw new RunError(`internal: the input ${name} is not fed`);
  if (type !== undefined && (type.dtype !== value.dtype || type.shape.join() !== value.shape.join()))
    throw new RunError(`internal: the input ${name} is ${typeName(value)} but the model takes ${typeName(type)}`);
  return value;
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
  const line = stack
    ?.split("\n")
    .find((l) => l.includes(" at ") && !/graphs[\\/](onnx|ops|autodiff|targets)[\\/]/.test(l));
  return line?.trim() ?? "somewhere";
};

/** Bytes of a tensor in host memory. */
export const byteLength = (value: Tensor): number => sizeOf(value.shape) * value.data.BYTES_PER_ELEMENT;
