import { GraphError } from "../onnx/error.ts";
import { constant, type Type, type Value } from "../onnx/graph.ts";
import { type Tensor, typeName } from "../onnx/tensor.ts";
import { type Init, Store } from "./scope.ts";

/** A store whose parameters and state are constants, so that the engine can optimise what is only evaluated. */
export class FrozenStore extends Store {
  readonly #held: (path: string) => Tensor | undefined;
  readonly #made = new Map<string, Value>();

  /** @param held the tensor of a parameter or state by its path */
  constructor(held: (path: string) => Tensor | undefined) {
    super();
    this.#held = held;
  }

  override parameter(path: string, shape: readonly number[], _init: Init): Value {
    return this.#frozen(path, { dtype: "float32", shape });
  }

  override state(path: string, type: Type, _init: Init): Value {
    return this.#frozen(path, type);
  }

  #frozen(path: string, type: Type): Value {
    const known = this.#made.get(path);
    if (known !== undefined) return known;
    const tensor = this.#held(path);
    if (tensor === undefined) throw new GraphError("parameter", `there is no weight ${path}`);
    if (typeName(tensor) !== typeName({ dtype: type.dtype, shape: type.shape }))
      throw new GraphError(
        "parameter",
        `the weight ${path} is ${typeName(tensor)} but the network has ${typeName(type)}`,
      );
    const value = constant(tensor);
    this.#made.set(path, value);
    return value;
  }
}
