import { writeReport } from "../../report/write.ts";
import { defineCommand } from "../command.ts";

export const report = defineCommand({
  name: "report",
  summary: "write what a folder holds as one HTML page: curves, tables, settings",
  description:
    "The report of a run of pretrain or finetune, of an evaluation or of a comparison, as one HTML file that loads nothing. These commands write it at their end too; of a run that still goes on it shows how far it is.",
  settings: {
    from: { type: "path", required: true, help: "folder that a command wrote" },
    out: { type: "path", help: "HTML file to write; left out, report.html in that folder", group: "Common settings" },
  },
  run: async ({ from, out }, context) => {
    const path = await writeReport(from, out);
    context.print(path);
    context.result({ out: path });
  },
});
