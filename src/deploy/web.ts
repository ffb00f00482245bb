/** Runs models on onnxruntime-web in Node: the same WebAssembly as in a browser. */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import type { DType } from "../../graphs/onnx/dtype.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";

interface WebTensor {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: Tensor["data"];
}

interface Web {
  readonly env: { readonly wasm: { numThreads: number; wasmPaths: string } };
  readonly Tensor: new (type: string, data: Tensor["data"], dims: readonly number[]) => WebTensor;
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options: object,
    ): Promise<{ run(feeds: object): Promise<Record<string, WebTensor>>; release(): Promise<void> }>;
  };
}

/**
 * The folder of a browser's engine, an optional package: much to download for who needs no page.
 * @throws RequestError where it is not installed
 */
export const webEngine = (engine: "onnxruntime-web" | "onnxruntime-training-web"): string => {
  try {
    return dirname(createRequire(import.meta.url).resolve(engine));
  } catch (cause) {
    throw new RequestError(
      `the browser's engine is not installed; install it with npm install --no-save --include=optional ${engine}`,
      { cause },
    );
  }
};

/** @param engine npm package of the engine, of which the training build is an older version */
export const runInWeb = async (
  model: Uint8Array,
  feeds: Readonly<Record<string, Tensor>>,
  engine: "onnxruntime-web" | "onnxruntime-training-web" = "onnxruntime-web",
): Promise<Record<string, Tensor>> => {
  const folder = webEngine(engine);
  const web = (await import(pathToFileURL(join(folder, "ort.node.min.mjs")).href)) as Web;
  web.env.wasm.numThreads = 1;
  const session = await web.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  try {
    const given = Object.entries(feeds).map(([name, { dtype, shape, data }]) => [
      name,
      new web.Tensor(dtype, data, shape),
    ]);
    const results = await session.run(Object.fromEntries(given) as object);
    return Object.fromEntries(
      Object.entries(results).map(([name, { type, dims, data }]) => [
        name,
        { dtype: type as DType, shape: dims, data } as Tensor,
      ]),
    );
  } finally {
    await session.release();
  }
};
