import { pretrain } from "../../train/pretrain.ts";
import { defineCommand } from "../command.ts";

export const pretrainCommand = defineCommand({
  verb: pretrain,
  summary: "train an encoder without labels so that it stays robust",
  description:
    "Adversarial contrastive pretraining: AdvCL (Fan et al. 2021) and its rivals. The defaults are the settings of the method's paper (those shown are AdvCL's; advcl config pretrain --method NAME prints all). Writes a run folder to --out; interrupted or killed, it goes on with --resume.",
});
