/** What is computed with oneDNN: rounding to bfloat16 with a change of layout, and convolutions. Each is made once and run often. */
import type { Mapped } from "../../../../graphs/targets/cpu/bfloat16/ops.ts";
import { DIFF_DST, DIFF_SRC, DIFF_WEIGHTS, DST, SRC, WEIGHTS, WORKSPACE } from "./arguments.ts";
import type { Onednn } from "./library.ts";
import { longs, Maker, type Operand, type Pointer, type Run, type Strided, type Type } from "./maker.ts";

import { boundedStep, FAR, type MapTypes, rowMap, rowSums } from "./passes.ts";

export const BYTES = { bfloat16: 2, float32: 4 } as const;

/** `dnnl_query_…_md`, by argument. */
const queries: Readonly<Record<number, number>> = {
  [SRC]: 129,
  [DIFF_SRC]: 130,
  [WEIGHTS]: 131,
  [DIFF_WEIGHTS]: 132,
  [DST]: 133,
  [DIFF_DST]: 134,
  [WORKSPACE]: 135,
};

/** Images of C channels and H by W pixels. */
export type Images = readonly [count: number, channels: number, h: number, w: number];

/**
 * Images as rows of pixels that hold `all` images each, [H·W, all·C], of which these are some. To oneDNN they are one volume
 * of H by W by images with channels last, and a filter one of depth 1 along the images: the rows of its products are then as long
 * as there are images, however small those are, and results lie as this project has them.
 */
export const volume = ([count, c, h, w]: Images, type: Type, all = count): Strided => ({
  dims: [1, c, h, w, count],
  strides: [h * w * all * c, 1, w * all * c, all * c, c],
  type,
});

export type FilterShape = readonly [co: number, ci: number, kh: number, kw: number];

/** A filter [Co,Ci,kh,kw], row-major. */
const rowMajor = ([co, ci, kh, kw]: FilterShape): Strided => ({
  dims: [co, ci, kh, kw, 1],
  strides: [ci * kh * kw, kh * kw, kw, 1, 1],
  type: "float32",
});

export const bytesOf = ({ dims, type }: Strided): number => dims.reduce((a, b) => a * b, BYTES[type]);

export interface ConvolutionShape {
  readonly x: Images;
  readonly w: FilterShape;
  readonly y: Images;
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly pads: readonly number[];
}

/** A convolution over volumes of images; its filter lies as oneDNN likes it. */
export interface Prepared {
  readonly run: Run;
  /** From a row-major filter to that, or for a gradient to the weights back. */
  readonly filter: Run;
  /** Bytes of the filter between the two. */
  readonly filterBytes: number;
}

/** A gradient to the weights. */
export interface PreparedGradient extends Prepared {
  /** Back as `filter` brings it, added to what lies there. */
  readonly added: Run;
}

/** A window's sizes, and images as many before it as after. */
export interface PoolingShape extends Omit<ConvolutionShape, "w"> {
  readonly kernel: readonly number[];
}

/** Max pooling: of x to y and to what the gradient needs to know, and from that and dy to dx. */
export interface PreparedPooling {
  readonly run: Run;
  readonly gradient: Run;
  readonly knownBytes: number;
}

/** The bits of 1 in bfloat16. */
const ONE = 0x3f80;

/** Makes primitives, equal ones once. */
export class Primitives {
  readonly #maker: Maker;
  readonly #made = new Map<string, unknown>();

  constructor(onednn: Onednn) {
    this.#maker = new Maker(onednn);
  }

  /** Copies a tensor from one type and layout to another. */
  reorder(from: Strided, to: Strided): Run {
    return this.#once(["reorder", from, to], () => reorder(this.#maker, from, to));
  }

  /** A convolution (x, w to y) or its gradient to the input (dy, w to dx): operands in bfloat16, sums in float32. */
  convolution(kind: "forward" | "input", shape: ConvolutionShape, result: Type): Prepared {
    return this.#once([kind, shape, result], () => convolution(this.#maker, kind, shape, result));
  }

  /** Its gradient to the weights (x, dy to dw): operands in bfloat16, sums and the result in float32. */
  weightGradient(shape: ConvolutionShape): PreparedGradient {
    return this.#once(["weight", shape], () => weightGradient(this.#maker, shape));
  }

  /** Max pooling of images in bfloat16 and its gradient. */
  pooling(shape: PoolingShape): PreparedPooling {
    return this.#once(["pooling", shape], () => pooling(this.#maker, shape));
  }

  /** A map of rows (graphs/targets/cpu/bfloat16/ops.ts, `rowMap`) over [rows, columns]: operands, then the result. */
  rowMap(does: Mapped, rows: number, columns: number, types: MapTypes): Run {
    return this.#once(["rows", does, rows, columns, types], () => {
      const run = rowMap(this.#maker, does, rows, columns, types);
      if (types.x === types.result) return run;
      const ones = this.#filled(rows * columns, types.result, 1);
      return (...addresses: readonly bigint[]) => run(...addresses, ones);
    });
  }

  /** The step of an attack (graphs/targets/cpu/bfloat16/pgd-step.ts) over so many pixels: gradient, x, least, most, then the result. */
  boundedStep(size: number, stepSize: number): Run {
    return this.#once(["pgd", size, stepSize], () => {
      const far = this.#once(["far"], () => this.#maker.constant(Float32Array.of(FAR)));
      return boundedStep(this.#maker, size, stepSize, far);
    });
  }

  /** `rowSums` over [rows, columns]: of x and y; then memory as large for what nobody reads, and both sums. */
  rowSums(rows: number, columns: number, type: Type): Run {
    return this.#once(["sums", rows, columns, type], () => {
      const [zeros, ones] = [this.#filled(columns, "float32", 0), this.#filled(columns, "float32", 1)];
      return rowSums(this.#maker, { rows, columns, type }, zeros, ones);
    });
  }

  #filled(count: number, type: Type, value: 0 | 1): bigint {
    return this.#once(["filled", count, type, value], () =>
      this.#maker.constant(
        type === "bfloat16" ? new Uint16Array(count).fill(value * ONE) : new Float32Array(count).fill(value),
      ),
    );
  }

  #once<T>(key: unknown, make: () => T): T {
    const text = JSON.stringify(key);
    const known = this.#made.get(text) as T | undefined;
    if (known !== undefined) return known;
    const made = make();
    this.#made.set(text, made);
    return made;
  }
}

const reorder = (maker: Maker, from: Strided, to: Strided): Run => {
  const [source, target] = [maker.tensor(from), maker.tensor(to)];
  return maker.copy(source, target);
};

/** A window's strides, dilations and pads in three dimensions, of which the third, the images, it leaves alone. */
const windowOf = ({ x, y, kernel, strides, dilations, pads }: PoolingShape): BigInt64Array[] => {
  const last = [0, 1].map((i) => {
    const seen = (y[2 + i]! - 1) * strides[i]! + (kernel[i]! - 1) * dilations[i]! + 1;
    return seen - x[2 + i]! - pads[i]!;
  });
  const reaches = dilations.map((d) => d - 1);
  return [
    [...strides, 1],
    [...reaches, 0],
    [...pads, 0],
    [...last, 0],
  ].map(longs);
};

/** What a convolution and its gradients are described by. */
const partsOf = (maker: Maker, shape: ConvolutionShape) => {
  const window = windowOf({ ...shape, kernel: shape.w.slice(2) });
  const plain = rowMajor(shape.w);
  const images = (side: "x" | "y", type: Type) => maker.tensor(volume(shape[side], type));
  const filter = (type: Type) => maker.any(plain.dims, type);
  const forward = (result: Type) =>
    maker.forward(images("x", "bfloat16"), filter("bfloat16"), images("y", result), window);
  /** The filter as a described primitive wants it, row-major, and its bytes in between. */
  const heldBy = (description: Pointer, argument: number) => {
    const held = maker.held(description, queries[argument]!);
    return { held, row: maker.tensor(plain), filterBytes: maker.bytes(held) };
  };
  return { window, images, filter, forward, heldBy };
};

const convolution = (maker: Maker, kind: "forward" | "input", shape: ConvolutionShape, result: Type): Prepared => {
  const { window, images, filter, forward, heldBy } = partsOf(maker, shape);
  const [given, made] = kind === "forward" ? (["x", "y"] as const) : (["y", "x"] as const);
  const [from, to] = [images(given, "bfloat16"), images(made, result)];
  const description =
    kind === "forward" ? forward(result) : maker.toInput(to, filter("bfloat16"), from, window, forward("float32"));
  const { held, row, filterBytes } = heldBy(description, WEIGHTS);
  const [source, target] = kind === "forward" ? [SRC, DST] : [DIFF_DST, DIFF_SRC];
  const operands: readonly Operand[] = [
    [source, from],
    [WEIGHTS, held],
    [target, to],
  ];
  return { run: maker.bound(description, operands), filter: maker.copy(row, held), filterBytes };
};

const weightGradient = (maker: Maker, shape: ConvolutionShape): PreparedGradient => {
  const { window, images, filter, forward, heldBy } = partsOf(maker, shape);
  const [x, dy] = [images("x", "bfloat16"), images("y", "bfloat16")];
  const description = maker.toWeights(x, filter("float32"), dy, window, forward("float32"));
  const { held, row, filterBytes } = heldBy(description, DIFF_WEIGHTS);
  const operands: readonly Operand[] = [
    [SRC, x],
    [DIFF_DST, dy],
    [DIFF_WEIGHTS, held],
  ];
  return {
    run: maker.bound(description, operands),
    filter: maker.copy(held, row),
    added: maker.addition(held, row),
    filterBytes,
  };
};

const pooling = (maker: Maker, shape: PoolingShape): PreparedPooling => {
  const [strides, ...rest] = windowOf(shape) as [BigInt64Array, ...BigInt64Array[]];
  const window = [strides, longs([...shape.kernel, 1]), ...rest];
  const [x, y] = [maker.tensor(volume(shape.x, "bfloat16")), maker.tensor(volume(shape.y, "bfloat16"))];
  const forward = maker.largest(x, y, window);
  const known: Operand = [WORKSPACE, maker.held(forward, queries[WORKSPACE]!)];
  const gradient: readonly Operand[] = [[DIFF_DST, y], known, [DIFF_SRC, x]];
  return {
    run: maker.bound(forward, [[SRC, x], [DST, y], known]),
    gradient: maker.bound(maker.largestGradient(x, y, window, forward), gradient),
    knownBytes: maker.bytes(known[1]),
  };
};
