/** Runs a model with custom ops on the CPU provider, by the C API alone. */
import { dtypes } from "../../../graphs/onnx/dtype.ts";
import { sizeOf, type Tensor } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { ortApi } from "../../../src/engine/native/api.ts";
import { type CustomOp, customOpDomain } from "../../../src/engine/native/custom-op.ts";

export const runCustom = async (
  model: Model,
  ops: readonly CustomOp[],
  feeds: Readonly<Record<string, Tensor>>,
  { elsewhere = false }: { readonly elsewhere?: boolean } = {},
): Promise<Record<string, Tensor>> => {
  const api = ortApi();
  const domain = customOpDomain(api, ops);
  const options = api.out("CreateSessionOptions");
  api.call("AddCustomOpDomain", options, domain.address);
  api.call("SetIntraOpNumThreads", options, 1);
  api.call("DisableMemPattern", options);
  const made: { readonly release: () => void }[] = [{ release: () => api.call("ReleaseSessionOptions", options) }];
  try {
    const place = new BigUint64Array(8);
    const load = ["CreateSessionFromArray", api.env, model.bytes, model.bytes.byteLength, options, place] as const;
    if (elsewhere) await api.callAsync(...load);
    else api.call(...load);
    const session = place[0]!;
    made.push({ release: () => api.call("ReleaseSession", session) });
    const memory = api.out("CreateCpuMemoryInfo", 1, 0);
    made.push({ release: () => api.call("ReleaseMemoryInfo", memory) });
    const held: unknown[] = [];
    const text = (name: string): bigint => {
      const bytes = new Uint8Array(Math.max(1024, name.length + 1));
      bytes.set(new TextEncoder().encode(name));
      held.push(bytes);
      return api.koffi.address(bytes);
    };
    const valueOver = ({ dtype, shape, data }: Tensor): bigint => {
      const dims = BigInt64Array.from(shape, BigInt);
      const value = api.out(
        "CreateTensorWithDataAsOrtValue",
        memory,
        data,
        data.byteLength,
        dims,
        shape.length,
        dtypes[dtype].onnx,
      );
      made.push({ release: () => api.call("ReleaseValue", value) });
      held.push(data);
      return value;
    };
    const names = Object.keys(model.inputs);
    const given = BigUint64Array.from(names, (name) => valueOver(feeds[name]!));
    const results = Object.entries(model.outputs).map(([name, { dtype, shape }]) => {
      const data = new dtypes[dtype].array(sizeOf(shape) + 64).subarray(0, sizeOf(shape));
      return [name, { dtype, shape, data }] as const;
    });
    const into = BigUint64Array.from(results, ([, tensor]) => valueOver(tensor));
    const [from, to] = [names, results.map(([name]) => name)].map((list) => BigUint64Array.from(list, text)) as [
      BigUint64Array,
      BigUint64Array,
    ];
    const run = ["Run", session, null, from, given, given.length, to, into.length, into] as const;
    if (elsewhere) await api.callAsync(...run);
    else api.call(...run);
    return Object.fromEntries(results);
  } finally {
    for (const { release } of made.reverse()) release();
    domain.release();
  }
};
