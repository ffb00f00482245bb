/** Which engine and precision are taken, and what is said where they cannot be. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { chooseEngine, engineOf } from "../../../src/engine/engine.ts";
import { ortApi } from "../../../src/engine/native/api.ts";
import { runtimeNames } from "../../../src/engine/native/cuda-runtime.ts";
import { libraryIn, libraryNames } from "../../../src/engine/native/library.ts";
import { driverOf, nativeReport } from "../../../src/engine/native/report.ts";
import { judgingTarget, targetNamed, targetNames } from "../../../src/engine/targets.ts";

test("on the CPU the binding by itself, the native engine where it is asked for; float32 either way", async () => {
  const taken = await chooseEngine({ provider: "cpu", threads: 1 });
  expect([taken.name, taken.precision, taken.graphs, taken.options.engine]).toEqual([
    "binding",
    "float32",
    false,
    undefined,
  ]);
  const asked = await chooseEngine({ provider: "cpu", threads: 1, engine: "native", precision: "float32" });
  expect([asked.name, asked.nameReason, asked.graphs, asked.options.engine]).toEqual([
    "native",
    "as asked",
    false,
    "native",
  ]);
});

test("what a run was begun with is taken again where this machine has it and nothing else is asked for", async () => {
  const taken = async (request: Partial<Parameters<typeof chooseEngine>[0]>) =>
    (await chooseEngine({ provider: "cpu", threads: 1, ...request })).target.name;
  const own = await taken({});
  expect(own).toMatch(/^cpu(-blocked\d+(-(all|\d+)){0,5})?$/);
  expect(await taken({ begunWith: "cpu-pixels" })).toBe("cpu-pixels");
  expect(await taken({ begunWith: own })).toBe(own);
  expect(await taken({ begunWith: own.startsWith("cpu-blocked8") ? "cpu-blocked16" : "cpu-blocked8" })).toBe(own);
  for (const begunWith of ["cuda", "cpu-of-another-version"]) expect(await taken({ begunWith })).toBe(own);
  expect(await taken({ begunWith: "cpu-pixels", target: "portable" })).toBe("portable");
});

test("on CUDA the native engine, with graphs; on WebGPU the binding", () => {
  expect(engineOf("cuda")).toMatchObject({ name: "native", graphs: true });
  expect(engineOf("webgpu")).toMatchObject({ name: "binding", graphs: false });
});

test.each([
  [{ provider: "webgpu", engine: "native" }, /--engine native computes on cpu and cuda, and this is webgpu/],
  [{ provider: "cpu", precision: "float16" }, /--precision float16 is for CUDA, and this is cpu/],
  [{ provider: "cpu", precision: "tf32" }, /--precision tf32 is for CUDA/],
  [{ provider: "cuda", engine: "binding", precision: "float32" }, /the binding cannot switch TF32 off/],
] as const)("%j is refused", async (request, message) => {
  await expect(chooseEngine({ threads: 1, ...request })).rejects.toThrow(message);
});

test("names of the libraries by platform, and what is said where there is none", () => {
  expect(libraryNames("win32")).toEqual(["onnxruntime.dll"]);
  expect(libraryNames("darwin")[0]).toBe("libonnxruntime.1.dylib");
  expect(runtimeNames("win32")[0]).toBe("cudart64_13.dll");
  const folder = mkdtempSync(join(tmpdir(), "advcl-library-"));
  expect(() => libraryIn(folder, "darwin")).toThrow(`libonnxruntime.1.dylib is not in ${folder}`);
  writeFileSync(join(folder, "libonnxruntime.dylib"), "");
  expect(libraryIn(folder, "darwin")).toBe(join(folder, "libonnxruntime.dylib"));
  rmSync(folder, { recursive: true });
});

test("what doctor tells", () => {
  expect(nativeReport()).toMatchObject({ works: true, message: "works", version: ortApi().version });
  const kernel =
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:19:41 UTC 2025\nGCC version:";
  expect(driverOf(kernel)).toBe("580.65.06");
  expect(driverOf("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.1  Release")).toBe("570.1");
  expect(driverOf("")).toBeUndefined();
});

test("a target says the name that it is asked for by, since runs are begun anew with it", () => {
  for (const name of targetNames) expect(targetNamed(name).name).toBe(name);
});

test("a model is never attacked in float16 unless that is asked for by name: gradients that vanish would make it look robust", () => {
  const judged = (name: string, own: boolean, graphs = true) =>
    judgingTarget(targetNamed(name), { stock: () => targetNamed("cpu-pixels"), graphs, own }).name;
  expect(judged("cuda-fused", true)).toBe("cuda-fused-float32");
  expect(judged("cuda-convolution-turned-float16", true)).toBe("cuda");
  expect(judged("cuda-fused", false)).toBe("cuda-fused");
  // Threads are not handed kernels.
  expect(judged("cpu-bfloat16", false, false)).toBe("cpu-pixels");
  expect(judged("cpu-pixels", false, false)).toBe("cpu-pixels");
});
