import { importWeights } from "../../deploy/import.ts";
import { defineCommand } from "../command.ts";

export const importCommand = defineCommand({
  verb: importWeights,
  summary: "turn weights in PyTorch's names into a run folder",
  description:
    "Reads a safetensors file or a PyTorch checkpoint (.pt, .pth): the layout of the authors' code, with or without the module. prefix, or a single-branch ResNet in torchvision's names. Every tensor is matched; what does not fit is listed, and nothing is left random in silence. Only head_ce.*, head_pred.* and the counters num_batches_tracked may be there unused. Writes a run folder to --out, for cluster, finetune, evaluate and export.",
});
