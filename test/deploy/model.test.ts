import { describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { halved } from "../../graphs/deploy/half.ts";
import { deployedWeights } from "../../graphs/deploy/network.ts";
import { quantized } from "../../graphs/deploy/quantize.ts";
import { fromFloat16, toFloat16 } from "../../graphs/onnx/float16.ts";
import { constant, input, type Value } from "../../graphs/onnx/graph.ts";
import { float32, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { gemm } from "../../graphs/ops/index.ts";
import { classifierStep } from "../../graphs/steps/finetune.ts";
import { cpuTarget } from "../../graphs/targets/cpu/index.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { loadDataset } from "../../src/data/dataset.ts";
import { calibrate } from "../../src/deploy/calibrate.ts";
import { buildExport, type ExportOptions, floatGraph } from "../../src/deploy/model.ts";
import { runReference } from "../../src/deploy/reference.ts";
import { deployedOptions, sourceOf } from "../../src/deploy/source.ts";
import { runInWeb } from "../../src/deploy/web.ts";
import { createSession } from "../../src/engine/session.ts";
import { imageBatch, photoBatch } from "../../src/models/images.ts";
import { predictionsOf } from "../../src/models/prediction.ts";
import { featureStep, weightFeeds } from "../../src/runs/network.ts";
import { evaluate, relativeError } from "../graphs/run.ts";
import { goldenNetwork, randomNetwork } from "./networks.ts";

const plain = { precision: "fp32", io: "float32", preprocess: false, metadata: {} } as const;

const run = async (model: Uint8Array, image: Tensor): Promise<Record<string, Tensor>> => {
  const session = await createSession(model);
  try {
    return await session.run({ image });
  } finally {
    await session.release();
  }
};

const shapes = (limit: number) => loadDataset({ name: "shapes", split: "test", limit });

describe("half precision", () => {
  test("rounds to nearest, ties to even, with subnormals and infinities", () => {
    const values = [
      0,
      -0,
      1,
      -2,
      65504,
      65519.99,
      65520,
      2 ** -14,
      2 ** -24,
      2 ** -25,
      3 * 2 ** -25,
      1 + 2 ** -11,
      1 + 3 * 2 ** -11,
      1e-9,
      Number.NaN,
    ];
    const expected = [
      0,
      -0,
      1,
      -2,
      65504,
      65504,
      Infinity,
      2 ** -14,
      2 ** -24,
      0,
      2 ** -23,
      1,
      1 + 2 ** -9,
      0,
      Number.NaN,
    ];
    expect(Array.from(fromFloat16(toFloat16(values)))).toEqual(expected);
  });

  test("every finite half comes back", () => {
    const all = Uint16Array.from({ length: 0x7c00 }, (_, i) => i);
    expect(toFloat16(fromFloat16(all))).toEqual(all);
  });
});

describe("an exported model", () => {
  test.each(["normal", "pgd", "pgd_ce"])("folds branch %s: the features of the run", async (branch) => {
    const { network, weights, clean } = await goldenNetwork();
    const source = sourceOf(network, weights, branch, "golden");
    const options = { ...deployedOptions(source, "encoder", "golden"), ...plain };
    const model = await buildExport(options, weights, source.branch?.index, undefined);
    const { features } = await run(model.bytes, clean);
    const step = featureStep(network, branch, 16);
    const feeds = { "input.image": clean, ...weightFeeds(step.store, weights, "golden") };
    const expected = await evaluate(step.outputs, feeds);
    expect(relativeError(features?.data as Float32Array, expected.features?.data as Float32Array)).toBeLessThan(3e-6);
  });

  test("of a finetuned run, which holds one branch of several", async () => {
    const { network, weights, clean } = await goldenNetwork();
    const all = sourceOf(network, weights, "auto", "golden");
    const own = new Map([...weights].filter(([name]) => !/bn_list\.[02]\./.test(name)));
    const source = { ...sourceOf(network, own, "auto", "finetuned"), folder: "finetuned" };
    expect(source.branch).toEqual({ name: "pgd", index: 1 });
    const options = { ...deployedOptions(source, "classifier", "finetuned"), ...plain };
    const { logits } = await run((await buildExport(options, own, 1, undefined)).bytes, clean);
    const expected = await runReference({ ...all, folder: "golden" }, "classifier", clean);
    expect(relativeError(logits?.data as Float32Array, expected)).toBeLessThan(3e-6);
    expect(() => sourceOf(network, own, "normal", "finetuned")).toThrow(/finetuned has the branches pgd; choose one/);
  });

  describe("of a network that normalises its pixels itself", () => {
    const normalisation = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    const normalised = ({ shape, data }: Tensor): Tensor =>
      float32(
        shape,
        Float32Array.from(data as Float32Array, (v, i) => {
          const channel = Math.floor(i / 1024) % 3;
          return (v - normalisation.mean[channel]!) / normalisation.std[channel]!;
        }),
      );

    test.each([
      ["fp32", 3e-6],
      ["fp16", 5e-3],
      ["int8", 0.12],
    ] as const)("in %s: what the plain network gives for normalised images", async (precision, tolerance) => {
      const { network, weights, clean } = await goldenNetwork();
      const bare = { ...sourceOf(network, weights, "auto", "golden"), folder: "golden" };
      const source = { ...bare, network: { ...network, normalisation } };
      const expected = await runReference(bare, "classifier", normalised(clean));
      const own = await runReference(source, "classifier", clean);
      expect(relativeError(own, expected)).toBeLessThan(3e-6);
      const options = { ...deployedOptions(source, "classifier", "golden"), ...plain, precision };
      const { bytes } = await buildExport(options, weights, 1, await shapes(32));
      const { logits } = await run(bytes, clean);
      expect(relativeError(logits?.data as Float32Array, expected)).toBeLessThan(tolerance);
    });

    test("is attacked in its pixels, in every layout that the CPU takes", async () => {
      const { network, weights, clean } = await goldenNetwork();
      const step = classifierStep({
        ...{ ...network, normalisation, classes: 10, branch: "pgd", batch: 16 },
        ...{ attackSteps: 2, eps: 8 / 255, stepSize: 4 / 255, encoder: weights },
      });
      const feeds = {
        ...{ "input.clean": clean, "input.start": float32(clean.shape, new Float32Array(clean.data.length)) },
        "input.label": tensor(
          "int32",
          [16],
          Int32Array.from({ length: 16 }, (_, i) => i % 10),
        ),
        ...weightFeeds(step.store, weights, "golden"),
      };
      const [plainly, blocked] = [
        await evaluate(step.outputs, feeds),
        await evaluate(step.outputs, feeds, cpuTarget()),
      ];
      for (const name of ["logits", "robustLogits"])
        expect(relativeError(blocked[name]!.data as Float32Array, plainly[name]!.data as Float32Array)).toBeLessThan(
          1e-4,
        );
      const moved = (plainly.attacked!.data as Float32Array).map((v, i) => Math.abs(v - Number(clean.data[i])));
      expect(Math.max(...moved)).toBeCloseTo(8 / 255, 5);
    });
  });

  test("is a plain file: opset 17, IR 8, standard ops, weights by their names, an open batch, what was written of it", async () => {
    const { network, weights } = randomNetwork({ width: 4, depth: 50 });
    weights.set("fc.weight", float32([3, 128], new Float32Array(384)));
    weights.set("fc.bias", float32([3], [1, 2, 3]));
    const source = sourceOf(network, weights, "auto", "here");
    const options: ExportOptions = {
      ...deployedOptions(source, "classifier", "here"),
      ...plain,
      metadata: { method: "advcl" },
    };
    const { bytes } = await buildExport(options, weights, 1, undefined);
    const file = onnxProto.onnx.ModelProto.decode(bytes);
    expect(Number(file.irVersion)).toBe(8);
    expect(file.opsetImport.map(({ domain, version }) => [domain, Number(version)])).toEqual([["", 17]]);
    expect(new Set(file.graph?.node?.map((n) => n.opType))).toEqual(
      new Set(["Conv", "Relu", "Add", "ReduceMean", "Gemm"]),
    );
    const names = file.graph?.initializer?.map((t) => t.name).sort();
    const folded = deployedWeights(options, weights, 1);
    expect(names).toEqual([...folded.keys()].sort());
    expect(file.graph?.input?.map((i) => i.name)).toEqual(["image"]);
    const dims = (info: onnxProto.onnx.IValueInfoProto | undefined) =>
      info?.type?.tensorType?.shape?.dim?.map((d) => d.dimParam || Number(d.dimValue));
    expect(dims(file.graph?.input?.[0])).toEqual(["batch", 3, 32, 32]);
    expect(dims(file.graph?.output?.[0])).toEqual(["batch", 3]);
    expect(file.metadataProps.map(({ key, value }) => [key, value])).toEqual([["method", "advcl"]]);
    for (const n of [1, 5])
      expect((await run(bytes, float32([n, 3, 32, 32], new Float32Array(n * 3072)))).logits?.shape).toEqual([n, 3]);
  });

  test("projects to unit length like the projector of the run", async () => {
    const { network, weights, clean } = await goldenNetwork();
    const source = sourceOf(network, weights, "pgd", "golden");
    const { bytes } = await buildExport(
      { ...deployedOptions(source, "projector", "golden"), ...plain },
      weights,
      1,
      undefined,
    );
    const z = (await run(bytes, clean)).projection as Tensor;
    expect(z.shape).toEqual([16, 128]);
    const first = (z.data as Float32Array).subarray(0, 128);
    expect(Math.hypot(...first)).toBeCloseTo(1, 5);
  });

  test("takes photographs of any size with its preprocessing inside", async () => {
    const { network, weights } = await goldenNetwork();
    const source = sourceOf(network, weights, "auto", "golden");
    const options = { ...deployedOptions(source, "classifier", "golden"), ...plain };
    const images = await shapes(6);
    const bare = await buildExport(options, weights, 1, undefined);
    const whole = await buildExport({ ...options, preprocess: true }, weights, 1, undefined);
    const expected = (await run(bare.bytes, imageBatch(images, 0, 6))).logits as Tensor;
    const same = (await run(whole.bytes, photoBatch(images, 0, 6))).logits as Tensor;
    expect(relativeError(same.data as Float32Array, expected.data as Float32Array)).toBeLessThan(1e-5);
    const large = await loadDataset({ name: "shapes", split: "test", limit: 2, size: 48 });
    expect((await run(whole.bytes, photoBatch(large, 0, 2))).logits?.shape).toEqual([2, 10]);
  });

  test.each([
    ["fp16", "float32", 5e-3],
    ["fp16", "float16", 5e-3],
    ["int8", "float32", 0.12],
  ] as const)("in %s with %s outside stays near float32", async (precision, io, tolerance) => {
    const { network, weights, clean } = await goldenNetwork();
    const source = sourceOf(network, weights, "auto", "golden");
    const options = { ...deployedOptions(source, "classifier", "golden"), ...plain };
    const expected = (await run((await buildExport(options, weights, 1, undefined)).bytes, clean)).logits as Tensor;
    const { bytes } = await buildExport({ ...options, precision, io }, weights, 1, await shapes(32));
    const image =
      io === "float16" ? { ...clean, dtype: "float16" as const, data: toFloat16(clean.data as Float32Array) } : clean;
    const { logits } = await run(bytes, image as Tensor);
    const got = io === "float16" ? fromFloat16(logits?.data as Uint16Array) : (logits?.data as Float32Array);
    expect(relativeError(got, expected.data as Float32Array)).toBeLessThan(tolerance);
    const top = predictionsOf({ ...expected, data: got } as Tensor);
    const same = predictionsOf(expected).filter((c, i) => c === top[i]).length;
    expect(same).toBeGreaterThanOrEqual(precision === "int8" ? 13 : 16);
  });

  test("in int8 shifts biases so that quantisation leaves the mean of each score where it was", async () => {
    const { network, weights } = await goldenNetwork();
    const options = { ...deployedOptions(sourceOf(network, weights, "auto", "golden"), "classifier", "golden") };
    const images = await shapes(64);
    const { image, outputs } = floatGraph({ ...options, batch: 32 }, weights, 1);
    const logits = { logits: outputs.logits as Value };
    const { ranges, shifts } = await calibrate(logits, image, images);
    const meansOf = async (graph: typeof logits): Promise<number[]> => {
      const sums = new Array<number>(10).fill(0);
      const { bytes } = buildModel(lower(graph, portable), [image]);
      for (const start of [0, 32]) {
        const { data } = (await run(bytes, imageBatch(images, start, 32))).logits as Tensor;
        (data as Float32Array).forEach((v, i) => {
          sums[i % 10] = sums[i % 10]! + v / 64;
        });
      }
      return sums;
    };
    const [exact, plainly, corrected] = [
      await meansOf(logits),
      await meansOf(quantized(logits, ranges)),
      await meansOf(quantized(logits, ranges, shifts)),
    ];
    const error = relativeError(Float32Array.from(corrected), Float32Array.from(exact));
    expect(error).toBeLessThan(0.25 * relativeError(Float32Array.from(plainly), Float32Array.from(exact)));
    expect(error).toBeLessThan(0.01);
  });

  test("in int8 is a file that reference evaluators read, and no sum of two products overflows 16 bits", async () => {
    const { network, weights } = await goldenNetwork();
    const options = {
      ...deployedOptions(sourceOf(network, weights, "auto", "golden"), "classifier", "golden"),
      ...{ ...plain, precision: "int8" as const },
    };
    const file = onnxProto.onnx.ModelProto.decode((await buildExport(options, weights, 1, await shapes(16))).bytes);
    expect(file.opsetImport.map(({ version }) => Number(version))).toEqual([19]);
    const ops = new Set(file.graph?.node?.map((n) => n.opType));
    expect([...ops].filter((op) => op?.startsWith("Reduce"))).toEqual([]);
    const quantized = file.graph?.initializer?.filter(({ name }) => name?.endsWith("weight.quantized")) ?? [];
    expect(quantized.length).toBeGreaterThan(20);
    for (const { rawData } of quantized) {
      const values = new Int8Array(Uint8Array.from(rawData as Uint8Array).buffer);
      expect(2 * 255 * values.reduce((largest, v) => Math.max(largest, Math.abs(v)), 0)).toBeLessThan(2 ** 15);
    }
  });

  test("in fp16 leaves the sum of a linear layer to an Add, since tract types no other", () => {
    const [x, weight] = [
      input("x", { dtype: "float32", shape: [2, 3] }),
      constant(float32([2, 3], [1, 2, 3, 4, 5, 6])),
    ];
    const { logits } = halved({ logits: gemm(x, weight, constant(float32([2], [1, 2])), { transB: 1 }) }, "float16");
    expect(logits.node.definition.name).toBe("Add");
    const [product] = logits.node.inputs;
    expect(product?.node.definition.name).toBe("Gemm");
    expect(product?.node.inputs.length).toBe(2);
  });

  test.each(["fp32", "fp16", "int8"] as const)("in %s gives the same logits on onnxruntime-web", async (precision) => {
    const { network, weights, clean } = await goldenNetwork();
    const source = { ...sourceOf(network, weights, "auto", "golden"), folder: "golden" };
    const options = { ...deployedOptions(source, "classifier", "golden"), ...plain, precision };
    const { bytes } = await buildExport(options, weights, 1, await shapes(16));
    const web = (await runInWeb(bytes, { image: clean })).logits as Tensor;
    const node = (await run(bytes, clean)).logits as Tensor;
    expect(relativeError(web.data as Float32Array, node.data as Float32Array)).toBeLessThan(
      precision === "int8" ? 5e-2 : 1e-3,
    );
    if (precision !== "fp32") return;
    const expected = await runReference(source, "classifier", clean);
    const worst = expected.reduce((largest, v, i) => Math.max(largest, Math.abs(v - Number(web.data[i]))), 0);
    expect(worst).toBeLessThan(1e-4);
    expect(predictionsOf(web)).toEqual(predictionsOf({ ...web, data: expected } as Tensor));
  });
});
