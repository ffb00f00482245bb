import { harden } from "../../train/harden.ts";
import { defineCommand } from "../command.ts";

export const hardenCommand = defineCommand({
  verb: harden,
  summary: "make an ONNX classifier from elsewhere robust on your own images",
  description:
    "Finetunes a classifier in an ONNX file by TRADES or adversarial training (PGD-AT) on labelled images, and writes it back as the same file: only the weights change; names, inputs, outputs and versions stay, so that it loads wherever it did. Weights are the float32 initializers of convolutions, linear layers, normalisations and what is added or multiplied after them; batch norms keep their statistics. An op that cannot be differentiated is refused by name before anything runs. Accuracy on test images, clean and under PGD, is printed before and after. Figures and checkpoints go to the folder OUT.run; interrupted or killed, it goes on with --resume.",
});
