import { join } from "node:path";
import { writeFileAtomic } from "../files/atomic.ts";
import { reportFile, sideBySideFile } from "./files.ts";

export { reportFile, resultsFile } from "./files.ts";

/** Writes the report of a folder into it, or to `out`, and returns where it is. What draws charts is loaded only now. */
export const writeReport = async (folder: string, out: string = join(folder, reportFile)): Promise<string> => {
  const { reportOf } = await import("./report.ts");
  await writeFileAtomic(out, await reportOf(folder));
  return out;
};

/** Writes the report of several folders side by side, into the first or to `out`, and returns where it is. */
export const writeSideBySide = async (
  folders: readonly [string, ...string[]],
  out: string = join(folders[0], sideBySideFile),
): Promise<string> => {
  const { reportOfSeveral } = await import("./report.ts");
  await writeFileAtomic(out, await reportOfSeveral(folders));
  return out;
};
