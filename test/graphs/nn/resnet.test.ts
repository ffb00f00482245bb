/** The encoders' shapes and names, as torchvision has them. */
import { expect, test } from "@jest/globals";
import { featureSize } from "../../../graphs/nn/encoder.ts";
import { type ResNetOptions, resnet } from "../../../graphs/nn/resnet.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input } from "../../../graphs/onnx/graph.ts";

const build = (options: Omit<ResNetOptions, "branches">, size: number) => {
  const store = new Store();
  const x = input("x", { dtype: "float32", shape: [2, 3, size, size] });
  const h = resnet({ ...options, branches: ["normal"] })(new Scope(store), x);
  const weights = [...store.parameters.values()].filter(
    ({ path }) => path.endsWith("conv.weight") || /conv\d\.weight$/.test(path),
  );
  return { h, store, convolutions: weights.length };
};

// A ResNet of depth d has d - 1 convolutions before its linear layer, and one more in each shortcut that changes the shape.
test.each([
  { depth: 18, stem: "cifar", size: 32, shortcuts: 3 },
  { depth: 34, stem: "cifar", size: 32, shortcuts: 3 },
  { depth: 50, stem: "cifar", size: 32, shortcuts: 4 },
  { depth: 18, stem: "imagenet", size: 96, shortcuts: 3 },
  { depth: 50, stem: "imagenet", size: 96, shortcuts: 4 },
] as const)("ResNet-$depth, $stem stem, $size pixels", ({ depth, stem, size, shortcuts }) => {
  const { h, convolutions } = build({ depth, stem, width: 4 }, size);
  expect(h.shape).toEqual([2, featureSize({ depth, width: 4 })]);
  expect(convolutions).toBe(depth - 1 + shortcuts);
});

test("ResNet-18 of width 64 has torchvision's number of parameters, less the linear layer and with the CIFAR stem", () => {
  const { store } = build({ depth: 18, stem: "cifar", width: 64 }, 32);
  const count = [...store.parameters.values()].reduce((n, { value }) => n + value.size, 0);
  // 11,689,512 of torchvision - 513,000 of its linear layer - 9,408 of its stem + 1,728 of this one.
  expect(count).toBe(11_689_512 - 513_000 - 9_408 + 1_728);
});
