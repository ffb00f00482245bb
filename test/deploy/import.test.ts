import { describe, expect, test } from "@jest/globals";
import { float32, type Tensor, tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { authorsWeights, torchvisionWeights } from "../../src/deploy/export-layout.ts";
import { matchWeights } from "../../src/deploy/import/match.ts";
import type { Source } from "../../src/deploy/source.ts";
import type { LoadedRun } from "../../src/runs/network.ts";
import { head, randomNetwork } from "./networks.ts";

const source = "weights.safetensors";
const renamed = (weights: ReadonlyMap<string, Tensor>, name: (name: string) => string) =>
  new Map([...weights].map(([key, value]) => [name(key), value]));

/** A source of an imported network, as export sees it. */
const exported = (
  imported: ReturnType<typeof matchWeights>,
): Pick<Source, "weights" | "branch" | "run" | "network"> => ({
  network: imported.network,
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

/** Tensors under a prefix. */
const under = (prefix: string, weights: ReadonlyMap<string, Tensor>) => renamed(weights, (name) => prefix + name);

/** The same network a step later, as a momentum copy is. */
const moved = (weights: ReadonlyMap<string, Tensor>) =>
  new Map(
    [...weights].map(([name, { shape, data }]) => [
      name,
      float32(
        shape,
        (data as Float32Array).map((v) => v * 1.01),
      ),
    ]),
  );

const linear = (name: string, rows: number, columns: number): [string, Tensor][] => [
  [`${name}.weight`, zeros("float32", [rows, columns])],
  [`${name}.bias`, zeros("float32", [rows])],
];

const norm = (name: string, channels: number): [string, Tensor][] =>
  ["weight", "bias", "running_mean", "running_var"].map((part) => [`${name}.${part}`, zeros("float32", [channels])]);

const torchvision = (weights: ReadonlyMap<string, Tensor>) =>
  renamed(weights, (name) => name.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1"));

const leftOut = (imported: ReturnType<typeof matchWeights>) =>
  Object.fromEntries(imported.leftOut.map(({ rule, names }) => [rule, names]));

describe("a network under a prefix (rows T1, T9, N13)", () => {
  const single = randomNetwork({ width: 2, branches: undefined }).weights;
  const theirs = torchvision(single);
  const features = 16;

  test.each([
    "backbone.",
    "model.",
    "module.",
    "module.encoder.",
    "encoder.",
    "net.",
    "_orig_mod.module.",
    "module.base_model.trunk._feature_blocks.",
  ])("%s", (prefix) => {
    const imported = matchWeights(under(prefix, theirs), { source });
    expect(imported.weights).toEqual(single);
    expect(imported).toMatchObject({ prefix, leftOut: [] });
    expect(imported.notes).toContain(`the network lies under ${prefix.slice(0, -1)}`);
  });

  test("solo-learn: backbone, projector, classifier and momentum copies", () => {
    const file = new Map([
      ...under("backbone.", theirs),
      ...linear("projector.0", 4, features),
      ...linear("classifier", 10, features),
      ...under("momentum_backbone.", moved(theirs)),
      ...linear("momentum_projector.0", 4, features),
      ["queue", zeros("float32", [2, 4, 8])] as const,
      ["queue_ptr", tensor("int64", [1], BigInt64Array.of(0n))] as const,
    ]);
    const imported = matchWeights(file, { source });
    expect(leftOut(imported)).toMatchObject({
      "projector of pretraining": ["projector.0.weight", "projector.0.bias"],
      "stored features of a contrastive loss": ["queue", "queue_ptr"],
      "copies that follow by momentum": ["momentum_projector.0.weight", "momentum_projector.0.bias"],
    });
    expect(imported.notes.join()).toContain(
      "not taken is the copy under momentum_backbone, which follows it by momentum (--prefix momentum_backbone takes that)",
    );
    expect([...imported.weights.keys()].filter((name) => name.startsWith("fc."))).toEqual([]);
    file.delete("queue");
    const probed = matchWeights(file, { source });
    expect(probed.classes).toBe(10);
    expect(probed.notes.join()).toContain("classifier.weight is taken as the classifier, fc");
  });

  test("MoCo: the query's encoder, whose fc is a projection, or the key's where asked", () => {
    const file = new Map([
      ...under(
        "module.encoder_q.",
        new Map([...theirs, ...linear("fc.0", features, features), ...linear("fc.2", 4, features)]),
      ),
      ...under(
        "module.encoder_k.",
        new Map([...moved(theirs), ...linear("fc.0", features, features), ...linear("fc.2", 4, features)]),
      ),
      ["module.queue", zeros("float32", [4, 8])] as const,
    ]);
    const imported = matchWeights(file, { source });
    expect(imported.weights).toEqual(single);
    expect(leftOut(imported)["projector of pretraining, in the place of a classifier"]).toHaveLength(4);
    expect(leftOut(imported)["of the copy that is not taken"]).toHaveLength(theirs.size + 4);
    const asked = matchWeights(file, { source, prefix: "module.encoder_k" });
    expect(asked.weights).toEqual(moved(single));
    const first = new Map([
      ...under("encoder_q.", new Map([...theirs, ...linear("fc", 4, features)])),
      ...under("encoder_k.", new Map([...moved(theirs), ...linear("fc", 4, features)])),
    ]);
    expect(matchWeights(first, { source }).classes).toBeUndefined();
    expect(() => matchWeights(file, { source, prefix: "backbone" })).toThrow(
      /--prefix backbone: .* holds no network under that; it has one under module\.encoder_q, module\.encoder_k/,
    );
  });

  test("BYOL: the online network", () => {
    const file = new Map([...under("target_encoder.net.", moved(theirs)), ...under("online_encoder.net.", theirs)]);
    expect(matchWeights(file, { source })).toMatchObject({ prefix: "online_encoder.net." });
  });

  test("several networks of which none follows are refused", () => {
    const file = new Map([...under("student1.", theirs), ...under("student2.", moved(theirs))]);
    expect(() => matchWeights(file, { source })).toThrow(
      /holds 2 networks, under student1, student2; choose one, such as --prefix student1/,
    );
    expect(matchWeights(file, { source, prefix: "student2." }).weights).toEqual(moved(single));
  });

  test("robustness: the same network twice, with its normaliser", () => {
    const file = new Map([
      ...under("module.model.", theirs),
      ...under("module.attacker.model.", theirs),
      ["module.normalizer.new_mean", float32([3, 1, 1], [0.5, 0.25, 0.125])] as const,
      ["module.normalizer.new_std", float32([3, 1, 1], [0.25, 0.5, 0.25])] as const,
      ["module.attacker.normalize.new_mean", float32([3, 1, 1], [0.5, 0.25, 0.125])] as const,
      ["module.attacker.normalize.new_std", float32([3, 1, 1], [0.25, 0.5, 0.25])] as const,
    ]);
    const imported = matchWeights(file, { source });
    expect(imported.prefix).toBe("module.model.");
    expect(imported.network.normalisation).toEqual({ mean: [0.5, 0.25, 0.125], std: [0.25, 0.5, 0.25] });
    expect(imported.notes).toContain("the same network lies under module.attacker.model once more");
    file.set("module.attacker.normalize.new_std", float32([3, 1, 1], [1, 1, 1]));
    expect(() => matchWeights(file, { source })).toThrow(/two normalisations that differ.*--leave-out/);
  });

  test.each([
    ["torchvision's children", { conv1: 0, bn1: 1, layer1: 4, layer2: 5, layer3: 6, layer4: 7 }],
    ["lightly's", { conv1: 0, bn1: 1, layer1: 2, layer2: 3, layer3: 4, layer4: 5 }],
    ["SimCLR's without pooling", { conv1: 0, bn1: 1, layer1: 3, layer2: 4, layer3: 5, layer4: 6 }],
  ])("an nn.Sequential: %s", (_, numbers: Record<string, number>) => {
    const numbered = renamed(theirs, (name) => name.replace(/^[^.]+/, (layer) => String(numbers[layer])));
    for (const prefix of ["", "backbone.", "f."]) {
      const imported = matchWeights(under(prefix, numbered), { source });
      expect(imported.weights).toEqual(single);
      expect(imported.notes.join()).toContain(`the network is an nn.Sequential: 0 is conv1, 1 is bn1`);
    }
  });

  test("what is no part of any network known is named with the remedy, and left out where asked", () => {
    const file = new Map([...under("net.", theirs), ...linear("net.decoder.up", 4, 4), ...linear("regions", 4, 4)]);
    expect(() => matchWeights(file, { source })).toThrow(
      /net\.decoder\.up\.weight is not of this network.*--leave-out net\.decoder\.up\.,regions\./,
    );
    const imported = matchWeights(file, { source, leaveOut: ["net.decoder.", "regions"] });
    expect(leftOut(imported)["as --leave-out asks"]).toHaveLength(4);
  });

  test("a part of the encoder is never left out", () => {
    const file = new Map([...theirs, ["layer1.0.proj.weight", zeros("float32", [2])] as const]);
    for (const leaveOut of [undefined, ["layer1.0.proj"]])
      expect(() => matchWeights(file, { source, leaveOut })).toThrow(/layer1\.0\.proj\.weight is not of this network$/);
  });

  test("other networks are refused by names that they have (ResNet-D, WideResNet)", () => {
    const deep = new Map([...theirs, ["conv1.0.weight", zeros("float32", [2, 3, 3, 3])] as const]);
    deep.delete("conv1.weight");
    expect(() => matchWeights(deep, { source })).toThrow(/no conv1\.weight but .*conv1\.0\.weight.*another stem/);
    expect(() => matchWeights(new Map(linear("block1.layer.0.conv1", 4, 4)), { source })).toThrow(
      /no conv1\.weight and layer1\.0\.conv1\.weight, under any prefix, but block1\.layer\.0\.conv1\.weight/,
    );
  });
});

describe("ACL and DynACL (row T9)", () => {
  const { weights, network } = randomNetwork({ width: 2, branches: ["normal", "pgd"] });
  const normalize: [string, Tensor][] = [
    ["normalize.mean", float32([3], [0.485, 0.456, 0.406])],
    ["normalize.std", float32([3], [0.229, 0.224, 0.225])],
  ];
  const two = (name: string) => [0, 1].flatMap((branch) => norm(`${name}.bn_list.${branch}`, 16));

  test("the normalisation is a part of the network, and comes out again", () => {
    const imported = matchWeights(new Map([...normalize, ...weights, ...head(10, 16)]), { source });
    expect(imported).toMatchObject({ network: { ...network, evaluatedBranch: "pgd" }, classes: 10, leftOut: [] });
    const { mean, std } = imported.network.normalisation ?? { mean: [], std: [] };
    expect(float32([3], mean).data).toEqual(normalize[0]![1].data);
    expect(float32([3], std).data).toEqual(normalize[1]![1].data);
    const back = authorsWeights(exported(imported));
    for (const [name, value] of normalize) expect(back.get(name)).toEqual(value);
    expect(matchWeights(back, { source }).network).toEqual(imported.network);
  });

  test("the three-layer projector under fc is head_proj; another is left out", () => {
    const layers: [string, Tensor][] = [1, 2, 3].flatMap((n): [string, Tensor][] => [
      [`fc.fc${n}.weight`, zeros("float32", [16, 16])],
      ...two(`fc.bn${n}`),
    ]);
    const whole = new Map([...normalize, ...weights, ...layers, ["fc.fc1.bias", zeros("float32", [16])] as const]);
    const imported = matchWeights(whole, { source });
    expect(imported).toMatchObject({ projector: true, classes: undefined, leftOut: [] });
    expect(imported.weights.has("head_proj.bn3.bn_list.1.running_var")).toBe(true);
    whole.delete("fc.fc3.weight");
    const other = matchWeights(whole, { source });
    expect(other.projector).toBe(false);
    expect(leftOut(other)["projector of pretraining, in the place of a classifier"]).toContain("fc.fc1.weight");
  });

  test("mean and deviation of pixels from 0 to 255 are brought to [0, 1], and of a file without, asked for", () => {
    const bytes = new Map([
      ...weights,
      ["data_preprocessor.mean", float32([3, 1, 1], [123.675, 116.28, 103.53])] as const,
      ["data_preprocessor.std", float32([3, 1, 1], [58.395, 57.12, 57.375])] as const,
    ]);
    const found = matchWeights(bytes, { source });
    expect(found.network.normalisation?.mean[0]).toBeCloseTo(0.485, 6);
    expect(found.network.normalisation?.std[2]).toBeCloseTo(0.225, 6);
    expect(found.notes.join()).toContain("of pixels from 0 to 255");
    const robustbench = new Map([
      ...under("model.", weights),
      ["mu", float32([1, 3, 1, 1], [0.5, 0.5, 0.5])] as const,
      ["sigma", float32([1, 3, 1, 1], [0.25, 0.25, 0.25])] as const,
    ]);
    expect(matchWeights(robustbench, { source }).network.normalisation).toEqual({
      mean: [0.5, 0.5, 0.5],
      std: [0.25, 0.25, 0.25],
    });
    const normalisation = { mean: [0, 0, 0], std: [1, 1, 1] };
    expect(matchWeights(weights, { source, normalisation }).network.normalisation).toEqual(normalisation);
    expect(() => matchWeights(robustbench, { source, normalisation })).toThrow(/its own normalisation \(mu, sigma\)/);
    expect(
      matchWeights(robustbench, { source, normalisation, leaveOut: ["mu", "sigma"] }).network.normalisation,
    ).toEqual(normalisation);
  });

  test("a batch norm of several under bns is one of bn_list", () => {
    const bns = renamed(weights, (name) => name.replace("bn_list", "bns"));
    expect(matchWeights(bns, { source }).weights).toEqual(weights);
  });
});
