/**
 * Convolutions and their gradients whose operands are rounded to bfloat16 and whose sums are float32, over chunks in the
 * pixel-major layout (pixel.ts): one op for all chunks of a value. The driver computes them with oneDNN
 * (src/engine/native/onednn); what they mean stands in their lowerings.
 */
import type { Attributes, Node, Type, Value } from "../../../onnx/graph.ts";
import {
  add,
  cast,
  conv,
  convGradInput,
  convGradWeight,
  defineOp,
  greater,
  maxPool,
  maxPoolGrad,
  mul,
  notDifferentiable,
  type Op,
  reduceSum,
  relu,
  reshape,
  sub,
  transpose,
} from "../../../ops/index.ts";
import { pixelChunks } from "../pixel.ts";

/** A convolution without groups of all chunks; pairs are [height, width]. */
export interface Convolution {
  /** Images of each chunk of the input, and of the output; the sums are equal. */
  readonly inputChunks: readonly number[];
  readonly outputChunks: readonly number[];
  /** [Ci, Co] */
  readonly channels: readonly number[];
  readonly input: readonly number[];
  readonly output: readonly number[];
  readonly kernel: readonly number[];
  /** [top, left]; those below and to the right follow from the sizes. */
  readonly pads: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /**
   * [s, s'] where the input is one tensor of row-major images [N, Ci/(s·s'), s·H, s'·W] in float32, whose pixels in blocks of s by s' are its
   * channels (place in the block, channel of the image); empty where it is in chunks.
   */
  readonly depth: readonly number[];
  /** What is made, but for a gradient to the weights or to images, is rounded to bfloat16 and told as its bits: narrow.ts says where. */
  readonly narrow: number;
}

/** Whether the input is images, not chunks. */
export const ofImages = ({ depth }: Convolution): boolean => depth.length > 0;

const attributes = {
  inputChunks: "ints",
  outputChunks: "ints",
  channels: "ints",
  input: "ints",
  output: "ints",
  kernel: "ints",
  pads: "ints",
  strides: "ints",
  dilations: "ints",
  depth: "ints",
  narrow: "int",
} as const;

/** Significant bits that bfloat16 drops of float32's. */
const DROPPED = 16;

/** x rounded to bfloat16's eight significant bits, in float32 (Veltkamp's splitting; up to 2^111). */
export const rounded = (x: Value): Value => {
  const far = mul(x, 2 ** DROPPED + 1);
  return sub(far, sub(far, x));
};

const windowOf = ({ input, output, kernel, pads, strides, dilations }: Convolution) => {
  const after = [0, 1].map((i) => {
    const seen = (output[i]! - 1) * strides[i]! + (kernel[i]! - 1) * dilations[i]! + 1;
    return Math.max(0, seen - input[i]! - pads[i]!);
  });
  return { pads: [...pads, ...after], strides, dilations, group: 1 };
};

/** Of values that are bits of bfloat16, which this project has no type for. */
export const NARROW = "uint16";

/** The type of what is made, narrow or not. */
export const madeOf = (narrow: number): Type["dtype"] => (narrow === 1 ? NARROW : "float32");

/** What an op means is told of float32 alone; tests put `rounded` where a value is narrow. */
const inFloat32 = (values: readonly Value[], narrow = 0): void => {
  if (narrow === 1 || values.some(({ dtype }) => dtype === NARROW))
    throw new Error("internal: values are narrowed in a lowered graph");
};

/** All images [N,C,s·H,s'·W] whose pixels are channels of the input. */
export const imageShape = ({
  inputChunks: [n = 0],
  channels: [ci = 0],
  input: [h = 0, w = 0],
  depth: [s = 1, t = 1],
}: Convolution): readonly number[] => [n, ci / (s * t), s * h, t * w];

const imageSide = (c: Convolution) => {
  const shape = imageShape(c);
  const [n = 0, channels = 0] = shape;
  const [[h = 0, w = 0], [s = 1, t = 1]] = [c.input, c.depth];
  return {
    types: [{ dtype: "float32", shape }] satisfies Type[],
    pack: (x: Value) => {
      const apart = reshape(x, [n, s, t, channels, h, w]);
      return [reshape(transpose(apart, { perm: [0, 3, 4, 1, 5, 2] }), shape)];
    },
    unpack: ([images]: readonly Value[]) => {
      const apart = reshape(images!, [n, channels, h, s, w, t]);
      return reshape(transpose(apart, { perm: [0, 3, 5, 1, 2, 4] }), [n, c.channels[0]!, h, w]);
    },
  };
};

/** The convolution's input or its output, as the layout has it. */
const sideOf = (c: Convolution, side: "input" | "output") => {
  if (side === "input" && ofImages(c)) return imageSide(c);
  const chunks = side === "input" ? c.inputChunks : c.outputChunks;
  const channels = c.channels[side === "input" ? 0 : 1]!;
  const [h = 0, w = 0] = c[side];
  const images = chunks.reduce((a, b) => a + b, 0);
  const layout = pixelChunks(chunks);
  return {
    types: chunks.map((count): Type => ({ dtype: madeOf(c.narrow), shape: [h * w, count * channels] })),
    pack: (x: Value) => layout.pack(x),
    unpack: (parts: readonly Value[]) => layout.unpack(parts, { dtype: "float32", shape: [images, channels, h, w] }),
  };
};

/** x and dy, rounded, of the parts of x and then those of dy. */
const bothOf = (parts: readonly Value[], c: Convolution): readonly [x: Value, dy: Value] => [
  rounded(sideOf(c, "input").unpack(parts.slice(0, c.inputChunks.length))),
  rounded(sideOf(c, "output").unpack(parts.slice(c.inputChunks.length))),
];

const runsOnly = notDifferentiable("runs only, never differentiated");

/** Parts of y [N,Co,H',W'] from the filter w [Co,Ci,kh,kw] and the parts of x [N,Ci,H,W]. */
export const bfloat16Conv: Op<readonly Value[], Convolution> = defineOp<readonly Value[], Convolution>("bfloat16Conv", {
  attributes,
  infer: (_, c) => sideOf(c, "output").types,
  lower: ([w, ...x], c) => {
    inFloat32(x, c.narrow);
    const y = conv(rounded(sideOf(c, "input").unpack(x)), rounded(w as Value), windowOf(c));
    return sideOf(c, "output").pack(y);
  },
  vjp: runsOnly,
});

/** Parts of dx [N,Ci,H,W] from the filter w [Co,Ci,kh,kw] and the parts of dy [N,Co,H',W']. */
export const bfloat16GradInput: Op<readonly Value[], Convolution> = defineOp<readonly Value[], Convolution>(
  "bfloat16GradInput",
  {
    attributes,
    infer: (_, c) => sideOf(c, "input").types,
    lower: ([w, ...dy], c) => {
      inFloat32(dy, c.narrow);
      const back = rounded(sideOf(c, "output").unpack(dy));
      return sideOf(c, "input").pack(convGradInput(back, rounded(w as Value), { ...windowOf(c), size: c.input }));
    },
    vjp: runsOnly,
  },
);

/** dw [Co,Ci,kh,kw] from the parts of x [N,Ci,H,W] and then those of dy [N,Co,H',W']. */
export const bfloat16GradWeight: Op<readonly Value[], Convolution> = defineOp<readonly Value[], Convolution>(
  "bfloat16GradWeight",
  {
    attributes,
    infer: (_, { channels: [ci = 0, co = 0], kernel }) => ({ dtype: "float32", shape: [co, ci, ...kernel] }),
    lower: (parts, c) => {
      inFloat32(parts);
      const [x, dy] = bothOf(parts, c);
      return convGradWeight(x, dy, { ...windowOf(c), kernel: c.kernel });
    },
    vjp: runsOnly,
  },
);

/** What follows a product with a row; flags are 0 or 1. */
export type Mapped = {
  /** A row is added. */
  readonly term: number;
  /** A tensor as large as x is added. */
  readonly plus: number;
  readonly activation: string;
  /** Times a tensor as large as x. */
  readonly times: number;
  /** Times a row. */
  readonly gain: number;
  /** The result is rounded to bfloat16, and told as its bits. */
  readonly narrow: number;
};

/**
 * gain · times · a(factor·x + term + plus) for x [P,R] and rows factor, term, gain [1,R], in one pass; the operands that `does` names, in
 * the order of `Mapped`. a is "none", "relu", or "positive": 1 where its operand is positive, else 0.
 */
export const rowMap: Op<readonly Value[], Mapped> = defineOp<readonly Value[], Mapped>("rowMap", {
  attributes: { term: "int", plus: "int", activation: "string", times: "int", gain: "int", narrow: "int" },
  infer: ([x], { narrow }) => ({ dtype: madeOf(narrow), shape: (x as Value).shape }),
  lower: ([x, factor, ...more], does) => {
    inFloat32([x as Value, ...more], does.narrow);
    let y = mul(x as Value, factor as Value);
    for (let i = 0; i < does.term + does.plus; i++) y = add(y, more.shift() as Value);
    if (does.activation === "relu") y = relu(y);
    if (does.activation === "positive") y = cast(greater(y, 0), { to: "float32" });
    for (let i = 0; i < does.times + does.gain; i++) y = mul(y, more.shift() as Value);
    return y;
  },
  vjp: runsOnly,
});

/**
 * Sums over the rows of x [P,R] and of its products with y [P,R], two rows [1,R], in one pass; left out, y is x. Both have one type.
 */
export const rowSums: Op<readonly Value[]> = defineOp<readonly Value[]>("rowSums", {
  infer: ([x]) => {
    const row: Type = { dtype: "float32", shape: [1, (x as Value).dim(1)] };
    return [row, row];
  },
  lower: ([x, y = x]) => {
    inFloat32([x as Value, y as Value]);
    return [x as Value, mul(x as Value, y as Value)].map((v) => reduceSum(v, { axes: [0], keepdims: 1 }));
  },
  vjp: runsOnly,
});

const poolOf = (c: Convolution) => {
  const { group: _, ...window } = windowOf(c);
  return { kernel_shape: c.kernel, ...window };
};

/** Parts of y, the largest pixels of windows over the parts of x in bfloat16; channels and chunks as a convolution has them. */
export const bfloat16MaxPool: Op<readonly Value[], Convolution> = defineOp<readonly Value[], Convolution>(
  "bfloat16MaxPool",
  {
    attributes,
    infer: (_, c) => sideOf(c, "output").types,
    lower: (x, c) => {
      inFloat32(x, c.narrow);
      return sideOf(c, "output").pack(maxPool(rounded(sideOf(c, "input").unpack(x)), poolOf(c)));
    },
    vjp: runsOnly,
  },
);

/** Parts of dx from the parts of x and then those of dy, each of which goes to the first largest pixel of its window. */
export const bfloat16MaxPoolGrad: Op<readonly Value[], Convolution> = defineOp<readonly Value[], Convolution>(
  "bfloat16MaxPoolGrad",
  {
    attributes,
    infer: (_, c) => sideOf(c, "input").types,
    lower: (parts, c) => {
      inFloat32(parts, c.narrow);
      const [x, dy] = bothOf(parts, c);
      return sideOf(c, "input").pack(maxPoolGrad(x, maxPool(x, poolOf(c)), dy, poolOf(c)));
    },
    vjp: runsOnly,
  },
);

/** What a node of these pools, and whether it is the gradient; undefined for any other node. */
export const pooledOf = ({
  definition,
  attributes: own,
}: Node): { readonly gradient: boolean; readonly convolution: Convolution } | undefined => {
  const gradient = definition === bfloat16MaxPoolGrad.definition;
  if (!gradient && definition !== bfloat16MaxPool.definition) return undefined;
  return { gradient, convolution: own as Attributes as unknown as Convolution };
};

const kinds = new Map<object, ConvolutionKind>([
  [bfloat16Conv.definition, "forward"],
  [bfloat16GradInput.definition, "input"],
  [bfloat16GradWeight.definition, "weight"],
]);
export type ConvolutionKind = "forward" | "input" | "weight";

/** What a node of these computes, and of what; undefined for any other node. */
export const convolutionOf = (
  node: Node,
): { readonly kind: ConvolutionKind; readonly convolution: Convolution } | undefined => {
  const kind = kinds.get(node.definition);
  return kind && { kind, convolution: node.attributes as Attributes as unknown as Convolution };
};

/** What a node of `rowMap` does; undefined for any other node. */
export const mappedOf = ({ definition, attributes: does }: Node): Mapped | undefined =>
  definition === rowMap.definition ? (does as Attributes as unknown as Mapped) : undefined;

/** Whether a node is one of `rowSums`. */
export const isRowSums = ({ definition }: Node): boolean => definition === rowSums.definition;
