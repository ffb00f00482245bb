import type { Init, Slot } from "../../graphs/nn/scope.ts";
import { sizeOf, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { random } from "../data/random.ts";

/** The first value of a parameter or state: numbers keyed by (seed, path), whatever else the network has. */
export const initialTensor = ({ path, type, init }: Slot, seed: number): Tensor => {
  const data = new Float32Array(sizeOf(type.shape));
  fill(data, init, seed, path);
  return tensor("float32", type.shape, data);
};

const fill = (data: Float32Array, init: Init, seed: number, path: string): void => {
  const numbers = () => random(seed, 0, 0, `init.${path}`);
  switch (init.kind) {
    case "constant":
      data.fill(init.value);
      break;
    case "normal":
      numbers().fillNormal(data, init.std);
      break;
    case "uniform":
      numbers().fillUniform(data, -init.bound, init.bound);
      break;
    case "copy":
      fill(data, init.of, seed, init.path);
      break;
  }
};
