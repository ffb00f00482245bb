/** The report of a folder, as a verb. */
import { z } from "zod";
import { path, setting } from "../settings/schema.ts";
import { defineVerb } from "../verbs/verb.ts";
import { writeReport, writeSideBySide } from "./write.ts";

export const reportSettings = {
  from: setting(path(), "folder that a command wrote; also the first word that is no flag", {
    path: true,
    operand: true,
  }),
  beside: setting(
    z.array(path()).default([]),
    "other runs and evaluations, laid beside it; also the words after the first",
    { path: true, operand: true },
  ),
  out: setting(
    path().optional(),
    "HTML file to write; left out, report.html (of several side-by-side.html) in --from",
    {
      group: "Common settings",
      path: true,
    },
  ),
};

export interface ReportResult {
  /** The HTML file. */
  readonly out: string;
}

/**
 * Writes the report of a run, an evaluation, a comparison or a demonstration as one HTML file that loads nothing; with
 * `beside`, of several runs and evaluations side by side.
 *
 * @throws RequestError where a folder is none of these
 */
export const report = defineVerb(
  { name: "report", settings: reportSettings },
  async ({ from, beside, out }, context): Promise<ReportResult> => {
    const written = beside.length === 0 ? await writeReport(from, out) : await writeSideBySide([from, ...beside], out);
    context.print(written);
    return { out: written };
  },
);
