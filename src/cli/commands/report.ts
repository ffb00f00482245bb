import { report } from "../../report/verb.ts";
import { defineCommand } from "../command.ts";

export const reportCommand = defineCommand({
  verb: report,
  summary: "write what a folder holds as one HTML page: curves, tables, settings",
  description:
    "The report of a run of pretrain or finetune, of an evaluation or of a comparison, as one HTML file that loads nothing. Of several folders (advcl report A B C) the last figures with their intervals, curves on shared axes and the settings that differ, side by side. These commands write it at their end too; of a run that still goes on it shows how far it is.",
});
