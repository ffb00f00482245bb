/** Runs models on onnxruntime-web in Node: the same WebAssembly as in a browser. */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import type { DType } from "../../graphs/onnx/dtype.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";

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

/** @param engine npm package of the engine, of which the training build is an older version */
export const runInWeb = async (
  model: Uint8Array,
  feeds: Readonly<Record<string, Tensor>>,
  engine: "onnxruntime-web" | "onnxruntime-training-web" = "onnxruntime-web",
): Promise<Record<string, Tensor>> => {
  const folder = dirname(createRequire(import.meta.url).resolve(engine));
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
