/** Ops of files that place elements by index, as the gathers that have a gradient here. */
import { check } from "../onnx/error.ts";
import { constant, constantInts, constantOf, type Value } from "../onnx/graph.ts";
import { sizeOf, tensor } from "../onnx/tensor.ts";
import { add, cast, concat, equal, gather, less, mul, reshape, slice, where } from "../ops/index.ts";
import { folded } from "./fold.ts";
import type { Reading } from "./readings.ts";

const int64 = (shape: readonly number[], values: readonly number[]): Value =>
  constant(tensor("int64", shape, BigInt64Array.from(values, BigInt)));

/** Rows of the matrix that x is when its first `lead` axes are one. */
const asRows = (x: Value, lead: number): Value => reshape(x, [sizeOf(x.shape.slice(0, lead)), ...x.shape.slice(lead)]);

/**
 * Indices [m…,k] into the first k axes of a shape, as places [m…] along those axes taken as one. Negative ones count from the
 * end.
 */
const placesOf = (indices: Value, shape: readonly number[]): Value => {
  const k = indices.dim(-1);
  let places: Value | undefined;
  for (let axis = 0; axis < k; axis++) {
    const size = shape[axis]!;
    const one = folded(slice(indices, [{ axis: indices.rank - 1, start: axis, end: axis + 1 }]));
    const wide = folded(cast(one, { to: "int64" }));
    const counted = folded(where(folded(less(wide, int64([], [0]))), folded(add(wide, int64([], [size]))), wide));
    const step = sizeOf(shape.slice(axis + 1, k));
    const part = folded(mul(counted, int64([], [step])));
    places = places === undefined ? part : folded(add(places, part));
  }
  return folded(reshape(places as Value, indices.shape.slice(0, -1)));
};

const gatherNd: Reading = {
  attributes: { batch_dims: "int" },
  inputs: [2, 2],
  build: ([x, indices], { batch_dims: batch = 0 }) => {
    const [data, at] = [x as Value, indices as Value];
    const shared = batch as number;
    check(
      at.rank > shared && data.rank >= at.dim(-1) + shared,
      "shape",
      "the indices have more numbers than x has axes",
    );
    if (shared === 0) return gather(asRows(data, at.dim(-1)), placesOf(at, data.shape), { axis: 0 });
    const common = data.shape.slice(0, shared);
    check(
      common.every((size, axis) => size === at.dim(axis)),
      "shape",
      `the first ${shared} axes of x and of the indices differ`,
    );
    // Each place of the common axes is a row of its own, which the indices then begin with.
    const rows = sizeOf(common);
    const inner = at.shape.slice(shared, -1);
    const flat = folded(cast(folded(reshape(at, [rows, sizeOf(inner), at.dim(-1)])), { to: "int64" }));
    const row = int64(
      [rows, sizeOf(inner), 1],
      Array.from({ length: rows * sizeOf(inner) }, (_, i) => Math.floor(i / sizeOf(inner))),
    );
    const whole = folded(concat([row, flat], { axis: 2 }));
    const wide = asRows(data, shared);
    const picked = gather(asRows(wide, at.dim(-1) + 1), placesOf(whole, wide.shape), { axis: 0 });
    return reshape(picked, [...common, ...inner, ...data.shape.slice(shared + at.dim(-1))]);
  },
};

/** Elements of x beyond which it is not taken apart row by row. */
const MOST_ROWS = 2 ** 20;

/** Updates at constant places: each row of the result is a row of x or of the updates, whichever stands there last. */
const scatterNd: Reading = {
  attributes: { reduction: "string" },
  inputs: [3, 3],
  build: ([x, indices, updates], { reduction = "none" }) => {
    const [data, at] = [x as Value, indices as Value];
    check(reduction === "none", "unsupported", `reduction ${reduction} is not supported, only none`);
    const lead = at.dim(-1);
    const rows = sizeOf(data.shape.slice(0, lead));
    check(rows <= MOST_ROWS, "unsupported", `it changes single places of ${rows}, at most ${MOST_ROWS} are supported`);
    const places = placesOf(at, data.shape);
    check(
      constantOf(places) !== undefined,
      "unsupported",
      "it is supported only at constant places: others have no gradient",
    );
    const chosen = Array.from({ length: rows }, (_, row) => row);
    constantInts(reshapeFlat(places), "the indices").forEach((place, i) => {
      check(place >= 0 && place < rows, "attribute", `the index ${place} of ${rows}`);
      chosen[place] = rows + i;
    });
    const changes = reshape(updates as Value, [places.size, ...data.shape.slice(lead)]);
    const all = concat([asRows(data, lead), changes], { axis: 0 });
    return reshape(gather(all, int64([rows], chosen), { axis: 0 }), data.shape);
  },
};
const reshapeFlat = (v: Value): Value => folded(reshape(v, [v.size]));

const oneHot: Reading = {
  attributes: { axis: "int" },
  inputs: [3, 3],
  build: ([indices, depth, values], { axis = -1 }) => {
    const given = cast(indices as Value, { to: "int64" });
    const held = constantOf(depth as Value);
    check(held !== undefined, "unsupported", "the depth is not a constant");
    const size = Number(held.data[0]);
    const rank = given.rank + 1;
    const at = (axis as number) < 0 ? (axis as number) + rank : (axis as number);
    check(at >= 0 && at < rank && size > 0, "attribute", `axis ${axis} and depth ${size}`);
    const wide = reshape(given, [...given.shape.slice(0, at), 1, ...given.shape.slice(at)]);
    const counted = where(less(wide, int64([], [0])), add(wide, int64([], [size])), wide);
    const range = int64(
      Array.from({ length: rank }, (_, i) => (i === at ? size : 1)),
      Array.from({ length: size }, (_, i) => i),
    );
    const pick = (i: number) => reshape(slice(values as Value, [{ axis: 0, start: i, end: i + 1 }]), []);
    return where(equal(counted, range), pick(1), pick(0));
  },
};

export const placing: Readonly<Record<string, Reading>> = { GatherND: gatherNd, ScatterND: scatterNd, OneHot: oneHot };
