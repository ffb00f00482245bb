import { evaluate } from "../../evaluate/evaluate.ts";
import { defineCommand } from "../command.ts";

export const evaluateCommand = defineCommand({
  verb: evaluate,
  summary: "accuracy of a classifier on clean, attacked and corrupted images",
  description:
    "Attacks: clean, fgsm, pgdN (pgd20), apgd-ce, apgd-dlr, apgd-t, fab-t, square, autoattack (its standard version), corruptions. Each runs on the images that the model gets right. Images are in [0, 1]. With --out the results are files too, and a killed evaluation goes on with --resume.",
});
