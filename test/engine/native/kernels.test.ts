/** What is said where fused kernels cannot run: one sentence, and stock ops. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import type { Cudnn } from "../../../src/engine/native/cudnn/library.ts";
import { type KernelTools, kernelsReport, missingKernels } from "../../../src/engine/native/kernels.ts";
import type { Driver } from "../../../src/engine/native/launch.ts";
import { compileAll, type Nvrtc } from "../../../src/engine/native/nvrtc.ts";

const driver = (architecture: number): Driver => ({
  architecture,
  prepare: () => () => () => undefined,
  within: (work) => work(),
  allocate: () => 0n,
  free: () => undefined,
  release: () => undefined,
});
const nvrtc: Nvrtc = {
  name: "here",
  version: "13.0",
  architectures: [75, 80, 86, 90, 100],
  compile: async () => new Uint8Array(),
};
const cudnn: Cudnn = { version: "9.19.0", prepare: () => ({ workspace: 0, run: () => undefined }) };
const tools = (some: Partial<KernelTools>): KernelTools => ({
  missingApi: () => undefined,
  openDriver: () => driver(90),
  openNvrtc: () => nvrtc,
  openCudnn: () => cudnn,
  ...some,
});

test.each<[string, Partial<KernelTools>, RegExp | undefined]>([
  ["everything is here", {}, undefined],
  ["no koffi", { missingApi: () => "the package koffi is not installed: npm install koffi" }, /koffi/],
  ["no driver", { openDriver: () => undefined }, /no NVIDIA driver/],
  [
    "a driver that fails",
    {
      openDriver: () => {
        throw new Error("CUDA: starting the driver failed: CUDA_ERROR_NO_DEVICE");
      },
    },
    /CUDA_ERROR_NO_DEVICE/,
  ],
  ["an older GPU", { openDriver: () => driver(70) }, /compute capability 7\.0, and they need 7\.5/],
  ["no NVRTC", { openNvrtc: () => undefined }, /NVRTC is not here.*install-nvrtc\.sh/],
  ["no cuDNN", { openCudnn: () => undefined }, /cuDNN 9 is not here.*docs\/gpu\.md/],
  ["a GPU newer than NVRTC", { openDriver: () => driver(120) }, /NVRTC 13\.0 has no code for compute capability 12\.0/],
])("%s", (_, some, expected) => {
  const said = missingKernels("native", 0, tools(some));
  if (expected === undefined) expect(said).toBeUndefined();
  else {
    expect(said).toMatch(expected);
    expect(said).toMatch(/^onnxruntime's own ops stand for the fused kernels/);
    expect(said).not.toMatch(/\n/);
  }
});

test("through the binding there are none", () => {
  expect(missingKernels("binding", 0, tools({}))).toMatch(/they need --engine native/);
});

test("programs are compiled several at once; one that fails ends it when the others have ended", async () => {
  const folder = mkdtempSync(join(tmpdir(), "advcl-kernels-"));
  let running = 0;
  let most = 0;
  const slow: Nvrtc = {
    ...nvrtc,
    compile: async (source) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((done) => setTimeout(done, 5));
      running -= 1;
      if (source === "wrong") throw new Error("refused");
      return Buffer.from(source);
    },
  };
  try {
    const names = Array.from({ length: 3 * availableParallelism() }, (_, i) => `source ${i}`);
    const code = await compileAll(slow, names, 90, folder);
    expect(names.map((name) => Buffer.from(code.get(name)!).toString())).toEqual(names);
    expect(most).toBe(Math.min(availableParallelism(), 32));
    await expect(compileAll(slow, ["wrong", ...names.map((name) => `${name}'`)], 90, folder)).rejects.toThrow(
      "refused",
    );
    expect(running).toBe(0);
    expect(readdirSync(folder).length).toBeLessThan(2 * names.length);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("doctor says what compiles and computes them, or what is missing", () => {
  expect(kernelsReport(tools({}))).toEqual({
    works: true,
    message: "compiled by NVRTC 13.0 (here), convolutions by cuDNN 9.19.0",
  });
  const { works, message } = kernelsReport(tools({ openNvrtc: () => undefined }));
  expect(works).toBe(false);
  expect(message).toMatch(
    /^onnxruntime's own ops stand for them \(NVRTC is not here: run {2}sh scripts\/install-nvrtc\.sh/,
  );
});
