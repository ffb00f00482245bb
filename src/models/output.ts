/** Which output of a model are its logits, and how they become rows [B,classes]. */
import { type ReadModel, type ReadOptions, readEachOutput, readModel } from "../../graphs/import/read.ts";
import { isFloat } from "../../graphs/onnx/dtype.ts";
import { GraphError } from "../../graphs/onnx/error.ts";
import type { Value } from "../../graphs/onnx/graph.ts";
import type { FileModel, FileNode } from "../../graphs/onnx/parse.ts";
import { typeName } from "../../graphs/onnx/tensor.ts";
import { cast, concat, mul, reshape } from "../../graphs/ops/index.ts";
import { RequestError } from "../errors.ts";

/** An output that is a row of numbers an image. */
export interface RowOutput {
  readonly name: string;
  /** The value to read: the output, or for a single probability the logit that its Sigmoid takes. */
  readonly value: string;
  /** Numbers of a row. */
  readonly width: number;
}

/** A value of so many rows without its dimensions of size 1; undefined where more than one is left beside the batch. */
const rowsOf = (value: Value, batch: number): Value | undefined => {
  if (!isFloat(value.dtype) || value.rank < 1 || value.dim(0) !== batch) return undefined;
  const rest = value.shape.slice(1).filter((d) => d !== 1);
  if (rest.length > 1) return undefined;
  const rows = value.rank === 2 ? value : reshape(value, [batch, rest[0] ?? 1]);
  return rows.dtype === "float32" ? rows : cast(rows, { to: "float32" });
};

/** The logit behind a probability of two classes; other values as they are. */
const logitBehind = (makers: ReadonlyMap<string, FileNode>, name: string): string => {
  const maker = makers.get(name);
  return maker?.op === "Sigmoid" ? (maker.inputs[0] ?? name) : name;
};

export interface Outputs {
  readonly rows: readonly RowOutput[];
  /** What the others are, for people. */
  readonly others: readonly string[];
}

/**
 * Looks at some values of a file, by default its outputs. What only others need is not read, and may be anything.
 * @throws GraphError where none of them can be read
 */
export const lookAtOutputs = (file: FileModel, options: ReadOptions & { readonly batch: number }): Outputs => {
  const [rows, others, errors]: [RowOutput[], string[], unknown[]] = [[], [], []];
  const makers = new Map(file.nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  for (const [name, value] of readEachOutput(file, options)) {
    if (value instanceof GraphError) {
      errors.push(value);
      continue;
    }
    const found = rowsOf(value, options.batch);
    if (found === undefined) others.push(`${name} ${typeName(value)}`);
    else rows.push({ name, value: found.dim(1) === 1 ? logitBehind(makers, name) : name, width: found.dim(1) });
  }
  if (rows.length === 0 && errors.length > 0) throw errors[0];
  return { rows, others };
};

/** Names that exporters and people give to logits. */
const logitName = /logit|score|class|pred|prob/i;

/** The output to take: of the dataset's number of classes, then named as logits are, then the first. */
export const chooseOutput = (
  rows: readonly RowOutput[],
  classes: number | undefined,
): { readonly chosen: RowOutput; readonly why: string } => {
  const fitting = rows.filter(({ width }) => classesOf(width) === classes);
  const among = fitting.length > 0 ? fitting : rows;
  const named = among.find(({ name }) => logitName.test(name));
  const chosen = named ?? (among[0] as RowOutput);
  if (fitting.length > 0 && fitting.length < rows.length)
    return { chosen, why: `it has the dataset's ${classes} classes` };
  return { chosen, why: named === undefined ? "it is the first" : "by its name" };
};

/** Classes that so many numbers tell apart: one alone is the logit of the second of two. */
export const classesOf = (width: number): number => (width === 1 ? 2 : width);

/** A model read up to its logits, float32[B,classes]. */
export const readLogits = (
  file: FileModel,
  { value, name }: RowOutput,
  options: ReadOptions & { readonly batch: number },
): ReadModel & { readonly logits: Value } => {
  const model = readModel(file, { ...options, outputs: [value] });
  const rows = rowsOf(model.outputs[value]!, options.batch);
  if (rows === undefined)
    throw new RequestError(`the output ${name} is ${typeName(model.outputs[value]!)}, no row of logits an image`);
  const logits = rows.dim(1) === 1 ? concat([mul(rows, 0), rows], { axis: 1 }) : rows;
  return { ...model, logits };
};
