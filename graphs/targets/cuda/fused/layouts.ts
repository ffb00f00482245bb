/**
 * What values lie in on the target cuda-fused: activations and gradients channels last, in float16 or float32, gradients lifted;
 * and three homes of values that are not computed yet, because the kernel that reads them computes them on the way.
 */
import type { Type, Value } from "../../../onnx/graph.ts";
import { add, cast, div, greater, mul, slice, transpose, where } from "../../../ops/index.ts";
import { type Layout, type Lowered, rowMajor } from "../../layout.ts";
import { batchNormApply } from "../kernels/batch-norm.ts";
import { dilatedTo } from "../kernels/dilate.ts";
import { gatherKernel } from "../kernels/gather.ts";

export type Precision = "float16" | "float32";

/** Gradients of a mean over a large batch are smaller than float16's digits; a power of two rounds nothing. */
const LIFT = 4096;

const channelsLast = (name: string, dtype: Precision, lift: number): Layout => ({
  name,
  pack: (x) => [transpose(cast(lift === 1 ? x : mul(x, lift), { to: dtype }), { perm: [0, 2, 3, 1] })],
  unpack: ([y]) => {
    const plain = cast(transpose(y as Value, { perm: [0, 3, 1, 2] }), { to: "float32" });
    return lift === 1 ? plain : div(plain, lift);
  },
});

/** Mean, variance, scale and bias of a batch norm, each [nb,C] float32. */
export type Four = readonly [mean: Value, variance: Value, scale: Value, bias: Value];

/** A batch norm, and what is added to it, that a kernel applies when its input is read. */
export class Normalised implements Layout {
  readonly name = "normalised when read";
  readonly x: Value;
  readonly four: Four;
  readonly added: readonly Value[];
  readonly norm: { readonly branches: number; readonly epsilon: number };
  readonly result: Layout;
  plainly: Value | undefined;
  constructor(x: Value, four: Four, norm: Normalised["norm"], result: Layout, added: readonly Value[] = []) {
    this.x = x;
    this.four = four;
    this.norm = norm;
    this.result = result;
    this.added = added;
  }
  apply(relu: 0 | 1): Value {
    const { branches, epsilon } = this.norm;
    return batchNormApply(...([this.x, ...this.four, ...this.added, { branches, epsilon, relu }] as never));
  }
  /** The value itself, computed once for all that ask so. */
  get tensor(): Value {
    this.plainly ??= this.apply(0);
    return this.plainly;
  }
  plus(added: readonly Value[]): Normalised {
    return new Normalised(this.x, this.four, this.norm, this.result, added);
  }
  pack(): never {
    throw new Error("internal: nothing is packed to be normalised later");
  }
  unpack(_: readonly Value[], type: Type): Value {
    return this.result.unpack([this.tensor], type);
  }
}

/** A gradient to images that lies at every stride-th row and column of them; zero between. */
export interface Term {
  readonly value: Value;
  readonly stride: number;
}

/** What a 1×1 convolution with stride gives its input: nothing at the pixels that it does not see. */
export class Sparse implements Layout {
  readonly name = "at some pixels";
  readonly term: Term;
  readonly result: Layout;
  readonly size: readonly [number, number];
  whole: Value | undefined;
  constructor(term: Term, size: readonly [number, number], result: Layout) {
    this.term = term;
    this.size = size;
    this.result = result;
  }
  get tensor(): Value {
    this.whole ??= dilatedTo(this.term.value, this.term.stride, ...this.size);
    return this.whole;
  }
  pack(): never {
    throw new Error("internal: nothing is packed to lie at some pixels");
  }
  unpack(_: readonly Value[], type: Type): Value {
    return this.result.unpack([this.tensor], type);
  }
}

/** A gradient that a kernel adds up, and masks by a ReLU's output, when it reads it. */
export class Gathered implements Layout {
  readonly name = "gathered when read";
  readonly terms: readonly Term[];
  /** The output of the ReLU whose input this is the gradient to. */
  readonly output: Value | undefined;
  /** What that ReLU was applied to, where it is a batch norm. */
  readonly origin: Normalised | undefined;
  readonly result: Layout;
  readonly type: Type;
  written: Value | undefined;
  constructor(terms: readonly Term[], type: Type, result: Layout, output?: Value, origin?: Normalised) {
    this.type = type;
    this.terms = terms;
    this.result = result;
    this.output = output;
    this.origin = origin;
  }
  /** The whole, where a kernel has written it on its way. */
  get known(): Value | undefined {
    return this.written;
  }
  isWrittenAs(value: Value): void {
    this.written = value;
  }
  get tensor(): Value {
    this.written ??= this.type.shape.length === 4 ? this.gathered() : this.composed();
    return this.written;
  }
  /** Of images, by the kernel that does it in one pass. */
  gathered(): Value {
    const [, , height = 1, width = 1] = this.type.shape;
    const strides = this.terms.map(({ stride }) => stride);
    const operands = [...this.terms.map(({ value }) => value), ...(this.output === undefined ? [] : [this.output])];
    const masked = this.output === undefined ? 0 : 1;
    return gatherKernel(...([...operands, { strides, masked, height, width }] as never));
  }
  /** Of rows of features, which are small. */
  composed(): Value {
    const sum = this.terms.map(({ value }) => value).reduce((a, b) => add(a, b));
    return this.output === undefined ? sum : where(greater(this.output, 0), sum, 0);
  }
  pack(): never {
    throw new Error("internal: nothing is packed to be gathered later");
  }
  unpack(_: readonly Value[], type: Type): Value {
    return this.result.unpack([this.tensor], type);
  }
}

const weights = (name: string, place: (w: Value) => Value, dtype: Precision): Layout => ({
  name: `${name} ${dtype}`,
  pack: (w) => [place(cast(w, { to: dtype }))],
  unpack: () => {
    throw new Error("internal: no weights are computed in this layout");
  },
});

const backwards = (axis: number) => ({ axis, start: -1, end: -(2 ** 31 - 1), step: -1 });

/** The layouts of one precision, and what a value is in them. */
export class Layouts {
  readonly precision: Precision;
  readonly lift: number;
  readonly activation: Layout;
  readonly gradient: Layout;
  readonly weights: Layout;
  /** [Co,Ci,kh,kw] as [Co,kh,kw,Ci]. */
  readonly weightsLast: Layout;
  /** As [Ci,Co,kh,kw] with the taps in reverse order, for the gradient to a convolution's input. */
  readonly turned: Layout;
  constructor(precision: Precision) {
    this.precision = precision;
    this.lift = precision === "float16" ? LIFT : 1;
    this.activation = channelsLast(`channels last ${precision}`, precision, 1);
    this.gradient = channelsLast(`gradient channels last ${precision}`, precision, this.lift);
    this.weights = weights("weights", (w) => w, precision);
    this.weightsLast = weights("weights channels last", (w) => transpose(w, { perm: [0, 2, 3, 1] }), precision);
    this.turned = weights(
      "turned",
      (w) => transpose(slice(w, [backwards(2), backwards(3)]), { perm: [1, 0, 2, 3] }),
      precision,
    );
  }
  /** Rows of features stay as they are, in float32: they are small. */
  activationOf({ shape }: Type): Layout {
    return shape.length === 4 ? this.activation : rowMajor;
  }
  gradientOf({ shape }: Type): Layout {
    return shape.length === 4 ? this.gradient : rowMajor;
  }
  /** How many times as large a gradient of this type lies. */
  liftOf({ shape }: Type): number {
    return shape.length === 4 ? this.lift : 1;
  }
  /** The tensor of an activation. */
  activate(x: Lowered): Value {
    return x.layout instanceof Normalised ? x.layout.tensor : x.one(this.activationOf(x.type));
  }
  /** The tensor of a gradient. */
  descend(dy: Lowered): Value {
    const { layout: home } = dy;
    return home instanceof Gathered || home instanceof Sparse ? home.tensor : dy.one(this.gradientOf(dy.type));
  }
  /** The same for a kernel that adds it to another. */
  termOf(dy: Lowered): Term {
    return dy.layout instanceof Sparse ? dy.layout.term : { value: this.descend(dy), stride: 1 };
  }
  /** Whether a value lies as an activation of images does, now or when it is read. */
  isActivation({ layout: home }: Lowered): boolean {
    return home instanceof Normalised || home.name === this.activation.name;
  }
  isGradient({ layout: home }: Lowered): boolean {
    return home instanceof Gathered || home instanceof Sparse || home.name === this.gradient.name;
  }
}
