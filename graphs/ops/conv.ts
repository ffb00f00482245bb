/**
 * Convolution and its two adjoints, NCHW.
 *
 * y[n,o,p] = Σ_{i,k} x[n, i, s·p + d·k - pad] · w[o,i,k]. It is linear in x and in w, so the gradient to the input is the
 * transposed convolution of dy with w, and the gradient to the weights correlates x with dy: a convolution in which batch
 * and channels change places, dy is the kernel, and strides and dilations change places too.
 */
import { check } from "../onnx/error.ts";
import { absent, isAbsent, type Type, type Value } from "../onnx/graph.ts";
import { defineOp, type Op, sameDtype } from "./define.ts";
import { reshape, transpose } from "./movement.ts";
import { reduceSum } from "./reduce.ts";
import { pad, slice } from "./slice.ts";

export type ConvAttributes = {
  readonly kernel_shape?: readonly number[];
  /** [top, left, bottom, right] */
  readonly pads?: readonly number[];
  readonly strides?: readonly number[];
  readonly dilations?: readonly number[];
  readonly group?: number;
  readonly auto_pad?: string;
};
const convKinds = {
  kernel_shape: "ints",
  pads: "ints",
  strides: "ints",
  dilations: "ints",
  group: "int",
  auto_pad: "string",
} as const;

/** Attributes of a two-dimensional convolution with nothing left open. */
export interface Window {
  readonly pads: readonly [top: number, left: number, bottom: number, right: number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  readonly group: number;
}

/** Fills in the defaults of a convolution over images of `size` with a kernel of `kernel` pixels. */
export const windowOf = (attributes: ConvAttributes, size: readonly number[], kernel: readonly number[]): Window => {
  const { pads, strides = [1, 1], dilations = [1, 1], group = 1, auto_pad = "NOTSET" } = attributes;
  check(
    auto_pad === "NOTSET" || auto_pad === "VALID" || auto_pad.startsWith("SAME_"),
    "attribute",
    `auto_pad ${auto_pad}`,
  );
  let full = pads ?? [0, 0, 0, 0];
  if (auto_pad.startsWith("SAME_")) {
    const total = [0, 1].map((i) => {
      const [n, k, s, d] = [size[i]!, kernel[i]!, strides[i]!, dilations[i]!];
      return Math.max(0, (Math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n);
    });
    const less = total.map((t) => Math.floor(t / 2));
    const more = total.map((t, i) => t - less[i]!);
    full = auto_pad === "SAME_UPPER" ? [...less, ...more] : [...more, ...less];
  }
  return {
    pads: full as unknown as Window["pads"],
    strides: strides as unknown as Window["strides"],
    dilations: dilations as unknown as Window["dilations"],
    group,
  };
};

/** Size of a convolution's output along one axis. */
export const convSize = (
  n: number,
  k: number,
  stride: number,
  dilation: number,
  before: number,
  after: number,
): number => Math.floor((n + before + after - dilation * (k - 1) - 1) / stride) + 1;

const outputSize = (size: readonly number[], kernel: readonly number[], w: Window): number[] =>
  [0, 1].map((i) => convSize(size[i]!, kernel[i]!, w.strides[i]!, w.dilations[i]!, w.pads[i]!, w.pads[i + 2]!));

const CASES: readonly { x: number[]; w: number[]; attributes: ConvAttributes }[] = [
  { x: [2, 3, 5, 5], w: [4, 3, 3, 3], attributes: { pads: [1, 1, 1, 1] } },
  { x: [2, 3, 6, 6], w: [4, 3, 3, 3], attributes: { pads: [1, 1, 1, 1], strides: [2, 2] } },
  { x: [2, 3, 6, 5], w: [4, 3, 1, 1], attributes: { strides: [2, 2] } },
  { x: [2, 4, 5, 5], w: [6, 2, 3, 2], attributes: { group: 2, pads: [1, 0, 2, 1], dilations: [1, 2] } },
  { x: [2, 3, 5, 5], w: [3, 1, 3, 3], attributes: { group: 3, pads: [1, 1, 1, 1], strides: [2, 1] } },
];

/** 2-D convolution. x [N,Ci,H,W], w [Co,Ci/group,kh,kw], bias [Co] or left out; y [N,Co,H',W']. */
export const conv: Op<[x: Value, w: Value, bias: Value], ConvAttributes> &
  ((x: Value, w: Value, attributes?: ConvAttributes) => Value) = defineOp<
  [x: Value, w: Value, bias: Value],
  ConvAttributes
>("Conv", {
  attributes: convKinds,
  minInputs: 2,
  infer: ([x, w, bias], attributes): Type => {
    check(x.rank === 4 && w.rank === 4, "unsupported", "only two-dimensional convolutions are supported (rank 4)");
    const window = windowOf(attributes, x.shape.slice(2), w.shape.slice(2));
    check(
      w.dim(1) * window.group === x.dim(1),
      "shape",
      `x has ${x.dim(1)} channels but w expects ${w.dim(1) * window.group}`,
    );
    check(w.dim(0) % window.group === 0, "shape", `${w.dim(0)} filters do not split in ${window.group} groups`);
    if (!isAbsent(bias))
      check(bias.rank === 1 && bias.dim(0) === w.dim(0), "shape", `the bias must have ${w.dim(0)} elements`);
    const size = outputSize(x.shape.slice(2), w.shape.slice(2), window);
    check(
      size.every((d) => d > 0),
      "shape",
      "the kernel is larger than the padded image",
    );
    return { dtype: sameDtype([x, w]), shape: [x.dim(0), w.dim(0), ...size] };
  },
  vjp: ({ inputs: [x, w, bias], cotangent: dy, attributes }) => {
    const window = windowOf(attributes, x.shape.slice(2), w.shape.slice(2));
    return [
      convGradInput(dy, w, { ...window, size: x.shape.slice(2) }),
      convGradWeight(x, dy, { ...window, kernel: w.shape.slice(2) }),
      isAbsent(bias) ? null : reduceSum(dy, { axes: [0, 2, 3], keepdims: 0 }),
    ];
  },
  gradcheck: [
    ...CASES.map(({ x, w, attributes }) => ({ inputs: [{ shape: x }, { shape: w }], attributes, step: 1 })),
    { inputs: [{ shape: [2, 3, 4, 4] }, { shape: [2, 3, 3, 3] }, { shape: [2] }], step: 1 },
    {
      inputs: [{ shape: [1, 2, 5, 6] }, { shape: [2, 2, 3, 3] }],
      attributes: { auto_pad: "SAME_UPPER", strides: [2, 2] },
      step: 1,
    },
  ],
}) as never;

type WindowAttributes = {
  readonly pads: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly group: number;
};
/** `size` is the image's [H, W]: a stride leaves it open. */
export type GradInput = WindowAttributes & { readonly size: readonly number[] };
/** `kernel` is [kh, kw]: a stride leaves it open. */
export type GradWeight = WindowAttributes & { readonly kernel: readonly number[] };

/** Gradient of conv to its input. dy [N,Co,H',W'], w [Co,Ci/group,kh,kw]; dx [N,Ci,...size]. */
export const convGradInput: Op<[dy: Value, w: Value], GradInput> = defineOp<[dy: Value, w: Value], GradInput>(
  "convGradInput",
  {
    infer: ([dy, w], { group, size }) => {
      check(dy.dim(1) === w.dim(0), "shape", `dy has ${dy.dim(1)} channels but w makes ${w.dim(0)}`);
      return { dtype: sameDtype([dy, w]), shape: [dy.dim(0), w.dim(1) * group, ...size] };
    },
    // A transposed convolution; output_padding gives back the rows that a stride left unread.
    lower: ([dy, w], { pads, strides, dilations, group, size }) => {
      const output_padding = [0, 1].map((i) => {
        const reached =
          (dy.dim(2 + i) - 1) * strides[i]! + dilations[i]! * (w.dim(2 + i) - 1) + 1 - pads[i]! - pads[i + 2]!;
        return size[i]! - reached;
      });
      const negative = output_padding.map((p) => Math.min(p, 0));
      const full = convTranspose(dy, w, absent, {
        pads,
        strides,
        dilations,
        group,
        output_padding: output_padding.map((p) => Math.max(p, 0)),
      });
      return pad(full, { begin: {}, end: { 2: negative[0]!, 3: negative[1]! } });
    },
    vjp: ({ inputs: [dy, w], cotangent: d, attributes: { size: _, ...window } }) => [
      conv(d, w, window),
      convGradWeight(d, dy, { ...window, kernel: w.shape.slice(2) }),
    ],
    gradcheck: CASES.map(({ x, w, attributes }) => {
      const window = windowOf(attributes, x.slice(2), w.slice(2));
      const size = outputSize(x.slice(2), w.slice(2), window);
      return {
        inputs: [{ shape: [x[0]!, w[0]!, ...size] }, { shape: w }],
        attributes: { ...window, size: x.slice(2) },
        step: 1,
      };
    }),
  },
);

/** Gradient of conv to its weights. x [N,Ci,H,W], dy [N,Co,H',W']; dw [Co,Ci/group,...kernel]. */
export const convGradWeight: Op<[x: Value, dy: Value], GradWeight> = defineOp<[x: Value, dy: Value], GradWeight>(
  "convGradWeight",
  {
    infer: ([x, dy], { group, kernel }) => {
      check(x.dim(0) === dy.dim(0), "shape", `x has ${x.dim(0)} images but dy has ${dy.dim(0)}`);
      return { dtype: sameDtype([x, dy]), shape: [dy.dim(1), x.dim(1) / group, ...kernel] };
    },
    // Groups become batch entries of the swapped convolution's own groups: x [N,g·c,..] → [c,g·N,..], dy → [g·o,N,..].
    lower: ([x, dy], { pads, strides, dilations, group: g, kernel }) => {
      const [n, ci, co] = [x.dim(0), x.dim(1) / g, dy.dim(1) / g];
      const swap = (v: Value, c: number) =>
        transpose(reshape(v, [n, g, c, v.dim(2), v.dim(3)]), { perm: [2, 1, 0, 3, 4] });
      const images = reshape(swap(x, ci), [ci, g * n, x.dim(2), x.dim(3)]);
      const kernels = reshape(transpose(swap(dy, co), { perm: [1, 0, 2, 3, 4] }), [g * co, n, dy.dim(2), dy.dim(3)]);
      const full = conv(images, kernels, { pads, strides: dilations, dilations: strides, group: g });
      // Rows that a stride left unread add taps beyond the kernel.
      const taps = slice(full, [
        { axis: 2, start: 0, end: kernel[0]! },
        { axis: 3, start: 0, end: kernel[1]! },
      ]);
      return transpose(taps, { perm: [1, 0, 2, 3] });
    },
    vjp: ({ inputs: [x, dy], cotangent: d, attributes: { kernel: _, ...window } }) => [
      convGradInput(dy, d, { ...window, size: x.shape.slice(2) }),
      conv(x, d, window),
    ],
    gradcheck: CASES.map(({ x, w, attributes }) => {
      const window = windowOf(attributes, x.slice(2), w.slice(2));
      const size = outputSize(x.slice(2), w.slice(2), window);
      return {
        inputs: [{ shape: x }, { shape: [x[0]!, w[0]!, ...size] }],
        attributes: { ...window, kernel: w.slice(2) },
        step: 1,
      };
    }),
  },
);

type ConvTranspose = ConvAttributes & {
  readonly output_padding?: readonly number[];
  readonly output_shape?: readonly number[];
};
/** Transposed convolution, as ONNX defines it. x [N,Ci,H,W], w [Ci,Co/group,kh,kw]. */
export const convTranspose: Op<[x: Value, w: Value, bias: Value], ConvTranspose> = defineOp<
  [x: Value, w: Value, bias: Value],
  ConvTranspose
>("ConvTranspose", {
  attributes: { ...convKinds, output_padding: "ints", output_shape: "ints" },
  minInputs: 2,
  infer: ([x, w], attributes) => {
    check(attributes.output_shape === undefined, "unsupported", "output_shape is not supported; give pads");
    const { pads, strides, dilations, group } = windowOf(attributes, x.shape.slice(2), w.shape.slice(2));
    const { output_padding = [0, 0] } = attributes;
    check(x.dim(1) === w.dim(0), "shape", `x has ${x.dim(1)} channels but w expects ${w.dim(0)}`);
    const size = [0, 1].map(
      (i) =>
        (x.dim(2 + i) - 1) * strides[i]! +
        dilations[i]! * (w.dim(2 + i) - 1) +
        1 +
        output_padding[i]! -
        pads[i]! -
        pads[i + 2]!,
    );
    return { dtype: sameDtype([x, w]), shape: [x.dim(0), w.dim(1) * group, ...size] };
  },
  vjp: ({ inputs: [x, w, bias], cotangent: dy, attributes }) => {
    const window = windowOf(attributes, x.shape.slice(2), w.shape.slice(2));
    const back = conv(dy, w, window);
    // Rows added by output_padding may let the convolution read one more place than x has.
    const dx = slice(back, [
      { axis: 2, start: 0, end: x.dim(2) },
      { axis: 3, start: 0, end: x.dim(3) },
    ]);
    return [
      dx,
      convGradWeight(dy, x, { ...window, kernel: w.shape.slice(2) }),
      isAbsent(bias) ? null : reduceSum(dy, { axes: [0, 2, 3], keepdims: 0 }),
    ];
  },
  gradcheck: [
    { inputs: [{ shape: [2, 3, 4, 4] }, { shape: [3, 2, 3, 3] }], attributes: { pads: [1, 1, 1, 1] }, step: 1 },
    {
      inputs: [{ shape: [2, 3, 3, 3] }, { shape: [3, 2, 3, 3] }],
      attributes: { pads: [1, 1, 1, 1], strides: [2, 2], output_padding: [1, 1] },
      step: 1,
    },
  ],
});
