import { compare } from "../../compare/compare.ts";
import { defineCommand } from "../command.ts";

export const compareCommand = defineCommand({
  verb: compare,
  summary: "methods under one budget: pretrain, finetune and attack each with several seeds",
  description:
    "Pretrains every method with every seed under the same budget, finetunes by every scheme, and prints one table, in a report too: accuracy on clean test images (SA), under PGD-20 (RA) and, where asked, under AutoAttack (AA), mean and spread over the seeds. Results are kept in --out as they come; the same command goes on where it was stopped.",
});
