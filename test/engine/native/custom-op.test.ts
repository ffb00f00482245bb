/** Kernels as custom ops in the CPU provider: JavaScript functions, and the CUDA sources themselves through launch.ts. */
import { describe, expect, test } from "@jest/globals";
import { advcl } from "../../../graphs/methods/advcl.ts";
import { apply, input, type Type, type Value } from "../../../graphs/onnx/graph.ts";
import { allNodesOf } from "../../../graphs/onnx/order.ts";
import type { OpDefinition } from "../../../graphs/ops/index.ts";
import { compile } from "../../../graphs/steps/step.ts";
import { cudaFusedTarget } from "../../../graphs/targets/cuda/fused/index.ts";
import { fileName, kernelOf } from "../../../graphs/targets/cuda/kernels/kernel.ts";
import { cudnnFunctions } from "../../../graphs/targets/cuda/kernels/nhwc-conv.ts";
import { pgdStepKernel } from "../../../graphs/targets/cuda/kernels/pgd-step.ts";
import { type Lowering, lower, type Target } from "../../../graphs/targets/lower.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { goldenOptions } from "../../../scripts/parity/golden.ts";
import { missingApi, ortApi } from "../../../src/engine/native/api.ts";
import { cudnnConvolutions } from "../../../src/engine/native/cudnn/convolutions.ts";
import { type Cudnn, openCudnn } from "../../../src/engine/native/cudnn/library.ts";
import { kernelNodes, kernelOps, kernelSources, type Prepare } from "../../../src/engine/native/kernel-ops.ts";
import { openDriver } from "../../../src/engine/native/launch.ts";
import { loadKoffi } from "../../../src/engine/native/library.ts";
import { createSession } from "../../../src/engine/session.ts";
import { emulatedCudnn, emulatedDriver, emulatedLibrary, emulates } from "../../emulator/emulator.ts";
import { evaluate, randomNumbers, randomTensor, relativeError } from "../../graphs/run.ts";
import { available } from "../../needs.ts";
import { runCustom } from "./run-custom.ts";

const reached = available("koffi", missingApi() === undefined);
const native = reached ? describe : describe.skip;

const types = { x: [2, 3, 5, 4], gradient: [2, 5, 4, 3], clean: [2, 3, 5, 4] };
const values = Object.fromEntries(
  Object.entries(types).map(([name, shape]) => [name, input(name, { dtype: "float32", shape })]),
) as Record<keyof typeof types, Value>;
const attributes = { stepSize: 0.1, eps: 0.3, channelsLast: 1 };
const next = pgdStepKernel(values.x, values.gradient, values.clean, attributes);
/** Kernels and cuDNN's ops stay what they are, everything else becomes standard ops. */
const keepingKernels = (outputs: Readonly<Record<string, Value>>): Target => {
  const lowerings = new Map<OpDefinition, Lowering>();
  for (const { definition } of allNodesOf(Object.values(outputs)))
    if (kernelOf(definition) !== undefined || cudnnFunctions.has(definition))
      lowerings.set(definition as OpDefinition, ({ inputs, attributes }) =>
        apply(
          definition,
          inputs.map((x) => x.plain),
          attributes,
        ),
      );
  return { ...portable, lowerings, kernels: fileName };
};
const random = randomNumbers(3);
const feeds = {
  x: randomTensor(random, types.x, 0, 1),
  gradient: randomTensor(random, types.gradient),
  clean: randomTensor(random, types.clean, 0, 1),
};

/** The step in JavaScript, over the memory that onnxruntime gives. */
const inJavaScript: Prepare = (_, { outputs: [y] }) => {
  const [n, c, h, w] = (y as Type).shape as [number, number, number, number];
  return (addresses) => {
    const at = (i: number) => new Float32Array(ortApi().koffi.view(addresses[i]!, n * c * h * w * 4));
    const [x, g, clean, result] = [0, 1, 2, 3].map(at) as [Float32Array, Float32Array, Float32Array, Float32Array];
    const [step, eps] = [Math.fround(0.1), Math.fround(0.3)];
    for (let i = 0; i < result.length; i++) {
      const [image, channel, pixel] = [Math.floor(i / (c * h * w)), Math.floor(i / (h * w)) % c, i % (h * w)];
      const moved = Math.fround(x[i]! + step * Math.sign(g[(image * h * w + pixel) * c + channel]!));
      const [low, high] = [Math.fround(clean[i]! - eps), Math.fround(clean[i]! + eps)];
      result[i] = Math.min(Math.max(Math.min(Math.max(moved, low), high), 0), 1);
    }
  };
};

native("a model with a kernel, on the CPU provider", () => {
  const model = compile({ outputs: { next } }, keepingKernels({ next }));

  test.each([false, true])(
    "gives the portable result by a JavaScript function (from another thread: %s)",
    async (elsewhere) => {
      const expected = await evaluate({ next }, feeds);
      const actual = await runCustom(model, kernelOps(model, "CPUExecutionProvider", inJavaScript), feeds, {
        elsewhere,
      });
      expect(actual.next?.data).toEqual(expected.next.data);
    },
  );

  test("loads and runs as any session of the native engine", async () => {
    const expected = await evaluate({ next }, feeds);
    const kernels = { ops: kernelOps(model, "CPUExecutionProvider", inJavaScript) };
    const session = await createSession(model, { engine: "native", threads: 1, kernels });
    for (let i = 0; i < 3; i++) expect((await session.run(feeds)).next?.data).toEqual(expected.next.data);
    await session.release();
    await expect(createSession(model, { engine: "native", threads: 1 })).rejects.toThrow(/advcl/);
  });

  test("says what a kernel throws, when it is made and when it runs", async () => {
    const failing = (prepare: Prepare) => runCustom(model, kernelOps(model, "CPUExecutionProvider", prepare), feeds);
    const refuse = () => {
      throw new Error("there is no code for it");
    };
    await expect(failing(refuse)).rejects.toThrow("there is no code for it");
    await expect(failing(() => refuse)).rejects.toThrow("there is no code for it");
  });
});

const emulated = reached && emulates ? describe : describe.skip;
emulated("kernels by launch.ts, their sources on an emulated driver", () => {
  /** Each program's path stands for its machine code. */
  const prepareFor = (model: ReturnType<typeof compile>) => {
    const driver = openDriver(0, [emulatedDriver()]);
    if (driver === undefined) throw new Error("the emulated driver does not open");
    expect(driver.architecture).toBe(90);
    const code = new Map<string, Uint8Array>();
    for (const { definition, inputs, outputs, attributes: given } of kernelNodes(model).values()) {
      const kernel = kernelOf(definition);
      if (kernel === undefined) continue;
      const call = { inputs, outputs, attributes: given };
      code.set(kernel.source(call), new TextEncoder().encode(`${emulatedLibrary(kernel, call)}\0`));
    }
    expect([...code.keys()].sort()).toEqual([...kernelSources(model)].sort());
    return { driver, prepare: driver.prepare((source) => code.get(source) as Uint8Array) };
  };

  test("the attack's step", async () => {
    const model = compile({ outputs: { next } }, keepingKernels({ next }));
    const { driver, prepare } = prepareFor(model);
    const actual = await runCustom(model, kernelOps(model, "CPUExecutionProvider", prepare), feeds);
    driver.release();
    expect(actual.next?.data).toEqual((await evaluate({ next }, feeds)).next.data);
  });

  test("a whole AdvCL step in float32 is the portable one", async () => {
    const step = advcl.build({
      ...goldenOptions,
      batch: 4,
      size: 16,
      width: 4,
      radius: 4,
      clusters: [2, 3],
      attackSteps: 1,
    });
    const fused = cudaFusedTarget({ precision: "float32" });
    const single = lower(step.outputs, fused);
    const lowered = fused.rewrite?.(single) ?? single;
    const model = compile({ outputs: lowered }, keepingKernels(lowered));
    const given = Object.fromEntries(
      Object.entries(model.inputs).map(([name, { dtype, shape }]) => [
        name,
        dtype === "int32"
          ? randomTensor(random, shape, 0, 2, dtype)
          : name === "input.lr"
            ? randomTensor(random, shape, 0.1, 0.1)
            : /^input.start/.test(name)
              ? randomTensor(random, shape, -8 / 255, 8 / 255)
              : randomTensor(random, shape, /running_var|^input/.test(name) ? 0.2 : -0.5, 1),
      ]),
    );
    const { driver, prepare } = prepareFor(model);
    const cudnn = openCudnn([emulatedCudnn()]) as Cudnn;
    expect(cudnn.version).toBe("9.19.0");
    const convolutions = cudnnConvolutions(cudnn, driver, true);
    const ops = kernelOps(model, "CPUExecutionProvider", prepare, convolutions.prepare);
    const actual = await runCustom(model, ops, given);
    const loaded = loadKoffi();
    const told = (path: string, name: string) => loaded.load(path).func(name, "int", [])();
    const counted = [...kernelNodes(model).values()].filter(({ definition }) => cudnnFunctions.has(definition));
    expect(counted.length).toBeGreaterThan(60);
    expect(told(emulatedCudnn(), "emulatedConvolutions")).toBe(counted.length);
    expect(told(emulatedDriver(), "emulatedHeld")).toBe(1);
    convolutions.release();
    expect(told(emulatedDriver(), "emulatedHeld")).toBe(0);
    driver.release();
    const expected = await evaluate(step.outputs, given);
    const wrong: Record<string, number> = {};
    for (const [name, { data }] of Object.entries(expected)) {
      // A bias before a batch norm moves nothing: its gradient is 0 but for rounding.
      if (name === "grad.head_proj.0.bias") continue;
      const error = relativeError(actual[name]?.data as Float32Array, data as Float32Array);
      if (!(error <= 2e-3)) wrong[name] = error;
    }
    expect(wrong).toEqual({});
  });
});
