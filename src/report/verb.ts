/** The report of a folder, as a verb. */
import { path, setting } from "../settings/schema.ts";
import { defineVerb } from "../verbs/verb.ts";
import { writeReport } from "./write.ts";

export const reportSettings = {
  from: setting(path(), "folder that a command wrote", { path: true }),
  out: setting(path().optional(), "HTML file to write; left out, report.html in that folder", {
    group: "Common settings",
    path: true,
  }),
};

export interface ReportResult {
  /** The HTML file. */
  readonly out: string;
}

/**
 * Writes the report of a run, an evaluation, a comparison or a demonstration as one HTML file that loads nothing.
 *
 * @throws RequestError where the folder is none of these
 */
export const report = defineVerb(
  { name: "report", settings: reportSettings },
  async ({ from, out }, context): Promise<ReportResult> => {
    const written = await writeReport(from, out);
    context.print(written);
    return { out: written };
  },
);
