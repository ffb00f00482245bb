/** How the tensors of blocked values are cut and joined. */
import type { Value } from "../../../onnx/graph.ts";
import { concat, pad, slice, split } from "../../../ops/index.ts";
import type { Lowered } from "../../layout.ts";
import type { Phases } from "../chunked.ts";
import { shaped } from "../contrib.ts";
import { blockedLayout } from "./layout.ts";
import { upTo } from "./weight-gradient.ts";

/** A value's blocked tensors cut as another value is. */
export const inChunks = (x: Lowered, block: number, chunks: readonly number[], anew = false): readonly Value[] => {
  const layout = blockedLayout(block, x.type);
  const parts = anew && x.layout.name === layout.name ? x.recomputed(layout) : x.in(layout);
  return recut(parts, chunks);
};

const cuts = new WeakMap<readonly Value[], Map<number, readonly Value[]>>();

/** Equal chunks, powers of two of them, as so many; once for all that ask. */
export const recut = (parts: readonly Value[], { length }: readonly number[]): readonly Value[] => {
  if (parts.length === length) return parts;
  const known = cuts.get(parts) ?? new Map<number, readonly Value[]>();
  cuts.set(parts, known);
  const cut = known.get(length) ?? (parts.length > length ? joinedInto(parts, length) : splitInto(parts, length));
  known.set(length, cut);
  return cut;
};

const joinedInto = (parts: readonly Value[], count: number): readonly Value[] => {
  const each = parts.length / count;
  return upTo(count).map((i) => concat(parts.slice(i * each, (i + 1) * each), { axis: 0 }));
};

/** Split, which copies with all threads, where Slice has one. */
const splitInto = (parts: readonly Value[], count: number): readonly Value[] => {
  const each = count / parts.length;
  return parts.flatMap((part) => split(part, { axis: 0, sizes: Array<number>(each).fill(part.dim(0) / each) }));
};

/**
 * dx [n,C,H,W] of the results of its phases; where there is none, it is zero. Rows first: onnxruntime copies what it takes for
 * little work by one thread, and single pixels, which take longest, are copied twice as many at a time then.
 */
export const joined = (phases: Phases, [n, c, h, w]: readonly number[], block: number): Value => {
  const [down, across] = [phases.length, phases[0]!.length];
  if (down * across === 1) return phases[0]![0]!;
  const [rows, columns] = [(n! * c! * h!) / block / down, w! / across];
  const sides = upTo(across).map((column) => {
    const parts = phases.map((phase) => phase[column] && shaped(phase[column], [rows, columns * block]));
    if (parts.every((part) => part === undefined)) return undefined;
    return shaped(side(parts, columns * block), [rows * down * columns, block]);
  });
  return shaped(side(sides, block), [n!, c!, h!, w!]);
};

/** Tensors [rows, width] side by side; zeros where there is none. */
const side = (parts: readonly (Value | undefined)[], width: number): Value => {
  const [first] = parts;
  // A kernel that reaches the first row and column alone: the rest is padding.
  if (first !== undefined && parts.slice(1).every((part) => part === undefined))
    return pad(first, { begin: {}, end: { 1: width * (parts.length - 1) } });
  const some = parts.find((part) => part !== undefined) as Value;
  return concat(
    parts.map((part) => part ?? pad(slice(some, [{ axis: 1, start: 0, end: 0 }]), { begin: {}, end: { 1: width } })),
    { axis: 1 },
  );
};
