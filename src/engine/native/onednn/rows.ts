/** Passes over the rows of a chunk, maps of rows and sums, and over images. */
import type { Node } from "../../../../graphs/onnx/graph.ts";
import type { Mapped } from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import type { KernelRun } from "../custom-op.ts";
import { type Compute, heldAs, type Tools } from "./chunks.ts";
import type { Type as DataType } from "./maker.ts";
import { bytesOf } from "./primitives.ts";

/** Bytes of a strip of rows about: with what is read and written besides, a core's second cache (Zen 4). */
const STRIP = 2 ** 20;

/** Strips of rows, nearly equal, of so many bytes a row. */
export const stripsOf = (rows: number, bytes: number): readonly { readonly from: number; readonly count: number }[] => {
  const strip = Math.ceil(rows / Math.ceil((rows * bytes) / STRIP));
  return Array.from({ length: Math.ceil(rows / strip) }, (_, i) => ({
    from: i * strip,
    count: Math.min(strip, rows - i * strip),
  }));
};

/** Sums over rows: those of strips that the caches hold with what oneDNN writes besides, and their sums. */
export const rowSumsBy = ({ primitives, scratch }: Tools, { inputs: [x], outputs }: Node): Compute => {
  const [rows = 0, columns = 0] = x!.shape;
  const type = heldAs(x!.dtype);
  const row = bytesOf({ dims: [columns], strides: [1], type });
  const strips = stripsOf(rows, row).map(({ from, count }, i) => {
    const run = primitives.rowSums(count, columns, type);
    scratch.reserve("unread", count * row);
    return { run, skipped: BigInt(from * row), at: BigInt(4 * i * columns) };
  });
  const made = (output: KernelRun["output"]) => outputs.map(({ shape }, i) => output(i, shape)) as [bigint, bigint];
  const [whole] = strips as [(typeof strips)[number]];
  if (strips.length === 1)
    return ({ inputs: [first, second = first], output }) =>
      whole.run(first!, second!, scratch.at("unread"), ...made(output));
  const total = primitives.rowSums(strips.length, columns, "float32");
  for (const name of ["sums", "products", "unread"]) scratch.reserve(name, 4 * strips.length * columns);
  scratch.reserve("squares", 4 * columns);
  return ({ inputs: [first, second = first], output }) => {
    const [unread, squares] = [scratch.at("unread"), scratch.at("squares")];
    const parts = [scratch.at("sums"), scratch.at("products")] as const;
    for (const { run, skipped, at } of strips)
      run(first! + skipped, second! + skipped, unread, parts[0] + at, parts[1] + at);
    made(output).forEach((to, i) => {
      total(parts[i]!, parts[i]!, unread, to, squares);
    });
  };
};

/** A map of rows. */
export const rowMapBy = (
  { primitives }: Tools,
  does: Mapped,
  { inputs: [x, , ...more], outputs: [y] }: Node,
): Compute => {
  const { shape, dtype } = y!;
  const [rows = 0, columns = 0] = shape;
  const [plus, times] = [does.term, does.term + does.plus].map((i) => heldAs(more[i]?.dtype)) as [DataType, DataType];
  const types = { x: heldAs(x!.dtype), plus, times, result: heldAs(dtype) };
  const run = primitives.rowMap(does, rows, columns, types);
  return ({ inputs, output }) => run(...inputs, output(0, shape));
};

/** A step of an attack. */
export const boundedStepBy = ({ primitives }: Tools, stepSize: number, { outputs: [next] }: Node): Compute => {
  const { shape, size } = next!;
  const run = primitives.boundedStep(size, stepSize);
  return ({ inputs: [x, gradient, least, most], output }) => run(gradient!, x!, least!, most!, output(0, shape));
};
