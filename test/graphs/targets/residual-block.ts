import { vjp } from "../../../graphs/autodiff/grad.ts";
import { input, type Value } from "../../../graphs/onnx/graph.ts";
import { add, batchNormTraining, conv, relu } from "../../../graphs/ops/index.ts";

const image = (name: string, shape: readonly number[]): Value => input(name, { dtype: "float32", shape });

/** A residual block with batch norm over branches, and the gradients to all that it depends on. */
export const residualBlock = () => {
  const [x, w, scale, bias] = [
    image("x", [36, 8, 6, 6]),
    image("w", [8, 8, 3, 3]),
    image("scale", [2, 8]),
    image("bias", [2, 8]),
  ];
  const norm = (of: Value) => batchNormTraining(of, scale, bias, { branches: 2, epsilon: 1e-5 });
  const inner = relu(norm(conv(x, w, { pads: [1, 1, 1, 1] })));
  const y = relu(add(norm(conv(inner, w, { pads: [1, 1, 1, 1] })), x));
  const dy = image("dy", y.shape);
  const inputs = [x, w, scale, bias];
  const [dx, dw, dscale, dbias] = vjp([y], [dy], inputs) as [Value, Value, Value, Value];
  return { outputs: { y, dx, dw, dscale, dbias }, inputs: [...inputs, dy] };
};
