/** Networks of pre-activation blocks, against PyTorch's by scripts/fixtures/preact_networks.py. */
import { describe, expect, test } from "@jest/globals";
import { grad } from "../../../graphs/autodiff/grad.ts";
import { crossEntropy } from "../../../graphs/losses/cross-entropy.ts";
import { classifier } from "../../../graphs/nn/classifier.ts";
import { encoder, encoderName, featureSize } from "../../../graphs/nn/encoder.ts";
import { Scope, Store } from "../../../graphs/nn/scope.ts";
import { input } from "../../../graphs/onnx/graph.ts";
import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { cpuTarget } from "../../../graphs/targets/cpu/index.ts";
import { portable } from "../../../graphs/targets/portable.ts";
import { matchWeights } from "../../../src/deploy/import/match.ts";
import { readSafetensors } from "../../../src/files/safetensors.ts";
import { weightFeeds } from "../../../src/runs/network.ts";
import { evaluate, relativeError } from "../run.ts";

const numbers = ({ data }: Tensor): Float32Array => data as Float32Array;

/** A fixture: the network that import finds in it, and what PyTorch computed. */
const opened = async (name: string) => {
  const source = `${name}.safetensors`;
  const { tensors } = await readSafetensors(new URL(`../../fixtures/networks/${source}`, import.meta.url).pathname);
  const weights = new Map([...tensors].filter(([key]) => !key.startsWith("test.")));
  return {
    ...matchWeights(weights, { source, size: 8 }),
    truth: (what: string) => tensors.get(`test.${what}`) as Tensor,
  };
};

describe.each([
  ["wide-resnet", "WideResNet-16", 16],
  ["preact-resnet", "PreAct-ResNet-18", 16],
] as const)("%s", (name, title, features) => {
  test.each(["eval", "train"] as const)("logits and gradients are PyTorch's, in mode %s", async (mode) => {
    const { network, weights, classes, truth } = await opened(name);
    expect([network.arch, encoderName(network), featureSize(network), classes]).toEqual([name, title, features, 3]);
    const store = new Store();
    const x = store.input("x", { dtype: "float32", shape: [4, 3, 8, 8] });
    const label = store.input("label", { dtype: "int32", shape: [4] });
    const logits = classifier({ ...network, classes: 3 })(new Scope(store, { mode }), x);
    const [gradient] = grad(crossEntropy(logits, label), [x]);
    const feeds = {
      ...weightFeeds(store, weights, name),
      "input.x": truth("x"),
      "input.label": truth("label"),
    };
    for (const target of [portable, cpuTarget()]) {
      const results = await evaluate({ logits, gradient: gradient! }, feeds, target);
      for (const what of ["logits", "gradient"] as const) {
        const error = relativeError(numbers(results[what]), numbers(truth(`${mode}.${what}`)));
        expect(error).toBeLessThan(1e-5);
      }
    }
  });

  test("every branch of batch norm has its own parameters", async () => {
    const store = new Store();
    const { network } = await opened(name);
    const x = input("x", { dtype: "float32", shape: [4, 3, 8, 8] });
    const layer = encoder({ ...network, branches: ["normal", "pgd"] });
    layer(new Scope(store, { branches: ["normal", "pgd"] }), x);
    const of = (branch: number) => [...store.parameters.keys()].filter((path) => path.includes(`bn_list.${branch}.`));
    expect(of(0).length).toBe([...store.parameters.keys()].filter((path) => !path.includes("conv")).length / 2);
    expect(of(1)).toEqual(of(0).map((path) => path.replace("bn_list.0", "bn_list.1")));
  });
});

// The numbers of trainable weights that the papers give, with 10 classes: 36.5 and 46.2 million, and 11.2 million.
test.each([
  { arch: "wide-resnet", depth: 28, width: 160, millions: 36.48 },
  { arch: "wide-resnet", depth: 34, width: 160, millions: 46.16 },
  { arch: "preact-resnet", depth: 18, width: 64, millions: 11.17 },
] as const)("$arch of $depth layers has $millions million weights", ({ millions, ...shape }) => {
  const store = new Store();
  const x = input("x", { dtype: "float32", shape: [1, 3, 32, 32] });
  classifier({ ...shape, stem: "cifar", classes: 10 })(new Scope(store, { mode: "eval" }), x);
  const count = [...store.parameters.values()].reduce((sum, { value }) => sum + value.size, 0);
  expect(count / 1e6).toBeCloseTo(millions, 1);
});
