import type { Init, Slot } from "../../graphs/nn/scope.ts";
import { sizeOf, type Tensor, tensor } from "../../graphs/onnx/tensor.ts";
import { paramName, stateName } from "../../graphs/steps/names.ts";
import type { Step } from "../../graphs/steps/step.ts";
import { random } from "../data/random.ts";
import { RequestError } from "../errors.ts";

/** The first value of a parameter or state: numbers keyed by (seed, path), whatever else the network has. */
export const initialTensor = ({ path, type, init }: Slot, seed: number): Tensor => {
  const data = new Float32Array(sizeOf(type.shape));
  fill(data, init, seed, path);
  return tensor("float32", type.shape, data);
};

/** The first values of a step's parameters and states, in place of which `given` may stand by model input name. */
export const initialState = (
  { store }: Step,
  seed: number,
  given: ReadonlyMap<string, Tensor> = new Map(),
): Map<string, Tensor> => {
  const tensors = new Map<string, Tensor>();
  for (const [kind, slots] of [
    ["param", store.parameters],
    ["state", store.states],
  ] as const)
    for (const slot of slots.values()) {
      const name = `${kind}.${slot.path}`;
      const names = slot.init.kind === "copy" ? [name, paramName(slot.init.path), stateName(slot.init.path)] : [name];
      const known = names.find((n) => given.has(n));
      const value = (known && given.get(known)) || initialTensor(slot, seed);
      if (value.shape.join() !== slot.type.shape.join())
        throw new RequestError(
          `${slot.path} is [${value.shape.join(",")}] and should be [${slot.type.shape.join(",")}]; give the weights of this network`,
        );
      tensors.set(name, value);
    }
  return tensors;
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
