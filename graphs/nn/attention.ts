/** Transformer encoder layers (Vaswani et al., NeurIPS 2017), with the names of PyTorch's nn.TransformerEncoderLayer. */
import type { Value } from "../onnx/graph.ts";
import {
  add,
  gelu,
  layerNormalization,
  matMul,
  matrixTranspose,
  mul,
  reshape,
  slice,
  softmax,
  transpose,
} from "../ops/index.ts";
import { type Layer, linear, residual } from "./layer.ts";
import type { Scope } from "./scope.ts";

/** A linear layer over the last axis of tokens [B,T,D]. */
const perToken =
  (layer: Layer): Layer =>
  (scope, x) => {
    const y = layer(scope, reshape(x, [-1, x.dim(-1)]));
    return reshape(y, [...x.shape.slice(0, -1), y.dim(1)]);
  };

export const layerNorm: Layer = (scope, x) =>
  scope.run(() => {
    const part = (name: string, value: number) => scope.parameter(name, [x.dim(-1)], { kind: "constant", value });
    return layerNormalization(x, part("weight", 1), part("bias", 0), { axis: -1, epsilon: 1e-5 });
  });

/** softmax(q·kᵀ/√d)·v by heads over tokens [B,T,D]; every token sees all. */
export const selfAttention =
  (heads: number): Layer =>
  (scope, x) =>
    scope.run(() => {
      const [b = 0, t = 0, d = 0] = x.shape;
      const bound = Math.sqrt(6 / (4 * d));
      const weight = scope.parameter("in_proj_weight", [3 * d, d], { kind: "uniform", bound });
      const bias = scope.parameter("in_proj_bias", [3 * d], { kind: "constant", value: 0 });
      const projected = add(matMul(x, matrixTranspose(weight)), bias);
      // [B,T,3,heads,d/heads] to [3,B,heads,T,d/heads]
      const all = transpose(reshape(projected, [b, t, 3, heads, d / heads]), { perm: [2, 0, 3, 1, 4] });
      const [q, k, v] = [0, 1, 2].map((i) =>
        reshape(slice(all, [{ axis: 0, start: i, end: i + 1 }]), [b, heads, t, d / heads]),
      ) as [Value, Value, Value];
      const attention = softmax(mul(matMul(q, matrixTranspose(k)), 1 / Math.sqrt(d / heads)), { axis: -1 });
      const seen = reshape(transpose(matMul(attention, v), { perm: [0, 2, 1, 3] }), [b, t, d]);
      return perToken(linear({ features: d }))(scope.at("out_proj"), seen);
    });

/** Attention, then a perceptron of `hidden` GELU units a token, each added to its input and normalised. No dropout. */
export const transformerLayer =
  ({ heads, hidden }: { readonly heads: number; readonly hidden: number }): Layer =>
  (scope: Scope, x: Value) => {
    const attended = layerNorm(scope.at("norm1"), residual(scope, x, selfAttention(heads)(scope.at("self_attn"), x)));
    const inner = perToken(linear({ features: hidden }))(scope.at("linear1"), attended);
    const outer = perToken(linear({ features: x.dim(-1) }))(
      scope.at("linear2"),
      scope.run(() => gelu(inner)),
    );
    return layerNorm(scope.at("norm2"), residual(scope, attended, outer));
  };
