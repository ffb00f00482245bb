/** ONNX Runtime in the page: WebGPU where there is one, else WebAssembly. Nothing is loaded from elsewhere. */

/** A tensor as the page hands it on. */
export interface Tensor {
  readonly dims: readonly number[];
  readonly data: Float32Array | Int32Array;
}

interface OrtTensor {
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

interface OrtSession {
  readonly inputNames: readonly string[];
  run(feeds: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, OrtTensor>>>;
}

/** The part of onnxruntime-web that is used. */
interface Ort {
  readonly env: { readonly wasm: { wasmPaths: string; numThreads: number }; logLevel: string };
  readonly Tensor: new (type: string, data: Float32Array | Int32Array, dims: readonly number[]) => unknown;
  readonly InferenceSession: {
    create(url: string, options: { executionProviders: string[]; logSeverityLevel: number }): Promise<OrtSession>;
  };
}

export interface Program {
  /** Inputs that the program has no use for are left out. */
  run(feeds: Readonly<Record<string, Tensor>>): Promise<Readonly<Record<string, Tensor & { data: Float32Array }>>>;
}

export interface Engine {
  readonly name: "WebGPU" | "WebAssembly";
  load(file: string): Promise<Program>;
}

interface Gpu {
  requestAdapter(): Promise<object | null>;
}

const hasGpu = async (): Promise<boolean> => {
  const { gpu } = navigator as unknown as { gpu?: Gpu };
  if (gpu === undefined || new URLSearchParams(location.search).get("engine") === "wasm") return false;
  return gpu.requestAdapter().then(
    (adapter) => adapter !== null,
    () => false,
  );
};

const open = async (name: Engine["name"]): Promise<Engine> => {
  const folder = new URL("ort/", import.meta.url).href;
  const ort = (await import(`${folder}ort.${name === "WebGPU" ? "webgpu" : "wasm"}.min.mjs`)) as Ort;
  ort.env.wasm.wasmPaths = folder;
  // Threads need a page that is isolated from other origins; advcl serve makes it one.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.logLevel = "error";
  const executionProviders = name === "WebGPU" ? ["webgpu", "wasm"] : ["wasm"];
  return {
    name,
    load: async (file) => {
      const url = new URL(file, import.meta.url).href;
      const session = await ort.InferenceSession.create(url, { executionProviders, logSeverityLevel: 3 });
      return {
        run: async (feeds) => {
          const given = session.inputNames.map((input) => {
            const { data, dims } = feeds[input]!;
            return [input, new ort.Tensor(data instanceof Float32Array ? "float32" : "int32", data, dims)];
          });
          return session.run(Object.fromEntries(given) as Record<string, unknown>);
        },
      };
    },
  };
};

/** The engine, proved by loading a program: a GPU that is there but cannot run it gives way to WebAssembly. */
export const openEngine = async (probe: string): Promise<{ readonly engine: Engine; readonly probed: Program }> => {
  if (await hasGpu())
    try {
      const engine = await open("WebGPU");
      return { engine, probed: await engine.load(probe) };
    } catch (error) {
      console.warn("WebGPU gives way to WebAssembly:", error);
    }
  const engine = await open("WebAssembly");
  return { engine, probed: await engine.load(probe) };
};
