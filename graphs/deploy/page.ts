/**
 * The programs behind the page: features of an image, an attack step, and a training step of a linear head. The head is an
 * input of the attack, so that heads that are trained in the page are attacked too. Each takes one image.
 */
import { grad } from "../autodiff/grad.ts";
import { crossEntropy } from "../losses/cross-entropy.ts";
import { Store } from "../nn/scope.ts";
import { constantOf, input, isAbsent, isConstant, type Value } from "../onnx/graph.ts";
import { float32, type Tensor, zeros } from "../onnx/tensor.ts";
import { gemm, mul, reduceSum } from "../ops/index.ts";
import { sgd } from "../optim/sgd.ts";
import { nextName, paramName } from "../steps/names.ts";
import { nextStates } from "../steps/step.ts";
import { attackStep } from "./attack.ts";

/** A classifier cut before its last linear layer: logits = features·weightᵀ + bias. */
export interface CutClassifier {
  readonly features: Value;
  readonly weight: Tensor<"float32">;
  readonly bias: Tensor<"float32">;
}

/** Cuts a classifier; where its last op is no linear layer with constant weights, the logits themselves are the features. */
export const cutClassifier = (logits: Value): CutClassifier => {
  const { node } = logits;
  const [features, weight, bias] = node.inputs;
  const { alpha = 1, beta = 1, transA = 0, transB = 0 } = node.attributes;
  const plain = alpha === 1 && beta === 1 && transA === 0 && transB === 1;
  if (
    node.definition === gemm.definition &&
    plain &&
    isConstant(weight as Value) &&
    (isAbsent(bias) || isConstant(bias as Value))
  ) {
    const classes = (weight as Value).dim(0);
    const held = isAbsent(bias) ? undefined : (constantOf(bias as Value)?.data as Float32Array);
    if (held === undefined || held.length === classes)
      return {
        features: features as Value,
        weight: constantOf(weight as Value) as Tensor<"float32">,
        bias: held === undefined ? zeros("float32", [classes]) : float32([classes], held),
      };
  }
  const classes = logits.dim(1);
  const identity = zeros("float32", [classes, classes]);
  for (let i = 0; i < classes; i++) identity.data[i * classes + i] = 1;
  return { features: logits, weight: identity, bias: zeros("float32", [classes]) };
};

/** A bias that no class wins with: that of the rows of a head that stand for no class. */
export const unusedBias = -1e4;

/** A head with `slots` rows; those beyond its own never win. */
export const padded = ({ weight, bias }: Pick<CutClassifier, "weight" | "bias">, slots: number) => {
  const [classes = 0, width = 0] = weight.shape;
  const wide = new Float32Array(slots * width);
  wide.set(weight.data.subarray(0, classes * width));
  const long = new Float32Array(slots).fill(unusedBias);
  long.set(bias.data);
  return { weight: float32([slots, width], wide), bias: float32([slots], long) };
};

/** The attack step under a head that is fed: inputs of `attackStep` with `weight` [slots,D] and `bias` [slots]. */
export const pageAttack = (
  shape: readonly number[],
  slots: number,
  features: (x: Value) => Value,
): Readonly<Record<string, Value>> => {
  const { outputs } = attackStep(shape, (x) => {
    const h = features(x);
    const weight = input("weight", { dtype: "float32", shape: [slots, h.dim(1)] });
    return gemm(h, weight, input("bias", { dtype: "float32", shape: [slots] }), { transB: 1 });
  });
  return { ...outputs };
};

/** A training step of the head on up to `examples` features; `share` is 1 / count for an example, 0 for an empty row. */
export const pageHead = (slots: number, width: number, examples: number): Readonly<Record<string, Value>> => {
  const store = new Store();
  const zero = { kind: "constant", value: 0 } as const;
  const features = store.input("features", { dtype: "float32", shape: [examples, width] });
  const label = store.input("label", { dtype: "int32", shape: [examples] });
  const share = store.input("share", { dtype: "float32", shape: [examples] });
  const lr = store.input("lr", { dtype: "float32", shape: [] });
  const weight = store.parameter("weight", [slots, width], zero);
  const bias = store.parameter("bias", [slots], zero);
  const each = crossEntropy(gemm(features, weight, bias, { transB: 1 }), label, "none");
  const loss = reduceSum(mul(each, share), { keepdims: 0 });
  const slotsOf = [...store.parameters.values()];
  const optimizer = sgd({ momentum: 0.9, weightDecay: 0 });
  const next = Object.fromEntries(
    grad(loss, [weight, bias]).map((gradient, i) => {
      const slot = slotsOf[i] as (typeof slotsOf)[number];
      return [nextName(paramName(slot.path)), optimizer(store, slot, gradient, lr)];
    }),
  );
  return { ...next, ...nextStates(store), loss };
};
