/** Networks for the tests of exports: the trained one of the golden values, and small ones of random numbers. */

import { advclBranches } from "../../graphs/methods/advcl.ts";
import { encoder } from "../../graphs/nn/encoder.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { input } from "../../graphs/onnx/graph.ts";
import { float32, sizeOf, type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { golden } from "../../scripts/parity/golden.ts";
import { random } from "../../src/data/random.ts";
import type { Network } from "../../src/runs/network.ts";

const cifar = { depth: 18, stem: "cifar", size: 32, branches: advclBranches, evaluatedBranch: "pgd" } as const;

/** The golden network (ResNet-18, width 16, trained on CIFAR-10) with a random classifier of ten classes. */
export const goldenNetwork = async (): Promise<{ network: Network; weights: Map<string, Tensor>; clean: Tensor }> => {
  const given = await golden("given");
  const weights = new Map<string, Tensor>();
  for (const [name, value] of given) if (name.startsWith("before.")) weights.set(name.slice(7), value);
  for (const [name, value] of head(10, 128)) weights.set(name, value);
  return { network: { ...cifar, width: 16 }, weights, clean: given.get("input.clean") as Tensor };
};

export const head = (classes: number, features: number): Map<string, Tensor> => {
  const weight = new Float32Array(classes * features);
  random(1, 0, 0, "head").fillNormal(weight, 0.3);
  return new Map<string, Tensor>([
    ["fc.weight", float32([classes, features], weight)],
    ["fc.bias", zeros("float32", [classes])],
  ]);
};

/** A network of random weights and statistics. */
export const randomNetwork = (
  options: Partial<Network> & { readonly width: number },
  seed = 0,
): { network: Network; weights: Map<string, Tensor> } => {
  const network: Network = { ...cifar, ...options };
  const weights = new Map<string, Tensor>();
  const { size } = network;
  for (const branch of network.branches ?? ["normal"]) {
    const store = new Store();
    const scope = new Scope(store, { mode: "eval", branches: [branch] });
    encoder(network)(scope, input("image", { dtype: "float32", shape: [1, 3, size, size] }));
    for (const { path, type, init } of [...store.parameters.values(), ...store.states.values()]) {
      if (weights.has(path)) continue;
      const data = new Float32Array(sizeOf(type.shape));
      const numbers = random(seed, 0, 0, path);
      if (init.kind === "normal") numbers.fillNormal(data, init.std);
      else
        numbers.fillUniform(
          data,
          init.kind === "constant" ? init.value + -0.2 : -0.1,
          init.kind === "constant" ? init.value + 0.2 : 0.1,
        );
      weights.set(path, float32(type.shape, data));
    }
  }
  return { network, weights };
};
