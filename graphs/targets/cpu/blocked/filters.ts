/** Orders of filters [Co,Ci,kh,kw] around the blocked layout's convolutions and their gradients. */
import { constant, type Value } from "../../../onnx/graph.ts";
import { tensor } from "../../../onnx/tensor.ts";
import { concat, gather, pad, slice, sum, transpose } from "../../../ops/index.ts";
import type { Layout } from "../../layout.ts";
import { shaped } from "../contrib.ts";

/** The filters of images that share blocks, [s·Co, s·Ci, kh, kw]: s copies along a diagonal, in a layout of such filters. */
export const sharedFilter = (layout: Layout, together: number): Layout =>
  together === 1
    ? layout
    : {
        name: `${together} of ${layout.name}`,
        pack: (w) => layout.pack(diagonal(w, together)),
        unpack: (parts, { dtype, shape: [co = 0, ci = 0, ...kernel] }) => {
          const all = layout.unpack(parts, { dtype, shape: [together * co, together * ci, ...kernel] });
          const copies = Array.from({ length: together }, (_, i) =>
            slice(all, [
              { axis: 0, start: i * co, end: (i + 1) * co },
              { axis: 1, start: i * ci, end: (i + 1) * ci },
            ]),
          );
          return sum(copies, {});
        },
      };

const diagonal = (w: Value, together: number): Value => {
  const ci = w.dim(1);
  const copies = Array.from({ length: together }, (_, i) =>
    pad(w, { begin: { 1: i * ci }, end: { 1: (together - 1 - i) * ci } }),
  );
  return concat(copies, { axis: 0 });
};

const oneWay = (): never => {
  throw new Error("internal: weights are never computed in this form");
};

/** [Co/b, Ci/b, kh, kw, b of Ci, b of Co]; of images with less channels than a block, which stay row-major, [Co/b, Ci, kh, kw, b]. */
export const blockedFilter = (block: number): Layout => ({
  name: `blocked${block}-filter`,
  pack: (w) => {
    const [co, ci, kh, kw] = w.shape as [number, number, number, number];
    const ordered =
      ci < block
        ? transpose(shaped(w, [co / block, block, ci, kh * kw]), { perm: [0, 2, 3, 1] })
        : transpose(shaped(w, [co / block, block, ci / block, block, kh * kw]), { perm: [0, 2, 4, 3, 1] });
    return [shaped(ordered, w.shape)];
  },
  unpack: oneWay,
});

/**
 * The same of the filters that take a gradient back, from Co to Ci channels (as many as fill blocks): the places of the kernel
 * at `rows` and `columns`, turned by 180°. Its type is [Ci, Co, rows, columns].
 */
export const turnedFilter = (block: number, rows: readonly number[], columns: readonly number[]): Layout => ({
  name: `blocked${block}-turned-filter(${rows.join()}×${columns.join()})`,
  pack: (w) => {
    const [co, given, kh, kw] = w.shape as [number, number, number, number];
    const ci = Math.ceil(given / block) * block;
    const places = [...rows].reverse().flatMap((row) => [...columns].reverse().map((column) => row * kw + column));
    const flat = shaped(ci === given ? w : pad(w, { begin: {}, end: { 1: ci - given } }), [co, ci, kh * kw]);
    const taken = gather(flat, constant(tensor("int32", [places.length], Int32Array.from(places))), { axis: 2 });
    const blocks = shaped(taken, [co / block, block, ci / block, block, places.length]);
    return [shaped(transpose(blocks, { perm: [2, 0, 4, 1, 3] }), [ci, co, rows.length, columns.length])];
  },
  unpack: oneWay,
});

/** [Co/b, b, Ci/b, b, kh, kw], as the gradient of filters is computed. */
export const wholeFilter: Layout = {
  name: "whole-filter",
  pack: oneWay,
  unpack: ([w], { shape }) => shaped(w as Value, shape),
};

/** The same for filters of less channels than a block, [Co/b, b, 1, b, kh, kw]: of the first ones. */
export const filledFilter = (block: number): Layout => ({
  name: `whole-filter-of-${block}`,
  pack: oneWay,
  unpack: ([w], { shape: [co = 0, ci = 0, ...kernel] }) =>
    slice(shaped(w as Value, [co, block, ...kernel]), [{ axis: 1, start: 0, end: ci }]),
});

/** [Co/b, k·Ci, b], as the gradient of a stem's filters is computed. */
export const stemFilter: Layout = {
  name: "stem-filter",
  pack: oneWay,
  unpack: ([w], { shape }) => {
    const [co = 0, ci = 0, kh = 0, kw = 0] = shape;
    const blocks = (w as Value).dim(0);
    const taps = shaped(w as Value, [blocks, kh * kw, ci, co / blocks]);
    return shaped(transpose(taps, { perm: [0, 3, 2, 1] }), shape);
  },
};
