import { finetune } from "../../train/finetune.ts";
import { defineCommand } from "../command.ts";

export const finetuneCommand = defineCommand({
  verb: finetune,
  summary: "train a classifier on an encoder, or from the start",
  description:
    "Finetunes the encoder of a run: SLF trains a linear head, ALF the same on attacked images, AFF everything by TRADES (Zhang et al. 2019). pgd-at (Madry et al. 2018), trades and standard (clean images only) train from the start, as baselines. The defaults are the papers' settings. Images are resized to the encoder's size. With --pseudo-labels the clusters of the images are the classes; the presets dynacl-head and then dynacl-trades are the two stages that turn DynACL into DynACL++ (Luo et al. 2023). The last epoch stands, or with --validation the best one on held-out training images; test images choose nothing. Writes a run folder to --out; interrupted or killed, it goes on with --resume.",
});
