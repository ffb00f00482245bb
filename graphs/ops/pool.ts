/** Pooling, NCHW. */
import { check } from "../onnx/error.ts";
import type { Attributes, Spelling, Type, Value } from "../onnx/graph.ts";
import { and, equal, or } from "./compare.ts";
import { type ConvAttributes, convSize, windowOf } from "./conv.ts";
import { defineOp, notDifferentiable, type Op } from "./define.ts";
import { add, cast, div, mul, not } from "./elementwise.ts";
import { expandAs, reshape } from "./movement.ts";
import { pad, slice } from "./slice.ts";

type Pool = Omit<ConvAttributes, "group"> & {
  readonly kernel_shape: readonly number[];
  readonly ceil_mode?: number;
  readonly count_include_pad?: number;
};
const poolKinds = {
  kernel_shape: "ints",
  pads: "ints",
  strides: "ints",
  dilations: "ints",
  auto_pad: "string",
  ceil_mode: "int",
  count_include_pad: "int",
} as const;

const inferPool = ([x]: readonly [x: Value, ...Value[]], attributes: Pool): Type => {
  check(x.rank === 4, "unsupported", "only two-dimensional pooling is supported (rank 4)");
  check(!attributes.ceil_mode, "unsupported", "ceil_mode 1 is not supported");
  const { kernel_shape: kernel } = attributes;
  const { pads, strides, dilations } = windowOf(attributes, x.shape.slice(2), kernel);
  const size = [0, 1].map((i) =>
    convSize(x.dim(2 + i), kernel[i]!, strides[i]!, dilations[i]!, pads[i]!, pads[i + 2]!),
  );
  check(
    size.every((d) => d > 0),
    "shape",
    "the window is larger than the padded image",
  );
  return { dtype: x.dtype, shape: [x.dim(0), x.dim(1), ...size] };
};

/** How far beyond the end of an axis the last window reaches where sizes are rounded up; that window begins inside the image. */
const overhang = (n: number, k: number, stride: number, dilation: number, before: number, after: number): number => {
  const reach = dilation * (k - 1) + 1;
  let windows = Math.ceil((n + before + after - reach) / stride) + 1;
  if ((windows - 1) * stride >= n + before) windows--;
  return Math.max(0, (windows - 1) * stride + reach - (n + before + after));
};

/**
 * Pools of files whose sizes are rounded up have as much more padding at the end. A mean that counts padding counts the
 * file's own, not what is added here: that is put around x.
 */
const readPool = (inputs: readonly Value[], { ceil_mode: ceil, ...given }: Attributes): Spelling => {
  const [x] = inputs;
  const attributes = given as unknown as Pool;
  if (!ceil || x?.rank !== 4 || (attributes.auto_pad ?? "NOTSET") !== "NOTSET") return { inputs, attributes: given };
  const { kernel_shape: kernel, count_include_pad: counted } = attributes;
  const { pads, strides, dilations } = windowOf(attributes, x.shape.slice(2), kernel);
  const more = [0, 1].map((i) =>
    overhang(x.dim(2 + i), kernel[i]!, strides[i]!, dilations[i]!, pads[i]!, pads[i + 2]!),
  );
  const [top, left, bottom, right] = pads;
  const { auto_pad: _, count_include_pad: __, ...plain } = given;
  if (!counted)
    return { inputs, attributes: { ...plain, pads: [top, left, bottom + (more[0] ?? 0), right + (more[1] ?? 0)] } };
  const padded = pad(x, { begin: { 2: top, 3: left }, end: { 2: bottom, 3: right } });
  return { inputs: [padded], attributes: { ...plain, pads: [0, 0, more[0] ?? 0, more[1] ?? 0] } };
};

const LOWEST = -3e38;

/** For each place of the window: the pixels of padded x that it sees, and how to put such a map back where they came from. */
const tapsOf = (x: Value, attributes: Pool, filler: number) => {
  const { kernel_shape: kernel } = attributes;
  const window = windowOf(attributes, x.shape.slice(2), kernel);
  const [top, left, bottom, right] = window.pads;
  const padded = pad(x, { begin: { 2: top, 3: left }, end: { 2: bottom, 3: right }, value: filler });
  const [height, width] = inferPool([x], attributes).shape.slice(2) as [number, number];
  const [sy, sx] = window.strides;
  return Array.from({ length: kernel[0]! * kernel[1]! }, (_, t) => {
    const dy = Math.floor(t / kernel[1]!) * window.dilations[0];
    const dx = (t % kernel[1]!) * window.dilations[1];
    const seen = () =>
      slice(padded, [
        { axis: 2, start: dy, end: dy + (height - 1) * sy + 1, step: sy },
        { axis: 3, start: dx, end: dx + (width - 1) * sx + 1, step: sx },
      ]);
    const back = (map: Value) => {
      const [n, c] = [x.dim(0), x.dim(1)];
      const spread = reshape(
        pad(reshape(map, [n, c, height, 1, width, 1]), { begin: {}, end: { 3: sy - 1, 5: sx - 1 } }),
        [n, c, height * sy, width * sx],
      );
      return pad(spread, {
        begin: { 2: dy - top, 3: dx - left },
        end: { 2: x.dim(2) - (dy - top) - height * sy, 3: x.dim(3) - (dx - left) - width * sx },
      });
    };
    return { seen, back };
  });
};

const POOLS: readonly Pool[] = [
  { kernel_shape: [2, 2], strides: [2, 2] },
  { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
  { kernel_shape: [3, 2], strides: [1, 1] },
];
const distinct = Array.from({ length: 2 * 36 }, (_, i) => ((i * 29) % 72) / 10);

export const maxPool: Op<[x: Value], Pool> = defineOp<[x: Value], Pool>("MaxPool", {
  attributes: { ...poolKinds },
  read: readPool,
  infer: inferPool,
  vjp: ({ inputs: [x], output: y, cotangent: dy, attributes }) => [maxPoolGrad(x, y, dy, attributes)],
  gradcheck: POOLS.map((attributes) => ({ inputs: [{ shape: [1, 2, 6, 6], values: distinct }], attributes })),
});
/** Gives each dy to the first largest pixel of its window, in row-major order, as PyTorch does. Inputs x, y = maxPool(x), dy. */
export const maxPoolGrad: Op<[x: Value, y: Value, dy: Value], Pool> = defineOp<[x: Value, y: Value, dy: Value], Pool>(
  "maxPoolGrad",
  {
    infer: ([x]) => ({ dtype: x.dtype, shape: x.shape }),
    lower: ([x, y, dy], attributes) => {
      let taken: Value | undefined;
      let dx: Value | undefined;
      for (const { seen, back } of tapsOf(x, attributes, LOWEST)) {
        const largest = equal(seen(), y);
        const hit = taken === undefined ? largest : and(largest, not(taken));
        taken = taken === undefined ? largest : or(taken, largest);
        const part = back(mul(dy, cast(hit, { to: dy.dtype })));
        dx = dx === undefined ? part : add(dx, part);
      }
      return dx as Value;
    },
    vjp: notDifferentiable("second derivatives of pooling are not built"),
  },
);

export const averagePool: Op<[x: Value], Pool> = defineOp<[x: Value], Pool>("AveragePool", {
  attributes: { ...poolKinds },
  read: readPool,
  infer: inferPool,
  vjp: ({ inputs: [x], cotangent: dy, attributes }) => [averagePoolGrad(x, dy, attributes)],
  gradcheck: [...POOLS, { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 }].map((attributes) => ({
    inputs: [{ shape: [1, 2, 6, 6] }],
    attributes,
    step: 1,
  })),
});
/** Adjoint of averagePool; x gives the shape only. */
export const averagePoolGrad: Op<[x: Value, dy: Value], Pool> = defineOp<[x: Value, dy: Value], Pool>(
  "averagePoolGrad",
  {
    infer: ([x]) => ({ dtype: x.dtype, shape: x.shape }),
    lower: ([x, dy], attributes) => {
      const area = attributes.kernel_shape.reduce((n, k) => n * k, 1);
      const share = attributes.count_include_pad
        ? div(dy, area)
        : div(dy, mul(averagePool(expandAs(onesLike(x), x.shape), { ...attributes, count_include_pad: 1 }), area));
      const parts = tapsOf(x, attributes, 0).map(({ back }) => back(share));
      return parts.reduce((a, b) => add(a, b));
    },
    vjp: notDifferentiable("second derivatives of pooling are not built"),
  },
);
const onesLike = (x: Value): Value => cast(equal(x, x), { to: x.dtype });

/** Mean over all pixels: [N,C,H,W] to [N,C,1,1]. */
export const globalAveragePool: Op<[x: Value]> = defineOp<[x: Value]>("GlobalAveragePool", {
  infer: ([x]) => ({ dtype: x.dtype, shape: x.shape.map((d, i) => (i < 2 ? d : 1)) }),
  vjp: ({ inputs: [x], cotangent: dy }) => [expandAs(div(dy, x.dim(2) * x.dim(3)), x.shape)],
  gradcheck: [{ inputs: [{ shape: [2, 3, 4, 5] }], step: 1 }],
});
