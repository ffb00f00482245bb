/** Names that a file gives are names, though objects of JavaScript have them. The prototypes are frozen: a write to one throws. */
import { expect, test } from "@jest/globals";
import { readModel } from "../../../graphs/import/read.ts";
import { trainableInitializers } from "../../../graphs/import/trainable.ts";
import type { FileModel, FileNode } from "../../../graphs/onnx/parse.ts";
import { float32 } from "../../../graphs/onnx/tensor.ts";

for (const { prototype } of [Object, Array, Function, Map, Set, String]) Object.freeze(prototype);

const hostile = ["__proto__", "constructor", "hasOwnProperty", "toString", "valueOf"];
const node = (op: string, inputs: string[], outputs: string[], attributes = new Map()): FileNode => ({
  ...{ name: outputs[0]!, op, domain: "", inputs, outputs, attributes, captures: [] },
});
const model = (given: Partial<FileModel>): FileModel => ({
  ...{ opset: 17, metadata: {}, nodes: [], initializers: new Map(), inputs: [], outputs: [], ...given },
});

test.each(hostile)("inputs, weights and outputs may be called %s", (name) => {
  const weight = float32([2], [1, 2]);
  const file = model({
    initializers: new Map([[name, weight]]),
    inputs: [{ name: "x", dtype: "float32", dims: [2] }],
    nodes: [node("Mul", ["x", name], ["y"])],
    outputs: ["y"],
  });
  const { weights, parameters } = readModel(file);
  expect(Object.entries(weights)).toEqual([[name, weight]]);
  expect(Object.keys(parameters)).toEqual([name]);
  const other = model({
    initializers: new Map([["w", weight]]),
    inputs: [{ name, dtype: "float32", dims: [2] }],
    nodes: [node("Mul", [name, "w"], ["y"])],
    outputs: ["y"],
  });
  expect(Object.keys(readModel(other).inputs)).toEqual([name]);
  const named = model({
    ...other,
    nodes: [node("Mul", [name, "w"], [`${name}2`, ""].slice(0, 1))],
    outputs: [`${name}2`],
  });
  expect(Object.keys(readModel(named).outputs)).toEqual([`${name}2`]);
});

test.each(hostile)("an op, an attribute and a mode called %s are not supported, in a sentence", (name) => {
  const inputs = [{ name: "x", dtype: "float32" as const, dims: [1, 1, 2, 2] }];
  const weight = new Map([["w", float32([4], [1, 2, 3, 4])]]);
  const op = model({ inputs, initializers: weight, nodes: [node(name, ["x", "w"], ["y"])], outputs: ["y"] });
  expect(() => readModel(op)).toThrow("the operator is not supported");
  expect([...trainableInitializers(op)]).toEqual([]);
  const attributes = new Map([[name, { kind: "int" as const, value: 1 }]]);
  const odd = model({ inputs, nodes: [node("Relu", ["x"], ["y"], attributes)], outputs: ["y"] });
  expect(() => readModel(odd)).toThrow(`the attribute ${name} is not supported`);
  const modes = new Map([
    ["mode", { kind: "string" as const, value: "nearest" }],
    ["nearest_mode", { kind: "string" as const, value: name }],
  ]);
  const scales = new Map([["s", float32([4], [1, 1, 2, 2])]]);
  const resize = model({
    ...{ inputs, initializers: scales, outputs: ["y"] },
    nodes: [node("Resize", ["x", "", "s"], ["y"], modes)],
  });
  expect(() => readModel(resize)).toThrow(`nearest_mode ${name} is not supported`);
});
