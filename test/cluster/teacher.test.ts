import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "@jest/globals";
import onnxProto from "onnx-proto";
import { openTeacher, type TeacherRequest } from "../../src/cluster/teacher.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { chooseEngine, type Engine } from "../../src/engine/engine.ts";
import { explained } from "../../src/engine/session.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { relativeError } from "../graphs/run.ts";

const file = (name: string): string => fileURLToPath(new URL(`../fixtures/teacher/${name}`, import.meta.url));
const teacher = file("net.onnx");

let engine: Engine;
let dataset: Dataset;
let expected: Awaited<ReturnType<typeof readSafetensors>>["tensors"];
beforeAll(async () => {
  engine = await chooseEngine({ provider: "cpu", threads: 1 });
  expected = (await readSafetensors(file("features.safetensors"))).tensors;
  dataset = {
    name: "folder",
    split: "train",
    count: 5,
    height: 48,
    width: 48,
    classes: [],
    images: expected.get("images")?.data as Uint8Array,
    index: Int32Array.from([0, 1, 2, 3, 4]),
    officialCount: 5,
  };
});

const open = (request: Partial<TeacherRequest> = {}) =>
  openTeacher({ teacher, batch: 2, ...request }, engine, () => {});

describe("an ONNX model of PyTorch's", () => {
  test.each<[string, number, Partial<TeacherRequest>]>([
    ["imagenet", 16, {}],
    ["plain", 16, { mean: [0], std: [1] }],
    ["logits", 7, { mean: [0.5], std: [0.5, 0.5, 0.5], output: "logits" }],
    ["maps", 16, { mean: [0], output: "/body/body.3/Relu_output_0" }],
  ])("gives %s", async (name, width, request) => {
    const opened = await open(request);
    expect(opened.size).toBe(48);
    let seen = 0;
    const { data, dim } = await opened.features(dataset, (images) => {
      seen += images;
    });
    await opened.release();
    expect([dim, seen]).toEqual([width, 5]);
    expect(relativeError(data, expected.get(name)?.data as Float32Array)).toBeLessThan(1e-5);
  });

  test("says what it guessed", async () => {
    const opened = await open();
    await opened.release();
    expect(opened.description).toContain("what its last linear layer reads");
    expect(opened.description).toContain("images nchw of 48×48; mean 0.485,0.456,0.406");
    expect(opened.description).toContain("guessed: ImageNet's");
  });

  test("refuses what does not fit, by name", async () => {
    await expect(open({ output: "nothing" })).rejects.toThrow(/has no value of that name; the last are .*logits/);
    await expect(open({ size: 32 })).rejects.toThrow("takes images of 48×48 only");
    await expect(open({ mean: [0, 1] })).rejects.toThrow("mean 0,1: give one number, or one for each");
  });

  test("that onnxruntime does not load is named, in one line", async () => {
    const folder = await mkdtemp(join(tmpdir(), "teacher-"));
    const model = onnxProto.onnx.ModelProto.decode(await readFile(teacher));
    for (const node of model.graph?.node ?? []) if (node.opType === "Relu") node.opType = "Mul";
    await writeFile(join(folder, "odd.onnx"), onnxProto.onnx.ModelProto.encode(model).finish());
    const loading = open({ teacher: join(folder, "odd.onnx") }).finally(() => rm(folder, { recursive: true }));
    await expect(loading).rejects.toThrow(
      /^the runtime can't load .*odd\.onnx \(Mul( at [^)]+)?\); check it with onnx\.checker/,
    );
    expect(explained(new Error("two\n  lines\n"), undefined).message).toBe("onnxruntime: two lines");
  });

  test.each([1, 3])("whose Reshape fixes a batch of %d, though it is declared open, gets that", async (size) => {
    const folder = await mkdtemp(join(tmpdir(), "teacher-"));
    const model = onnxProto.onnx.ModelProto.decode(await readFile(teacher));
    const { graph } = model;
    const linear = graph?.node?.find(({ output }) => output?.includes("logits"));
    const [features] = linear?.input ?? [];
    if (!graph?.node || !linear?.input || features === undefined) throw new Error("no linear layer");
    const dims = new Uint8Array(BigInt64Array.of(BigInt(size), 16n).buffer);
    graph.initializer?.push(onnxProto.onnx.TensorProto.create({ name: "rows", dims: [2], dataType: 7, rawData: dims }));
    graph.node.splice(
      graph.node.indexOf(linear),
      0,
      onnxProto.onnx.NodeProto.create({ opType: "Reshape", name: "fix", input: [features, "rows"], output: ["fixed"] }),
    );
    linear.input[0] = "fixed";
    const path = join(folder, "baked.onnx");
    await writeFile(path, onnxProto.onnx.ModelProto.encode(model).finish());
    const warnings: string[] = [];
    const opened = await openTeacher({ teacher: path, batch: 4 }, engine, (message) => warnings.push(message));
    const { data } = await opened.features(dataset, () => {});
    await opened.release();
    await rm(folder, { recursive: true });
    expect(warnings).toEqual([expect.stringMatching(size === 1 ? /takes one image at a time/ : /takes 3 images at a/)]);
    expect(relativeError(data, expected.get("imagenet")?.data as Float32Array)).toBeLessThan(1e-5);
  });

  test("that is missing is named", async () => {
    await expect(open({ teacher: file("missing.onnx") })).rejects.toThrow("missing.onnx");
  });
});
