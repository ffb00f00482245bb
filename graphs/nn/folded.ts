/**
 * A network for deployment: one branch of each batch norm folded into the convolution or linear layer before it, which
 * leaves convolutions with a bias.
 *
 * In evaluation mode bn(w ∗ x) = scale·(w ∗ x - mean)/√(var + ε) + shift = (k·w) ∗ x + (shift - k·mean) with
 * k = scale/√(var + ε) a channel. k, the products and the bias are computed in float64 and rounded to float32 once.
 */
import { input } from "../onnx/graph.ts";
import { float32, type Tensor } from "../onnx/tensor.ts";
import { conv, gemm, normalizeL2, relu } from "../ops/index.ts";
import { PROJECTION } from "./head.ts";
import type { Layer } from "./layer.ts";
import { type ResNetOptions, resnet, type Unit } from "./resnet.ts";
import { Scope, Store } from "./scope.ts";

/** Parameters and running statistics by PyTorch name. */
export type Weights = ReadonlyMap<string, Tensor>;

const zero = { kind: "constant", value: 0 } as const;

/** The convolution of a unit with a bias, under the convolution's name. */
const foldedUnit: Unit = (scope, [name], { filters, kernel, stride = 1, padding = 0 }, x) => {
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

/** The encoder with its batch norms folded. Images [N,3,H,W] to features [N,D]; no shape in it depends on N. */
export const foldedEncoder = (options: Omit<ResNetOptions, "branches" | "unit">): Layer =>
  resnet({ ...options, unit: foldedUnit });

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

const foldPair = (weights: Weights, { layer, norm }: Pair, into: Map<string, Tensor>): void => {
  const weight = weights.get(`${layer}.weight`);
  if (weight === undefined) throw new MissingWeight(`${layer}.weight`);
  const [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map((part) =>
    take(weights, `${norm}.${part}`),
  ) as [Float32Array, Float32Array, Float32Array, Float32Array];
  const before = weights.get(`${layer}.bias`)?.data as Float32Array | undefined;
  const source = weight.data as Float32Array;
  const channels = weight.shape[0]!;
  const each = source.length / channels;
  const folded = new Float32Array(source.length);
  const bias = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    const k = scale[c]! / Math.sqrt(variance[c]! + epsilon);
    for (let i = c * each; i < (c + 1) * each; i++) folded[i] = k * source[i]!;
    bias[c] = shift[c]! + k * ((before?.[c] ?? 0) - mean[c]!);
  }
  into.set(`${layer}.weight`, float32(weight.shape, folded));
  into.set(`${layer}.bias`, float32([channels], bias));
};

/** Every convolution of an encoder with its batch norm, in the order of the network. */
const pairsOf = (options: Omit<ResNetOptions, "unit">, branch: number | undefined): Pair[] => {
  const pairs: Pair[] = [];
  const unit: Unit = (scope, names, shape, x) => {
    const norm = scope.at(names[1]).path;
    pairs.push({ layer: scope.at(names[0]).path, norm: branch === undefined ? norm : `${norm}.bn_list.${branch}` });
    return foldedUnit(scope, names, shape, x);
  };
  const image = input("image", { dtype: "float32", shape: [1, 3, 32, 32] });
  resnet({ ...options, unit })(new Scope(new Store()), image);
  return pairs;
};

/** Weights of the folded encoder, by the names that `foldedEncoder` asks for. `branch` counts in bn_list. */
export const foldEncoder = (
  options: Omit<ResNetOptions, "unit">,
  weights: Weights,
  branch: number | undefined,
): Map<string, Tensor> => {
  const folded = new Map<string, Tensor>();
  for (const pair of pairsOf(options, branch)) foldPair(weights, pair, folded);
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
