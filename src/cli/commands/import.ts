import { importWeights } from "../../deploy/import.ts";
import { defineCommand } from "../command.ts";

export const importCommand = defineCommand({
  verb: importWeights,
  summary: "turn weights in PyTorch's names into a run folder",
  description:
    "Reads a safetensors file or a PyTorch checkpoint (.pt, .pth) of a ResNet-18, -34 or -50, a PreAct-ResNet-18 or -34 (with batch norm before its pooling) or a WideResNet. The network is found under whatever prefix its names have (module., backbone., encoder_q., an nn.Sequential's numbers), in the layouts that the authors, ACL, DynACL, RoCL, solo-learn, lightly, MoCo, timm, torchvision, TRADES and RobustBench write; which dictionary and which prefix were taken is told, and where several would do, --key and --prefix choose. A normalisation that lies inside (normalize.mean) becomes a part of the network; where it doesn't, --mean and --std give it. Every tensor is matched, or left out by a rule that is printed (projectors, queues, momentum copies, --leave-out); what does not fit is listed, and nothing is left random in silence. Writes a run folder to --out, for cluster, finetune, evaluate and export.",
});
