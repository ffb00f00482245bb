/** The CUDA path without a GPU: order, sizes and addresses of its calls, and the numbers that a faked device ends with. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, jest, test } from "@jest/globals";
import { float32, type Tensor } from "../../../graphs/onnx/tensor.ts";
import type { Model } from "../../../graphs/onnx/write.ts";
import { bindProgram } from "../../../src/engine/native/bound-program.ts";
import { cudaProviderOptions } from "../../../src/engine/native/cuda-options.ts";
import { loadCudaRuntime } from "../../../src/engine/native/cuda-runtime.ts";
import { cudaPlaces } from "../../../src/engine/native/memory.ts";
import { boundState } from "../../../src/engine/native/runner.ts";
import { RunError } from "../../../src/errors.ts";
import { available } from "../../needs.ts";
import { fakeGpu } from "./fake-gpu.ts";

const pair = { dtype: "float32", shape: [2] } as const;
const one = { dtype: "float32", shape: [] } as const;

/**
 * A training of one parameter w (two numbers) and a frozen state s: w ← w + s · x, and its metric is the w it read.
 * @param failing number of a run that fails as a capture does, the first is 1
 */
const training = (failing = 0) => {
  const gpu = fakeGpu();
  let runs = 0;
  const made = () =>
    gpu.session(
      { "input.x": pair, "param.w": pair, "state.s": one },
      { "next.param.w": pair, "metric.first": one },
      (inputs, outputs) => {
        runs += 1;
        if (runs === failing)
          throw new RunError("CUDA failure 901: operation failed due to a previous error during capture ; GPU=0");
        const [x, w, s] = ["input.x", "param.w", "state.s"].map((name) => inputs.get(name) as Float32Array);
        const next = outputs.get("next.param.w") as Float32Array;
        for (let i = 0; i < 2; i++) next[i] = (w?.[i] as number) + (s?.[0] as number) * (x?.[i] as number);
        (outputs.get("metric.first") as Float32Array)[0] = w?.[0] as number;
      },
    );
  const session = made();
  const memory = cudaPlaces(gpu.api, gpu.runtime, session.address, 3);
  const initial = new Map<string, Tensor>([
    ["param.w", float32([2], [1, 10])],
    ["state.s", float32([], [2])],
  ]);
  const state = boundState(memory, initial, new Set(["param.w"]));
  const model = { outputs: { "next.param.w": pair, "metric.first": one } } as unknown as Model;
  const withoutGraph = async () => ({ model, session: made() });
  return { gpu, session, state, loaded: { model, session, withoutGraph } };
};

const x = (a: number, b: number) => ({ "input.x": float32([2], [a, b]) });

describe("a training on a GPU", () => {
  test("binds once, copies inputs in and metrics out, and takes turns between two sets", async () => {
    const { gpu, session, state, loaded } = training();
    expect(gpu.calls).toEqual([
      "info0 = CreateMemoryInfo(Cuda, 0, 3, 0)",
      "allocator0 = CreateAllocator(session0, info0)",
      // w, written, and its second set; s, which both sets share.
      "gpu0 = AllocatorAlloc(allocator0, 8)",
      "value0 = CreateTensorWithDataAsOrtValue(info0, gpu0, 8, [2], 1, 1)",
      "allocatePinned(8)",
      "copy(toDevice, gpu0, pinned0, 8, stream0)",
      "gpu1 = AllocatorAlloc(allocator0, 8)",
      "value1 = CreateTensorWithDataAsOrtValue(info0, gpu1, 8, [2], 1, 1)",
      "gpu2 = AllocatorAlloc(allocator0, 4)",
      "value2 = CreateTensorWithDataAsOrtValue(info0, gpu2, 4, [], 0, 1)",
      "allocatePinned(4)",
      "copy(toDevice, gpu2, pinned1, 4, stream0)",
      "synchronize(stream0)",
    ]);
    gpu.calls.length = 0;
    expect((await state.run(loaded, x(1, 2)))["metric.first"]?.data[0]).toBe(1);
    expect(gpu.calls.filter((call) => /Bind|RunOptions|RunConfig/.test(call))).toEqual([
      "binding0 = CreateIoBinding(session0)",
      "BindInput(binding0, input.x, value4)",
      "BindInput(binding0, param.w, value0)",
      "BindInput(binding0, state.s, value2)",
      "BindOutput(binding0, next.param.w, value1)",
      "BindOutput(binding0, metric.first, value3)",
      "options0 = CreateRunOptions()",
      "AddRunConfigEntry(options0, gpu_graph_id, 1)",
      "options1 = CreateRunOptions()",
      "AddRunConfigEntry(options1, gpu_graph_id, 1)",
      "AddRunConfigEntry(options1, disable_synchronize_execution_providers, 1)",
      "binding1 = CreateIoBinding(session0)",
      "BindInput(binding1, input.x, value5)",
      "BindInput(binding1, param.w, value1)",
      "BindInput(binding1, state.s, value2)",
      "BindOutput(binding1, next.param.w, value0)",
      "BindOutput(binding1, metric.first, value3)",
      "options2 = CreateRunOptions()",
      "AddRunConfigEntry(options2, gpu_graph_id, 2)",
      "options3 = CreateRunOptions()",
      "AddRunConfigEntry(options3, gpu_graph_id, 2)",
      "AddRunConfigEntry(options3, disable_synchronize_execution_providers, 1)",
      "RunWithBinding(session0, options0, binding0)",
    ]);
    state.accept();
    gpu.calls.length = 0;
    await state.run(loaded, x(10, 20));
    // All that crosses the bus in a step: the input and the metric.
    expect(gpu.calls).toEqual([
      "allocatePinned(8)",
      "copy(toDevice, gpu5, pinned4, 8, stream0)",
      "synchronize(stream0)",
      "RunWithBinding(session0, options2, binding1)",
      "SynchronizeBoundOutputs(binding1)",
      "copy(toHost, pinned3, gpu3, 4, stream0)",
      "synchronize(stream0)",
    ]);
    state.accept();
    gpu.calls.length = 0;
    await state.run(loaded, x(0, 0));
    expect(gpu.calls).toEqual([
      "copy(toDevice, gpu4, pinned2, 8, stream0)",
      "synchronize(stream0)",
      "RunWithBinding(session0, options1, binding0)",
      "SynchronizeBoundOutputs(binding0)",
      "copy(toHost, pinned3, gpu3, 4, stream0)",
      "synchronize(stream0)",
    ]);
    expect([...(state.tensors().get("param.w") as Tensor).data]).toEqual([1 + 2 + 20, 10 + 4 + 40]);
    await state.release();
    await session.release();
    expect(gpu.alive()).toEqual([]);
  });

  test("what is not accepted leaves no trace, and the next run starts where that one did", async () => {
    const { state, loaded } = training();
    await state.run(loaded, x(100, 100));
    await state.run(loaded, x(1, 1));
    state.accept();
    state.accept();
    expect([...(state.tensors().get("param.w") as Tensor).data]).toEqual([3, 12]);
    expect(state.tensors().get("state.s")?.data[0]).toBe(2);
  });

  test("a batch that was staged is copied once, while the run in front of it computes", async () => {
    const { gpu, state, loaded } = training();
    const [first, second] = [x(1, 1), x(5, 5)];
    await state.run(loaded, first);
    state.accept();
    gpu.calls.length = 0;
    const third = x(7, 7);
    state.stage(loaded, third);
    await state.run(loaded, second);
    state.accept();
    await state.run(loaded, third);
    state.accept();
    const order = gpu.calls
      .filter((call) => /toDevice|RunWith|ynchronize/.test(call))
      .map((call) => call.split("(")[0]);
    // The second copy starts when the first run is launched, and the second run has nothing left to copy.
    expect(order).toEqual([
      "copy",
      "synchronize",
      "RunWithBinding",
      "copy",
      "SynchronizeBoundOutputs",
      "synchronize",
      "RunWithBinding",
      "SynchronizeBoundOutputs",
      "synchronize",
    ]);
    expect([...(state.tensors().get("param.w") as Tensor).data]).toEqual([1 + 2 * 13, 10 + 2 * 13]);
  });

  test("a batch that was staged and does not fit fails its own run, not the one in front of it", async () => {
    const { state, loaded } = training();
    const wrong = {};
    state.stage(loaded, wrong);
    expect((await state.run(loaded, x(1, 1)))["metric.first"]?.data[0]).toBe(1);
    state.accept();
    await expect(state.run(loaded, wrong)).rejects.toThrow(/input.x is not fed/);
    expect((await state.run(loaded, x(0, 0)))["metric.first"]?.data[0]).toBe(3);
  });

  test("a run that fails gives everything back all the same", async () => {
    const { gpu, session, state, loaded } = training();
    await expect(state.run(loaded, {})).rejects.toThrow(/input.x is not fed/);
    await state.release();
    await session.release();
    expect(gpu.alive()).toEqual([]);
  });

  test.each([1, 2])("goes on without a graph where run %i cannot be captured, and says so once", async (failing) => {
    const { gpu, session, state, loaded } = training(failing);
    const warned = jest.spyOn(process, "emitWarning").mockImplementation(() => undefined);
    const batches = [x(1, 1), x(2, 2), x(3, 3), x(4, 4)];
    for (const [i, batch] of batches.entries()) {
      if (batches[i + 1] !== undefined) state.stage(loaded, batches[i + 1]!);
      await state.run(loaded, batch);
      state.accept();
    }
    expect([...(state.tensors().get("param.w") as Tensor).data]).toEqual([1 + 2 * 10, 10 + 2 * 10]);
    await state.release();
    await session.release();
    expect(gpu.alive()).toEqual([]);
    expect(warned.mock.calls).toEqual([
      [expect.stringMatching(/^this program runs without a CUDA graph: CUDA failure 901[^;]*$/)],
    ]);
    warned.mockRestore();
  });

  test("another failure is not taken for one of a capture", async () => {
    const { state, loaded } = training();
    const broken = { ...loaded, model: { outputs: { "metric.first": one } } as unknown as Model };
    await expect(state.run(broken, x(1, 1))).rejects.toThrow(/^internal: programs of one training/);
  });

  test("a program that replaces other values than its training is refused", async () => {
    const { state, session } = training();
    const model = { outputs: { "metric.first": one } } as unknown as Model;
    await expect(state.run({ model, session }, x(1, 1))).rejects.toThrow(/^internal: programs of one training/);
  });
});

test("a program without state, as evaluation has: one set of fixed addresses", async () => {
  const gpu = fakeGpu();
  const session = gpu.session({ x: pair }, { y: pair }, (inputs, outputs) => {
    (outputs.get("y") as Float32Array).set((inputs.get("x") as Float32Array).map((v) => v * 2));
  });
  const memory = cudaPlaces(gpu.api, gpu.runtime, session.address, 0);
  const program = bindProgram(session, memory, [new Map()]);
  for (const value of [1, 2, 3]) {
    program.feed(0, { x: float32([2], [value, -value]) });
    expect([...((await program.run(0)).y as Tensor).data]).toEqual([2 * value, -2 * value]);
  }
  program.release();
  memory.release();
  await session.release();
  expect(gpu.alive()).toEqual([]);
});

test("a step that is run as any model gives what it would feed back as outputs", async () => {
  const gpu = fakeGpu();
  const session = gpu.session({ "param.w": pair }, { "next.param.w": pair }, (inputs, outputs) => {
    (outputs.get("next.param.w") as Float32Array).set((inputs.get("param.w") as Float32Array).map((v) => v + 1));
  });
  const memory = cudaPlaces(gpu.api, gpu.runtime, session.address, 0);
  const program = bindProgram(session, memory, [new Map()]);
  program.feed(0, { "param.w": float32([2], [1, 2]) });
  expect([...((await program.run(0))["next.param.w"] as Tensor).data]).toEqual([2, 3]);
});

test("options of the provider", () => {
  expect(cudaProviderOptions({})).toEqual([
    ["device_id", "0"],
    ["use_tf32", "1"],
    ["cudnn_conv_algo_search", "EXHAUSTIVE"],
    ["enable_cuda_graph", "0"],
  ]);
  const all = { device: 1, tf32: false, search: "HEURISTIC", memoryLimit: 2n ** 34n, graph: true } as const;
  expect(cudaProviderOptions(all)).toEqual([
    ["device_id", "1"],
    ["use_tf32", "0"],
    ["cudnn_conv_algo_search", "HEURISTIC"],
    ["gpu_mem_limit", "17179869184"],
    ["enable_cuda_graph", "1"],
  ]);
});

/** CUDA's runtime as far as it is used, over the host's memory; a copy of 13 bytes fails. */
const stub = `#include <cstdlib>
#include <cstring>
#include <cstdint>
extern "C" {
int cudaMallocHost(void **at, size_t n) { *at = malloc(n); return *at ? 0 : 2; }
int cudaFreeHost(void *at) { free(at); return 0; }
int cudaStreamCreateWithFlags(void **at, unsigned flags) { *at = (void *)(uintptr_t)(0x1230 + flags); return 0; }
int cudaStreamDestroy(void *stream) { return stream == (void *)0x1231 ? 0 : 400; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)0x1231 ? 0 : 400; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
  if (n == 13 || kind < 1 || kind > 3 || stream != (void *)0x1231) return 1;
  memcpy(to, from, n);
  return 0;
}
const char *cudaGetErrorString(int code) { return code == 400 ? "invalid resource handle" : "invalid argument"; }
}`;
const folder = mkdtempSync(join(tmpdir(), "advcl-cudart-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const compiler = process.platform === "linux" && spawnSync("g++", ["--version"]).status === 0;

(available("compiler", compiler) ? test : test.skip)("CUDA's runtime, a stub of it compiled here", () => {
  writeFileSync(join(folder, "stub.cpp"), stub);
  const library = join(folder, "libstub.so");
  execFileSync("g++", ["-shared", "-fPIC", "-o", library, join(folder, "stub.cpp")]);
  const runtime = loadCudaRuntime(["libnosuchcudart.so.99", library]);
  const [a, b] = [runtime.allocatePinned(16), runtime.allocatePinned(16)];
  const stream = runtime.createStream();
  runtime.bytesAt(a, 16).set(Uint8Array.from({ length: 16 }, (_, i) => i));
  runtime.copy("toDevice", b, a, 16, stream);
  runtime.synchronize(stream);
  expect([...runtime.bytesAt(b, 16)]).toEqual(Array.from({ length: 16 }, (_, i) => i));
  expect(() => runtime.copy("toHost", b, a, 13, stream)).toThrow(
    "CUDA: cudaMemcpyAsync failed with 1 (invalid argument)",
  );
  expect(() => runtime.synchronize(7n)).toThrow("invalid resource handle");
  runtime.destroyStream(stream);
  for (const address of [a, b]) runtime.freePinned(address);
});

test("a machine without CUDA's runtime", () => {
  expect(() => loadCudaRuntime(["libnosuchcudart.so.99"])).toThrow(
    /CUDA's runtime library is not found: .*libnosuchcudart/,
  );
});
