import { step } from "../../train/step.ts";
import { defineCommand } from "../command.ts";

export const stepCommand = defineCommand({
  verb: step,
  summary: "one AdvCL step on given weights and a given batch, for comparisons",
  description:
    "Runs one pretraining step on tensors from files and writes everything it computed: metric.*, attack.*, grad.* and after.* of every parameter and running statistic.",
});
