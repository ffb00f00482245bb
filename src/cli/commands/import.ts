import type { Tensor } from "../../../graphs/onnx/tensor.ts";
import { importWeights } from "../../deploy/import-layout.ts";
import { RequestError } from "../../errors.ts";
import { readSafetensors } from "../../files/safetensors.ts";
import { readTorchFile } from "../../files/torch-file.ts";
import { networkRecord } from "../../runs/network.ts";
import { defineCommand } from "../command.ts";

export const importCommand = defineCommand({
  name: "import",
  summary: "turn weights in PyTorch's names into a run folder",
  description:
    "Reads a safetensors file or a PyTorch checkpoint (.pt, .pth): the layout of the authors' code, with or without the module. prefix, or a single-branch ResNet in torchvision's names. Every tensor is matched; what does not fit is listed, and nothing is left random in silence. Only head_ce.*, head_pred.* and the counters num_batches_tracked may be there unused. Writes a run folder to --out, for cluster, finetune, evaluate and export.",
  settings: {
    from: { type: "path", required: true, help: "safetensors, .pt or .pth file" },
    size: { type: "integer", min: 8, max: 1024, help: "side of the images (default: 32, with a 7×7 stem 224)" },
    branches: { type: "strings", help: "names of the batch-norm branches in order (default: normal, pgd, pgd_ce)" },
    branch: { type: "string", help: "branch that finetuning and evaluation take (default: pgd)" },
    dataset: { type: "string", help: "dataset that the weights were trained on, to be recorded" },
    method: { type: "string", help: "method that the weights were trained by, to be recorded" },
  },
  run: async (settings, context) => {
    const { from } = settings;
    const isSafetensors = /\.safetensors$/i.test(from);
    const file = isSafetensors ? await readSafetensors(from) : { tensors: await readTorchFile(from), metadata: {} };
    if (file.tensors.size === 0) throw new RequestError(`${from} holds no tensors; give the file of a network`);
    const imported = importWeights(file.tensors, { ...settings, source: from });
    const { network, weights, statistics, extras, clusters, classes } = imported;
    const run = await context.openRun();
    const tensors = new Map<string, Tensor>(
      Array.from(weights, ([name, value]) => [`${statistics.has(name) ? "state" : "param"}.${name}`, value] as const),
    );
    for (const [name, value] of extras) tensors.set(`extra.${name}`, value);
    await run.save({
      epoch: 0,
      step: 0,
      state: {
        network: networkRecord(network),
        clusters,
        source: from,
        metadata: file.metadata,
      },
      tensors,
    });
    const unused = [...extras.keys()].filter((name) => !name.endsWith("num_batches_tracked"));
    const parts = [
      `ResNet-${network.depth} of width ${network.width}`,
      network.branches === undefined ? "one batch-norm branch" : `branches ${network.branches.join(", ")}`,
      ...(imported.projector ? ["projector"] : []),
      ...(clusters.length > 0 ? [`clustering heads of ${clusters.join(", ")}`] : []),
      ...(classes === undefined ? [] : [`classifier of ${classes} classes`]),
    ];
    context.print(`${run.path}: ${weights.size} of ${weights.size} tensors matched: ${parts.join("; ")}`);
    if (unused.length > 0) context.log(`kept but not used: ${unused.join(", ")}`);
    context.result({ out: run.path, matched: weights.size, unused, clusters, classes: classes ?? null, ...network });
  },
});
