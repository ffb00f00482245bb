/** Images posed as puzzles for self-supervised tasks: turned, shuffled, with patches masked. */
import { interleave } from "../nn/interleave.ts";
import { constant, type Value } from "../onnx/graph.ts";
import { tensor } from "../onnx/tensor.ts";
import { add, gather, reshape, slice, transpose } from "../ops/index.ts";

export const integers = (values: readonly number[], shape: readonly number[] = [values.length]): Value =>
  constant(tensor("int64", shape, BigInt64Array.from(values, BigInt)));

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

const flipped = (x: Value, axis: number): Value => gather(x, integers(range(x.dim(axis)).reverse()), { axis });

/** Each image turned by 0, 90, 180 and 270 degrees against the clock: [B,C,S,S] to [4B,C,S,S], turns of an image together. */
export const rotations = (x: Value): Value => {
  const across = transpose(x, { perm: [0, 1, 3, 2] });
  return interleave([x, flipped(across, 2), flipped(flipped(x, 2), 3), flipped(across, 3)]);
};

/** What n tiles a side leave over is cut off around the image: [B,C,S,S] to [B,C,S',S'] with S' a multiple of n. */
export const cropTo = (x: Value, n: number): Value => {
  const start = (x.dim(2) % n) >> 1;
  const end = start + x.dim(2) - (x.dim(2) % n);
  if (end - start === x.dim(2)) return x;
  return slice(
    x,
    [2, 3].map((axis) => ({ axis, start, end })),
  );
};

/** n × n tiles of each image, row by row: [B,C,S,S] to [n²B,C,S/n,S/n], those of an image together. */
export const tiles = (x: Value, n: number): Value => {
  const [b = 0, c = 0, s = 0] = x.shape;
  const [rows, side] = [reshape(x, [b, c, n, s / n, n, s / n]), s / n];
  return reshape(transpose(rows, { perm: [0, 2, 4, 1, 3, 5] }), [n * n * b, c, side, side]);
};

/** The images whose tiles these are. */
const assembled = (parts: Value, n: number): Value => {
  const [count = 0, c = 0, side = 0] = parts.shape;
  const rows = reshape(parts, [count / (n * n), n, n, c, side, side]);
  return reshape(transpose(rows, { perm: [0, 3, 1, 4, 2, 5] }), [count / (n * n), c, n * side, n * side]);
};

/** Tiles of each image in the order that its label names: place q gets tile orders[label][q]. Labels int32 [B]. */
export const reordered = (parts: Value, labels: Value, orders: readonly (readonly number[])[]): Value => {
  const [b, n] = [labels.dim(0), (orders[0] as readonly number[]).length];
  const chosen = gather(integers(orders.flat(), [orders.length, n]), labels);
  const first = integers(
    range(b).map((i) => n * i),
    [b, 1],
  );
  return gather(parts, reshape(add(chosen, first), [n * b]));
};

/** Each image with its n × n tiles in the order that its label names. */
export const jigsaw = (x: Value, n: number, labels: Value, orders: readonly (readonly number[])[]): Value =>
  assembled(reordered(tiles(x, n), labels, orders), n);

/** All 24 orders of four quarters, first to last as lists. */
export const quarterOrders: readonly (readonly number[])[] = range(4).flatMap((a) =>
  range(4)
    .filter((b) => b !== a)
    .flatMap((b) =>
      range(4)
        .filter((c) => c !== a && c !== b)
        .map((c) => [a, b, c, 6 - a - b - c]),
    ),
);

/** The field of nine elements: a + b·i over the integers modulo 3, i² = -1, as 3a + b. */
const nine = {
  add: (x: number, y: number) => 3 * ((((x / 3) | 0) + ((y / 3) | 0)) % 3) + (((x % 3) + (y % 3)) % 3),
  mul: (x: number, y: number) => {
    const [a, b, c, d] = [(x / 3) | 0, x % 3, (y / 3) | 0, y % 3];
    return 3 * ((a * c + 2 * b * d) % 3) + ((a * d + b * c) % 3);
  },
};

/**
 * 72 of the 9! orders of nine tiles, far from one another as Noroozi & Favaro (ECCV 2016) choose theirs: the maps
 * t → m·t + s of the field of nine elements, of which any two put at most one tile in the same place.
 */
export const ninthOrders: readonly (readonly number[])[] = range(8).flatMap((m) =>
  range(9).map((s) => range(9).map((t) => nine.add(nine.mul(m + 1, t), s))),
);

/** Patches a side, and how many of them are masked, in Selfie. */
export const selfieGrid = { side: 4, masked: 4 } as const;

const choices = (n: number, k: number, from = 0): number[][] =>
  k === 0
    ? [[]]
    : range(n - from).flatMap((i) => choices(n, k - 1, from + i + 1).map((others) => [from + i, ...others]));

/** Every choice of four masked patches of sixteen: their places, then those of the other twelve. */
export const maskings: readonly (readonly number[])[] = choices(selfieGrid.side ** 2, selfieGrid.masked).map(
  (masked) => [...masked, ...range(selfieGrid.side ** 2).filter((place) => !masked.includes(place))],
);
