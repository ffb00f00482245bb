import { describe, expect, test } from "@jest/globals";
import { float32, type Tensor, tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { authorsWeights, torchvisionWeights } from "../../src/deploy/export-layout.ts";
import { matchWeights } from "../../src/deploy/import-layout.ts";
import type { Source } from "../../src/deploy/source.ts";
import type { LoadedRun } from "../../src/runs/network.ts";
import { head, randomNetwork } from "./networks.ts";

const source = "weights.safetensors";
const renamed = (weights: ReadonlyMap<string, Tensor>, name: (name: string) => string) =>
  new Map([...weights].map(([key, value]) => [name(key), value]));

/** A source of an imported network, as export sees it. */
const exported = (imported: ReturnType<typeof matchWeights>): Pick<Source, "weights" | "branch" | "run"> => ({
  weights: imported.weights,
  branch: { name: "pgd", index: 1 },
  run: {
    checkpoint: { step: 5, tensors: renamed(imported.extras, (name) => `extra.${name}`) },
  } as unknown as LoadedRun,
});

const sortedNames = (weights: ReadonlyMap<string, Tensor>) => [...weights.keys()].sort();

describe("weights from elsewhere", () => {
  const { weights } = randomNetwork({ width: 2 });

  test.each(["", "module.", "_orig_mod.module."])("the authors' layout with prefix %j", (prefix) => {
    const imported = matchWeights(
      renamed(weights, (name) => prefix + name),
      { source },
    );
    expect(imported.network).toEqual({
      depth: 18,
      width: 2,
      stem: "cifar",
      size: 32,
      branches: ["normal", "pgd", "pgd_ce"],
      evaluatedBranch: "pgd",
    });
    expect(imported.weights).toEqual(weights);
    expect(imported.statistics.has("bn1.bn_list.2.running_var")).toBe(true);
    expect(imported).toMatchObject({ clusters: [], classes: undefined, projector: false });
  });

  test("clustering heads, classifier, and what the authors never use", () => {
    const more = new Map<string, Tensor>([
      ...weights,
      ...head(4, 16),
      ["fc_010.weight", zeros("float32", [10, 16])],
      ["fc_010.bias", zeros("float32", [10])],
      ["head_ce.weight", zeros("float32", [3])],
      ["bn1.bn_list.0.num_batches_tracked", tensor("int64", [], BigInt64Array.of(9n))],
    ]);
    const imported = matchWeights(more, { source });
    expect(imported).toMatchObject({ clusters: [10], classes: 4 });
    expect(sortedNames(imported.extras)).toEqual(["bn1.bn_list.0.num_batches_tracked", "head_ce.weight"]);
    const back = authorsWeights(exported(imported));
    for (const [name, value] of more) expect(back.get(name)).toEqual(value);
    expect(back.get("bn1.bn_list.1.num_batches_tracked")?.data).toEqual(BigInt64Array.of(5n));
  });

  test.each([18, 34, 50] as const)("a single-branch ResNet-%i in torchvision's names, there and back", (depth) => {
    const single = randomNetwork({ width: 2, depth, branches: undefined, stem: "imagenet", size: 64 }).weights;
    const theirs = renamed(single, (name) =>
      name.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1"),
    );
    const counters = [...theirs.keys()].filter((name) => name.endsWith("running_mean"));
    for (const name of counters)
      theirs.set(name.replace("running_mean", "num_batches_tracked"), tensor("int64", [], BigInt64Array.of(9n)));
    const imported = matchWeights(theirs, { source });
    expect(imported.network).toMatchObject({ depth, width: 2, stem: "imagenet", size: 224, branches: undefined });
    expect(imported.weights).toEqual(single);
    const back = torchvisionWeights({ ...exported(imported), branch: undefined }, false);
    for (const [name, value] of theirs) expect(back.get(name)).toBe(value);
    expect(back.size).toBe(theirs.size);
  });

  test("one branch of several as torchvision has it", () => {
    const imported = matchWeights(new Map([...weights, ...head(4, 16)]), { source });
    const one = torchvisionWeights(exported(imported), true);
    expect(one.get("bn1.running_mean")).toBe(weights.get("bn1.bn_list.1.running_mean"));
    expect(one.get("layer2.0.downsample.1.weight")).toBe(weights.get("layer2.0.downsample.bn.bn_list.1.weight"));
    expect([...one.keys()].some((name) => name.includes("bn_list"))).toBe(false);
    expect(one.has("fc.weight")).toBe(true);
    expect(torchvisionWeights(exported(imported), false).has("fc.weight")).toBe(false);
  });

  test("all that does not fit is listed in one error", () => {
    const bad = new Map(weights);
    bad.delete("conv1.weight");
    expect(() => matchWeights(bad, { source })).toThrow(/no conv1\.weight/);
    const broken = new Map<string, Tensor>([
      ...weights,
      ["layer1.0.conv1.weight", float32([1], [0])],
      ["extra.thing", float32([1], [0])],
      ["fc_010.weight", zeros("float32", [10, 16])],
    ]);
    broken.delete("layer4.1.bn2.bn_list.2.running_mean");
    expect(() => matchWeights(broken, { source })).toThrow(
      /weights\.safetensors does not fit a ResNet-18 of width 2: extra\.thing is not of this network.*layer1\.0\.conv1\.weight is float32\[1\] and should be float32\[2,2,3,3\].*fc_010\.bias is missing.*layer4\.1\.bn2\.bn_list\.2\.running_mean is missing/,
    );
  });

  test("numbers that are not finite are refused by the tensor that holds them", () => {
    const bad = new Map(weights).set("bn1.bn_list.0.bias", float32([2], [1, Number.NaN]));
    expect(() => matchWeights(bad, { source })).toThrow(
      /width 2: bn1\.bn_list\.0\.bias holds numbers that are not finite/,
    );
  });

  test("a network with other blocks is refused by what it has", () => {
    const short = new Map([...weights].filter(([name]) => !name.startsWith("layer3.1")));
    expect(() => matchWeights(short, { source })).toThrow(/its stages have 2, 2, 1, 2 basic blocks/);
    const grey = new Map(weights).set("conv1.weight", zeros("float32", [2, 1, 3, 3]));
    expect(() => matchWeights(grey, { source })).toThrow(/not for images of three channels/);
    expect(() => matchWeights(weights, { source, branches: ["a"] })).toThrow(/names 1 branches but .* has 3/);
    expect(() => matchWeights(weights, { source, branch: "no" })).toThrow(/--branch is no/);
  });
});
