import { smoke } from "../../smoke/smoke.ts";
import { defineCommand } from "../command.ts";

export const smokeCommand = defineCommand({
  verb: smoke,
  summary: "a whole training in under a minute, for continuous integration",
  description:
    "One golden step beside PyTorch's values, then AdvCL pretraining, finetuning under attack, export as ONNX and attacks on that file, on built-in images or a few of your own. Exit code 1 where the step differs, the exported file answers otherwise than the classifier that was trained, or one of the conditions does not hold: --require replaces the usual ones. Figures: loss (first, best, last), knnAccuracy, accuracy, exportedAccuracy, robustAccuracy (PGD-20), apgdAccuracy.",
});
