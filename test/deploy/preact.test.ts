/** Pre-activation networks in and out: names of the usual codes, and exports whose lone batch norms are products and sums. */
import { describe, expect, test } from "@jest/globals";
import { parseModel } from "../../graphs/onnx/parse.ts";
import { type Tensor, zeros } from "../../graphs/onnx/tensor.ts";
import { loadDataset } from "../../src/data/dataset.ts";
import { torchvisionWeights } from "../../src/deploy/export-layout.ts";
import { matchWeights } from "../../src/deploy/import/match.ts";
import { buildExport, precisions } from "../../src/deploy/model.ts";
import { runReference } from "../../src/deploy/reference.ts";
import { deployedOptions, type Source, sourceOf } from "../../src/deploy/source.ts";
import { createSession } from "../../src/engine/session.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { imageBatch } from "../../src/models/images.ts";
import type { LoadedRun } from "../../src/runs/network.ts";
import { relativeError } from "../graphs/run.ts";
import { head, randomNetwork } from "./networks.ts";

const source = "theirs.safetensors";

/** A network that PyTorch wrote (scripts/fixtures/preact_networks.py). */
const fixture = async (name: string): Promise<Map<string, Tensor>> => {
  const file = new URL(`../fixtures/networks/${name}.safetensors`, import.meta.url).pathname;
  const { tensors } = await readSafetensors(file);
  return new Map([...tensors].filter(([key]) => !key.startsWith("test.")));
};

describe.each(["wide-resnet", "preact-resnet"] as const)("%s", (arch) => {
  const depth = arch === "wide-resnet" ? 10 : 18;

  test("comes in by its usual names, under a prefix too, and goes out by the same, with the same values", async () => {
    const theirs = await fixture(arch);
    const imported = matchWeights(new Map([...theirs].map(([name, value]) => [`module.${name}`, value])), { source });
    expect(imported).toMatchObject({ network: { arch, stem: "cifar", size: 32 }, classes: 3, prefix: "module." });
    const tensors = new Map([...imported.extras].map(([name, value]) => [`extra.${name}`, value]));
    const run = { checkpoint: { step: 0, tensors } } as unknown as LoadedRun;
    const { network, weights } = imported;
    expect(torchvisionWeights({ network, weights, branch: undefined, run }, true)).toEqual(theirs);
  });

  test("is exported with each branch as its run has it, in plain ops without batch norms", async () => {
    const { network, weights } = randomNetwork({ arch, depth, width: 8, size: 16 });
    const features = arch === "wide-resnet" ? 32 : 64;
    for (const [name, value] of head(3, features)) weights.set(name, value);
    const images = imageBatch(await loadDataset({ name: "shapes", split: "test", limit: 16, size: 16 }), 0, 16);
    for (const branch of ["normal", "pgd"]) {
      const from: Pick<Source, "network" | "weights" | "branch" | "classes"> = sourceOf(
        network,
        weights,
        branch,
        "run",
      );
      const options = {
        ...deployedOptions(from, "classifier", "run"),
        ...({ precision: "fp32", io: "float32", preprocess: false, metadata: {} } as const),
      };
      const calibration = await loadDataset({ name: "shapes", split: "train", limit: 16, size: 16 });
      const expected = await runReference({ ...from, folder: "run" }, "classifier", images);
      for (const precision of branch === "pgd" ? precisions : (["fp32"] as const)) {
        const { bytes } = await buildExport({ ...options, precision }, weights, from.branch?.index, calibration);
        const session = await createSession(bytes);
        const { logits } = await session.run({ image: images });
        await session.release();
        expect(relativeError(logits?.data as Float32Array, expected)).toBeLessThan(
          { fp32: 3e-6, fp16: 5e-3, int8: 0.12 }[precision],
        );
        const ops = parseModel(bytes).nodes.map(({ op }) => op);
        expect(ops).not.toContain("BatchNormalization");
      }
    }
  });
});

test("a stage that TRADES' WideResNet holds without use is left out, and said", async () => {
  const theirs = await fixture("wide-resnet");
  const unused = [...theirs].filter(([name]) => name.startsWith("block1."));
  const { leftOut } = matchWeights(
    new Map([...theirs, ...unused.map(([name, value]) => [`sub_${name}`, value] as const)]),
    {
      source,
    },
  );
  expect(leftOut).toEqual([
    { rule: "a stage that TRADES' code holds and does not use", names: unused.map(([name]) => `sub_${name}`) },
  ]);
});

test("what is no such network is refused by what it has", async () => {
  const wide = await fixture("wide-resnet");
  const short = new Map([...wide].filter(([name]) => !name.startsWith("block2.layer.1.")));
  expect(() => matchWeights(short, { source })).toThrow(/its stages have 2, 1, 2 blocks; give weights of a ResNet-18/);
  const preact = await fixture("preact-resnet");
  const bare = new Map([...preact].filter(([name]) => !name.startsWith("bn.")));
  expect(() => matchWeights(bare, { source })).toThrow(/PreAct-ResNet without a batch norm after its blocks/);
  const large = new Map(preact).set("conv1.weight", zeros("float32", [2, 3, 7, 7]));
  expect(() => matchWeights(large, { source })).toThrow(/PreAct-ResNet-18 begins with a 3×3 convolution/);
});
