import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { grad } from "../../graphs/autodiff/grad.ts";
import { photograph } from "../../graphs/deploy/photograph.ts";
import { quantized, quantizedValues } from "../../graphs/deploy/quantize.ts";
import { input, type Value } from "../../graphs/onnx/graph.ts";
import { type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { buildModel } from "../../graphs/onnx/write.ts";
import { cast, div, mul, reduceSum, reshape, sigmoid, slice, softmax, transpose } from "../../graphs/ops/index.ts";
import { lower } from "../../graphs/targets/lower.ts";
import { portable } from "../../graphs/targets/portable.ts";
import { createSession } from "../../src/engine/session.ts";
import { asIsOracle } from "../../src/evaluate/attacks/as-is-oracle.ts";
import { openOracle } from "../../src/evaluate/attacks/programs.ts";
import { type ClassifierOptions, type LoadedClassifier, openClassifier } from "../../src/models/classifier.ts";
import { preprocessingOf } from "../../src/models/preprocessing.ts";
import { portably } from "../evaluate/models.ts";
import { randomNumbers, relativeError } from "../graphs/run.ts";
import { changed, featuresOf, fileOf, logitsOf, onnx, type Proto } from "./files.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-models-"));
afterAll(() => rmSync(folder, { recursive: true }));

const warnings: string[] = [];
const open = (bytes: Uint8Array, options: Partial<ClassifierOptions> = {}) => {
  const path = join(folder, "model.onnx");
  writeFileSync(path, bytes);
  warnings.length = 0;
  return openClassifier(path, { warn: (message) => warnings.push(message), ...options });
};
const load = async (bytes: Uint8Array, options: Partial<ClassifierOptions> = {}, classes = 5) =>
  (await open(bytes, options)).classifier(classes);

const random = randomNumbers(4);
/** Six images of bytes, so that every way of taking them is exact. */
const images = Float32Array.from({ length: 6 * 3 * 64 }, () => Math.floor(256 * random()) / 255);

/** Logits of the six images, in batches that the model takes. */
const logits = async ({ build, fixedBatch }: Pick<LoadedClassifier, "build" | "fixedBatch">): Promise<number[]> => {
  const batch = fixedBatch ?? 6;
  const session = await portably({ y: build(input("x", { dtype: "float32", shape: [batch, 3, 8, 8] })) });
  const out: number[] = [];
  for (let from = 0; from < 6; from += batch) {
    const x = tensor("float32", [batch, 3, 8, 8], images.slice(from * 192, (from + batch) * 192));
    const { y } = await session.run({ x });
    out.push(...(y as Tensor<"float32">).data);
  }
  await session.release();
  return out;
};
const right = logits({ build: logitsOf, fixedBatch: undefined });
const same = async (loaded: LoadedClassifier, tolerance = 1e-5) =>
  expect(relativeError(await logits(loaded), await right)).toBeLessThan(tolerance);

const plain = fileOf((x) => ({ logits: logitsOf(x) }));
const nchw = (x: Value): Value => transpose(x, { perm: [0, 3, 1, 2] });
const nhwc = { shape: [2, 8, 8, 3] };

describe("one classifier, however its file takes images and gives logits", () => {
  test.each<[string, Uint8Array, Partial<ClassifierOptions>, RegExp[]]>([
    ["plain", plain, {}, []],
    ["channels last", fileOf((x) => ({ y: logitsOf(nchw(x)) }), nhwc), {}, [/taken as NHWC .*--layout nchw/]],
    ["the same, told", fileOf((x) => ({ y: logitsOf(nchw(x)) }), nhwc), { layout: "nhwc" }, []],
    ["[B,C,1,1]", fileOf((x) => ({ y: reshape(logitsOf(x), [-1, 5, 1, 1]) })), {}, []],
    ["[B,1,C]", fileOf((x) => ({ y: reshape(logitsOf(x), [-1, 1, 5]) })), {}, []],
    [
      "everything open",
      fileOf((x) => ({ y: logitsOf(x) }), { dynamic: ["batch_size", "num_channels", "height", "width"] }),
      { size: 8 },
      [/leaves the channels open: 3, RGB/],
    ],
    [
      "bytes with the division inside",
      fileOf((x) => ({ y: logitsOf(div(nchw(cast(x, { to: "float32" })), 255)) }), { ...nhwc, dtype: "uint8" }),
      {},
      [/takes bytes: pixels are rounded/],
    ],
    [
      "features first",
      fileOf((x) => ({ embedding: featuresOf(x), y: logitsOf(x) })),
      {},
      [/outputs embedding \[6\], y \[5\]: y is taken, since it has the dataset's 5 classes; --output chooses/],
    ],
    ["an output by name", fileOf((x) => ({ a: mul(logitsOf(x), 2), b: logitsOf(x) })), { output: "b" }, []],
    ["pixels of 0 to 255", fileOf((x) => ({ y: logitsOf(div(x, 255)) })), { mean: [0], std: [1 / 255] }, []],
  ])("%s", async (_, bytes, options, expected) => {
    await same(await load(bytes, options));
    expect(warnings).toHaveLength(expected.length);
    expected.forEach((pattern, i) => {
      expect(warnings[i]).toMatch(pattern);
    });
  });

  test("float16 images", async () => {
    const half = fileOf((x) => ({ y: cast(logitsOf(cast(x, { to: "float32" })), { to: "float16" }) }), {
      dtype: "float16",
    });
    await same(await load(half), 2e-3);
  });

  test("a batch that a Reshape fixes though it is declared open is found out", async () => {
    const baked = changed(
      fileOf((x) => ({ y: reshape(logitsOf(x), [2, 5]) })),
      ({ graph }) => {
        const node = graph?.node?.find(({ opType, output }) => opType === "Reshape" && output?.includes("y"));
        expect(node).toBeDefined();
      },
    );
    const loaded = await load(baked);
    expect(loaded.fixedBatch).toBe(2);
    expect(warnings).toEqual([expect.stringMatching(/works with 2 only, which a Reshape inside fixes/)]);
    await same(loaded);
  });

  test("an open batch written as -1 is open", async () => {
    const old = changed(plain, ({ graph }) => {
      const dim = graph?.input?.[0]?.type?.tensorType?.shape?.dim?.[0];
      if (dim) Object.assign(dim, { dimParam: undefined, dimValue: -1 });
    });
    await same(await load(old));
  });

  test("one logit, and one probability, are two classes", async () => {
    const one = (x: Value) => slice(logitsOf(x), [{ axis: 1, start: 0, end: 1 }]);
    const expected = (await right).filter((_, i) => i % 5 === 0).flatMap((z) => [0, z]);
    for (const y of [one, (x: Value) => sigmoid(one(x))]) {
      const loaded = await load(
        fileOf((x) => ({ y: y(x) })),
        {},
        2,
      );
      expect(loaded.classes).toBe(2);
      expect(warnings).toEqual([expect.stringMatching(/has one (logit|probability): it is that of class 1 of two/)]);
      expect(relativeError(await logits(loaded), expected)).toBeLessThan(1e-5);
    }
  });
});

test("an export that takes photographs: its own size, the same logits, and gradients through its rounding", async () => {
  const { image } = photograph(1, 8);
  const bytes = buildModel(lower({ logits: logitsOf(image) }, portable), [], {
    opset: 17,
    metadata: { preprocessing: JSON.stringify(preprocessingOf(true, 8)) },
    dynamic: { image: ["batch", "height", "width"], logits: ["batch"] },
  }).bytes;
  const loaded = await load(bytes);
  expect(loaded.image).toEqual([3, 8, 8]);
  expect(warnings).toContainEqual(expect.stringMatching(/photographs are given at 8×8, its network's size/));
  await same(loaded);
  const x = input("x", { dtype: "float32", shape: [6, 3, 8, 8] });
  const gradientOf = async (build: LoadedClassifier["build"]) => {
    const [gradient] = grad(reduceSum(slice(build(x), [{ axis: 1, start: 0, end: 1 }]), { keepdims: 0 }), [x]);
    const session = await portably({ g: gradient as Value });
    const { g } = await session.run({ x: tensor("float32", [6, 3, 8, 8], images) });
    await session.release();
    return (g as Tensor<"float32">).data;
  };
  expect(relativeError(await gradientOf(loaded.build), await gradientOf(logitsOf))).toBeLessThan(1e-5);
});

describe("a model of integers", () => {
  const seen = input("images", { dtype: "float32", shape: [6, 3, 8, 8] });
  /** The classifier with every value rounded to eight bits by the ranges that the six images give. */
  const quantizedFile = async (): Promise<Uint8Array> => {
    const float = { logits: logitsOf(seen) };
    const values = quantizedValues(float);
    const session = await portably(Object.fromEntries(values.map((value, i) => [`v${i}`, value])));
    const found = await session.run({ images: tensor("float32", [6, 3, 8, 8], images) });
    await session.release();
    const ranges = new Map(
      values.map((value, i) => {
        const data = found[`v${i}`]?.data as Float32Array;
        return [value, { low: Math.min(...data), high: Math.max(...data) }] as const;
      }),
    );
    return buildModel(lower(quantized(float, ranges), portable), [], {
      opset: 19,
      metadata: {},
      dynamic: { images: ["batch"], logits: ["batch"] },
    }).bytes;
  };

  test("is asked as it is, and its shadow in float32 says nearly the same", async () => {
    const bytes = await quantizedFile();
    const loaded = await load(bytes);
    const asIs = await loaded.asIs?.({ threads: 1 });
    if (asIs === undefined) throw new Error("no file to run");
    const given = (): Tensor<"float32"> => tensor("float32", [6, 3, 8, 8], images.slice());
    const said = (await asIs.logits(given())).flatMap((row) => [...row]);
    await asIs.release();
    const session = await createSession(bytes, { threads: 1 });
    const { logits: own } = await session.run({ images: given() });
    await session.release();
    expect(said).toEqual([...(own as Tensor<"float32">).data]);
    const shadow = await logits(loaded);
    expect(relativeError(shadow, said)).toBeLessThan(2e-2);
    // It is the model of integers that the shadow stands for, not the one before.
    expect(relativeError(shadow, said)).toBeLessThan(0.5 * relativeError(await right, said));
  });

  test("its answers and its attacks: what is without gradients meets the file itself", async () => {
    const loaded = await load(await quantizedFile());
    const asIs = await loaded.asIs?.({ threads: 1 });
    if (asIs === undefined) throw new Error("no file to run");
    let asked = 0;
    const counting = {
      ...asIs,
      logits: (x: Tensor<"float32">) => {
        asked += x.shape[0]!;
        return asIs.logits(x);
      },
    };
    const image = [3, 8, 8] as const;
    const shadow = openOracle({ classifier: loaded.build, image, batch: 4, load: portably });
    const oracle = asIsOracle(shadow, counting, { image, batch: 4 });
    const rows = Array.from({ length: 6 }, (_, i) => images.slice(i * 192, (i + 1) * 192));
    const plain = await oracle.answer(rows.map((x) => ({ kind: "logits", x })));
    expect(asked).toBe(6);
    const followed = await oracle.answer(rows.map((x) => ({ kind: "ce", x, label: 0, target: 0 })));
    expect(asked).toBe(12);
    expect(followed.map((answer) => answer.logits)).toEqual(plain.map((answer) => answer.logits));
    expect(followed.every(({ gradient }) => gradient.some((v) => v !== 0))).toBe(true);
    const clean = images.slice(0, 4 * 192);
    const run = await oracle.pgd({ norm: "linf", eps: 0.1, steps: 3, stepSize: 0.05 }, clean, clean, [0, 1, 2, 3]);
    expect(Math.max(...run.x.map((v, i) => Math.abs(v - clean[i]!)))).toBeCloseTo(0.1, 5);
    const again = await asIs.logits(tensor("float32", [4, 3, 8, 8], run.x.slice()));
    expect([...run.logits]).toEqual(again.flatMap((row) => [...row]));
    await oracle.release();
  });
});

describe("weights that exporters keep elsewhere", () => {
  /** Moves the data of all initializers into files beside the model. */
  const outside = (place: (name: string, data: Uint8Array) => Record<string, string>): Uint8Array =>
    changed(plain, ({ graph }) => {
      for (const held of graph?.initializer ?? []) {
        if (!held.rawData?.length) continue;
        const entries = place(held.name ?? "", held.rawData);
        held.externalData = Object.entries(entries).map(([key, value]) => ({ key, value }));
        Object.assign(held, { rawData: new Uint8Array(), dataLocation: 1 });
      }
    });

  test("one file with offsets beside the model is read", async () => {
    const parts: Uint8Array[] = [];
    let at = 0;
    const bytes = outside((_, data) => {
      const entries = { location: "model.onnx.data", offset: String(at), length: String(data.length) };
      parts.push(data);
      at += data.length;
      return entries;
    });
    writeFileSync(join(folder, "model.onnx.data"), Buffer.concat(parts));
    await same(await load(bytes));
    writeFileSync(join(folder, "model.onnx.data"), Buffer.concat(parts).subarray(0, at - 1));
    await expect(open(bytes)).rejects.toThrow(
      /has \d+ bytes but model\.onnx expects data up to byte \d+; copy or download/,
    );
  });

  test("a file for each tensor is read, in a folder too", async () => {
    mkdirSync(join(folder, "weights"), { recursive: true });
    let count = 0;
    const bytes = outside((_, data) => {
      const location = `weights/${count++}.bin`;
      writeFileSync(join(folder, location), data);
      return { location };
    });
    expect(count).toBeGreaterThanOrEqual(3);
    await same(await load(bytes));
  });

  test("files that are missing or lie outside the folder are refused by name", async () => {
    await expect(open(outside(() => ({ location: "gone.data" })))).rejects.toThrow(
      /keeps its weights in gone\.data, which is not beside it; .*external_data=False/,
    );
    await expect(open(outside(() => ({ location: "../secret" })))).rejects.toThrow(/outside its folder/);
    await expect(open(outside(() => ({ location: "/etc/hostname" })))).rejects.toThrow(/outside its folder/);
    symlinkSync("/etc/hostname", join(folder, "link.data"));
    await expect(open(outside(() => ({ location: "link.data" })))).rejects.toThrow(/a link that leads outside/);
  });

  test("bfloat16 is computed in float32", async () => {
    const bytes = changed(plain, ({ graph }) => {
      for (const held of graph?.initializer ?? []) {
        if (held.dataType !== 1) continue;
        const floats = new Uint32Array(Uint8Array.from(held.rawData ?? []).buffer);
        held.rawData = new Uint8Array(Uint16Array.from(floats, (bits) => bits >>> 16).buffer);
        held.dataType = 16;
      }
      for (const value of [...(graph?.input ?? []), ...(graph?.output ?? [])])
        if (value.type?.tensorType) value.type.tensorType.elemType = 16;
    });
    await same(await load(bytes), 2e-2);
    expect(warnings).toEqual([expect.stringMatching(/bfloat16/)]);
  });

  test("integers that are scaled back are folded", async () => {
    const bytes = changed(plain, ({ graph }) => {
      const kernel = graph?.initializer?.find(({ dims }) => dims?.length === 4);
      if (!graph || !kernel?.rawData) throw new Error("no kernel");
      const floats = new Float32Array(Uint8Array.from(kernel.rawData).buffer);
      const scales = Float32Array.from(
        { length: 6 },
        (_, k) => Math.max(...floats.subarray(k * 27, k * 27 + 27).map(Math.abs)) / 127,
      );
      const whole = Int8Array.from(floats, (v, i) => Math.round(v / scales[Math.floor(i / 27)]!));
      const name = kernel.name as string;
      Object.assign(kernel, { name: "whole", dataType: 3, rawData: new Uint8Array(whole.buffer) });
      graph.initializer?.push(
        onnx.TensorProto.create({ name: "scales", dims: [6], dataType: 1, rawData: new Uint8Array(scales.buffer) }),
      );
      graph.node?.unshift(
        onnx.NodeProto.create({
          opType: "DequantizeLinear",
          input: ["whole", "scales"],
          output: [name],
          attribute: [{ name: "axis", type: 2, i: 0 }],
        }),
      );
    });
    await same(await load(bytes), 2e-2);
    expect(warnings).toEqual([expect.stringMatching(/1 weights stored as integers are computed in float32/)]);
  });

  test("a function that the file brings is put in place of its call", async () => {
    const bytes = changed(plain, (model: Proto) => {
      const last = model.graph?.node?.find(({ output }) => output?.includes("logits"));
      if (!last?.output) throw new Error("nothing makes the logits");
      last.output = ["before"];
      model.graph?.node?.push(
        onnx.NodeProto.create({ opType: "Scale", domain: "my.lib", input: ["before"], output: ["logits"] }),
      );
      const k = { name: "value_float", type: 1, f: 3 };
      model.functions = [
        {
          name: "Scale",
          domain: "my.lib",
          input: ["a"],
          output: ["b"],
          opsetImport: [{ domain: "", version: 17 }],
          node: [
            { opType: "Constant", output: ["k"], attribute: [k] },
            { opType: "Mul", input: ["a", "k"], output: ["b"] },
          ],
        } as never,
      ];
    });
    const found = await logits(await load(bytes));
    expect(
      relativeError(
        found,
        (await right).map((z) => 3 * z),
      ),
    ).toBeLessThan(1e-5);
  });
});

describe("what is refused, with what to do about it", () => {
  const withWeight = (value: number): Uint8Array =>
    changed(plain, ({ graph }) => {
      const kernel = graph?.initializer?.find(({ dims }) => dims?.length === 4);
      const floats = new Float32Array(Uint8Array.from(kernel?.rawData ?? []).buffer);
      floats[5] = value;
      if (kernel) kernel.rawData = new Uint8Array(floats.buffer);
    });

  test.each<[string, Uint8Array, RegExp]>([
    ["NaN in a weight", withWeight(Number.NaN), /the weight \S+ holds NaN in .*; give an earlier checkpoint/],
    ["an infinite weight", withWeight(Number.POSITIVE_INFINITY), /the weight \S+ holds infinity/],
    [
      "gray images",
      fileOf((x) => ({ y: x }), { shape: [2, 1, 8, 8] }),
      /takes images of 1 channel .*x\.mean\(1, keepdim=True\)/,
    ],
    ["oblong images", fileOf((x) => ({ y: x }), { shape: [2, 3, 8, 16] }), /takes images of 8×16 and only square ones/],
    [
      "rows",
      fileOf((x) => ({ y: x }), { shape: [2, 192] }),
      /is float32\[batch,192\]; export the model for batches of images/,
    ],
    ["float64", fileOf((x) => ({ y: x }), { dtype: "float64" }), /float64.*; export the model for float32 images/],
    [
      "maps alone",
      fileOf((x) => ({ maps: mul(x, 2) })),
      /no output of .*: it gives maps float32\[.*3,8,8\]; give a classifier, or .*--output/,
    ],
    [
      "a size left open",
      fileOf((x) => ({ y: logitsOf(x) }), { dynamic: ["b", undefined, "h", "w"] as string[] }),
      /leaves the size of its images open; give --size, such as/,
    ],
    ["a web page", new TextEncoder().encode("<!DOCTYPE html><html></html>"), /is an HTML page, not an ONNX model/],
    ["a cut file", plain.subarray(0, plain.length - 30), /is no ONNX model, or is cut off or damaged; download/],
  ])("%s", async (_, bytes, message) => {
    await expect(open(bytes)).rejects.toThrow(message);
  });

  test("training mode", async () => {
    const training = changed(plain, ({ graph }) => {
      const gemm = graph?.node?.find(({ opType }) => opType === "Gemm");
      const [features] = gemm?.input ?? [];
      if (!graph || !gemm?.input || features === undefined) throw new Error("no Gemm");
      const one = new Uint8Array(new Float32Array(6).fill(1).buffer);
      for (const name of ["scale", "shift", "mean", "variance"])
        graph.initializer?.push(onnx.TensorProto.create({ name, dims: [6], dataType: 1, rawData: one }));
      graph.node?.push(
        onnx.NodeProto.create({
          opType: "BatchNormalization",
          name: "bn",
          input: [features, "scale", "shift", "mean", "variance"],
          output: ["normal", "m", "v"],
          attribute: [{ name: "training_mode", type: 2, i: 1 }],
        }),
      );
      gemm.input[0] = "normal";
    });
    await expect(open(training)).rejects.toThrow(/was exported in training mode \(bn\); call model\.eval\(\)/);
  });

  test("a name that no value has, and one that is no row", async () => {
    await expect(open(plain, { output: "nothing" })).rejects.toThrow(/no value of that name; its outputs are logits/);
    const two = fileOf((x) => ({ maps: mul(x, 2), y: logitsOf(x) }));
    await expect(open(two, { output: "maps" })).rejects.toThrow(/the output maps .* is no row of logits/);
    await expect(open(plain, { layout: "nhwc" })).rejects.toThrow(/8 channels/);
  });

  test("probabilities are still a classifier", async () => {
    expect((await load(fileOf((x) => ({ y: softmax(logitsOf(x), { axis: 1 }) })))).classes).toBe(5);
  });
});
