/**
 * A network for deployment: one branch of each batch norm folded into the convolution or linear layer before it, which
 * leaves convolutions with a bias. A batch norm that follows none (of pre-activation networks) becomes a product and a sum.
 *
 * In evaluation mode bn(w ∗ x) = scale·(w ∗ x - mean)/√(var + ε) + shift = (k·w) ∗ x + (shift - k·mean) with
 * k = scale/√(var + ε) a channel. k, the products and the bias are computed in float64 and rounded to float32 once.
 */
import { input } from "../onnx/graph.ts";
import { float32, type Tensor } from "../onnx/tensor.ts";
import { add, conv, gemm, mul, normalizeL2, relu } from "../ops/index.ts";
import { type EncoderOptions, encoder } from "./encoder.ts";
import { PROJECTION } from "./head.ts";
import type { Layer } from "./layer.ts";
import type { Norm } from "./preact.ts";
import type { Unit } from "./resnet.ts";
import { Scope, Store } from "./scope.ts";

/** Parameters and running statistics by PyTorch name. */
export type Weights = ReadonlyMap<string, Tensor>;

const zero = { kind: "constant", value: 0 } as const;

/** The convolution of a unit with a bias, under the convolution's name: `unit` of an encoder whose weights are `foldUnits`'s. */
export const foldedUnit: Unit = (scope, [name], { filters, kernel, stride = 1, padding = 0 }, x) => {
  const at = scope.at(name);
  return at.run(() => {
    const weight = at.parameter("weight", [filters, x.dim(1), kernel, kernel], zero);
    return conv(x, weight, at.parameter("bias", [filters], zero), {
      kernel_shape: [kernel, kernel],
      pads: [padding, padding, padding, padding],
      strides: [stride, stride],
    });
  });
};

/** A batch norm with no convolution before it as a product and a sum of each channel, under the batch norm's name. */
const foldedNorm: Norm = (scope, name, x) => {
  const at = scope.at(name);
  return at.run(() => {
    const shape = [1, x.dim(1), 1, 1];
    return add(mul(x, at.parameter("weight", shape, zero)), at.parameter("bias", shape, zero));
  });
};

/** What of an encoder an export decides itself. */
type Plain = Omit<EncoderOptions, "unit" | "norm">;

/** The encoder with its batch norms folded. Images [N,3,H,W] to features [N,D]; no shape in it depends on N. */
export const foldedEncoder = (options: Omit<Plain, "branches">): Layer =>
  encoder({ ...options, unit: foldedUnit, norm: foldedNorm });

const affine =
  (features: number): Layer =>
  (scope, x) =>
    scope.run(() => {
      const weight = scope.parameter("weight", [features, x.dim(1)], zero);
      return gemm(x, weight, scope.parameter("bias", [features], zero), { transB: 1 });
    });

/** The projector with its batch norm folded. [N,D] to unit rows [N,128]. */
export const foldedProjector: Layer = (scope, h) => {
  const hidden = affine(h.dim(1))(scope.at(0), h);
  const z = affine(PROJECTION)(
    scope.at(3),
    scope.at(2).run(() => relu(hidden)),
  );
  return scope.run(() => normalizeL2(z));
};

/** A linear head. */
export const linearHead = affine;

const epsilon = 1e-5;

/** Names of what folding reads: a layer's weight (and bias, where it has one) and its batch norm's four. */
interface Pair {
  readonly layer: string;
  readonly norm: string;
}

/** Name of a batch norm that stands alone, and where its four lie. */
interface Alone {
  readonly name: string;
  readonly norm: string;
}

const take = (weights: Weights, name: string): Float32Array => {
  const found = weights.get(name);
  if (found === undefined) throw new MissingWeight(name);
  return found.data as Float32Array;
};

/** A tensor that the network needs is not among the weights. */
export class MissingWeight extends Error {
  override readonly name = "MissingWeight";
  readonly tensor: string;
  constructor(tensor: string) {
    super(`the weights lack ${tensor}`);
    this.tensor = tensor;
  }
}

/** A batch norm in evaluation mode is k·(x - mean) + shift, by channel. */
const factorsOf = (weights: Weights, norm: string) => {
  const [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map((part) =>
    take(weights, `${norm}.${part}`),
  ) as [Float32Array, Float32Array, Float32Array, Float32Array];
  return { k: Float64Array.from(scale, (value, c) => value / Math.sqrt(variance[c]! + epsilon)), mean, shift };
};

/** A batch norm alone as the product and the sum of `foldedNorm`. */
const foldAlone = (weights: Weights, { name, norm }: Alone, into: Map<string, Tensor>): void => {
  const { k, mean, shift } = factorsOf(weights, norm);
  const shape = [1, k.length, 1, 1];
  into.set(`${name}.weight`, float32(shape, Float32Array.from(k)));
  into.set(
    `${name}.bias`,
    float32(
      shape,
      Float32Array.from(k, (factor, c) => shift[c]! - factor * mean[c]!),
    ),
  );
};

const foldPair = (weights: Weights, { layer, norm }: Pair, into: Map<string, Tensor>): void => {
  const weight = weights.get(`${layer}.weight`);
  if (weight === undefined) throw new MissingWeight(`${layer}.weight`);
  const { k, mean, shift } = factorsOf(weights, norm);
  const before = weights.get(`${layer}.bias`)?.data as Float32Array | undefined;
  const source = weight.data as Float32Array;
  const channels = weight.shape[0]!;
  const each = source.length / channels;
  const folded = new Float32Array(source.length);
  const bias = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    for (let i = c * each; i < (c + 1) * each; i++) folded[i] = k[c]! * source[i]!;
    bias[c] = shift[c]! + k[c]! * ((before?.[c] ?? 0) - mean[c]!);
  }
  into.set(`${layer}.weight`, float32(weight.shape, folded));
  into.set(`${layer}.bias`, float32([channels], bias));
};

/** What of an encoder is folded, in the order of the network, and the names of all that its folded form reads. */
const partsOf = (options: Plain, branch: number | undefined) => {
  const pairs: Pair[] = [];
  const alone: Alone[] = [];
  const held = (path: string): string => (branch === undefined ? path : `${path}.bn_list.${branch}`);
  const unit: Unit = (scope, names, shape, x) => {
    pairs.push({ layer: scope.at(names[0]).path, norm: held(scope.at(names[1]).path) });
    return foldedUnit(scope, names, shape, x);
  };
  const norm: Norm = (scope, name, x) => {
    const { path } = scope.at(name);
    alone.push({ name: path, norm: held(path) });
    return foldedNorm(scope, name, x);
  };
  const store = new Store();
  const image = input("image", { dtype: "float32", shape: [1, 3, 32, 32] });
  encoder({ ...options, unit, norm })(new Scope(store), image);
  return { pairs, alone, names: [...store.parameters.keys()] };
};

/** Convolutions with the batch norms behind them folded in, by the names that `foldedUnit` asks for, and nothing else. */
export const foldUnits = (options: Plain, weights: Weights, branch: number | undefined): Map<string, Tensor> => {
  const folded = new Map<string, Tensor>();
  for (const pair of partsOf(options, branch).pairs) foldPair(weights, pair, folded);
  return folded;
};

/** Weights of the folded encoder, by the names that `foldedEncoder` asks for. `branch` counts in bn_list. */
export const foldEncoder = (options: Plain, weights: Weights, branch: number | undefined): Map<string, Tensor> => {
  const folded = new Map<string, Tensor>();
  const { pairs, alone, names } = partsOf(options, branch);
  for (const pair of pairs) foldPair(weights, pair, folded);
  for (const norm of alone) foldAlone(weights, norm, folded);
  for (const name of names) {
    if (folded.has(name)) continue;
    take(weights, name);
    folded.set(name, weights.get(name) as Tensor);
  }
  return folded;
};

/** Weights of the folded projector, under `head_proj`. */
export const foldProjector = (weights: Weights): Map<string, Tensor> => {
  const folded = new Map<string, Tensor>();
  foldPair(weights, { layer: "head_proj.0", norm: "head_proj.1" }, folded);
  for (const part of ["weight", "bias"]) {
    const name = `head_proj.3.${part}`;
    take(weights, name);
    folded.set(name, weights.get(name) as Tensor);
  }
  return folded;
};
