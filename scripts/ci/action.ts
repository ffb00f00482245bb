/**
 * What action.yml runs: an advcl command, its results as the step's outputs and as a table in the job's summary.
 *
 *   ADVCL_COMMAND=smoke ADVCL_ARGS=$'--threads 2\n--require knnAccuracy>0.3' node dist/scripts/ci/action.js
 *
 * Each line of ADVCL_ARGS is a flag, or a flag and its value, parted by the first space; nothing in it is read by a shell.
 * Outputs (GITHUB_OUTPUT): result, the line of JSON, and exit-code, which is also that of this script.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../src/version.ts";
import { readFlags } from "../flags.ts";

readFlags(import.meta.url, {});
const { ADVCL_COMMAND: command = "smoke", ADVCL_ARGS: lines = "", GITHUB_OUTPUT, GITHUB_STEP_SUMMARY } = process.env;

const args = lines.split("\n").flatMap((line) => {
  const [, flag, value] = /^(\S+)(?:\s+(.*))?$/.exec(line.trim()) ?? [];
  return flag === undefined ? [] : value === undefined ? [flag] : [flag, value.trim()];
});

/** Runs the command; its output goes on as it comes, and is kept. */
const run = async (): Promise<{ code: number; stdout: string; stderr: string }> => {
  const main = join(packageRoot, "dist", "src", "cli", "main.js");
  const child = spawn(process.execPath, [main, command, ...args, "--json"], { stdio: ["ignore", "pipe", "pipe"] });
  const kept = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => {
      kept[name] += text;
      process[name].write(text);
    });
  const [code] = (await once(child, "close")) as [number | null];
  return { code: code ?? 1, ...kept };
};

const meanings = ["all is well", "the run failed", "the request is wrong", "a condition does not hold"];

interface Verdict {
  readonly condition: string;
  readonly flag: string;
  readonly left: number;
  readonly right: number;
  readonly met: boolean;
}

/** A table of how conditions came out, or what the command said. */
const summaryOf = (code: number, result: string, stderr: string): string => {
  const { conditions, verdicts } = (result === "" ? {} : JSON.parse(result)) as Record<string, Verdict[] | undefined>;
  const rows = (conditions ?? verdicts ?? []).map(
    ({ condition, flag, left, right, met }) =>
      `| ${met ? "✓" : "✗"} | ${flag} | \`${condition}\` | ${left.toPrecision(4)} | ${right.toPrecision(4)} |`,
  );
  const table = ["| | | condition | is | against |", "| --- | --- | --- | --- | --- |", ...rows].join("\n");
  const said = stderr.split("\n").filter((line) => /^(error|failed|warning): /.test(line));
  return [
    `### advcl ${command}: ${meanings[code] ?? `exit code ${code}`}`,
    ...(rows.length > 0 ? [table] : []),
    ...(said.length > 0 ? [`\`\`\`\n${said.join("\n")}\n\`\`\``] : []),
  ].join("\n\n");
};

const { code, stdout, stderr } = await run();
const last = stdout.trim().split("\n").at(-1) ?? "";
const result = last.startsWith("{") ? last : "";
if (GITHUB_OUTPUT) appendFileSync(GITHUB_OUTPUT, `result=${result}\nexit-code=${code}\n`);
if (GITHUB_STEP_SUMMARY) appendFileSync(GITHUB_STEP_SUMMARY, `${summaryOf(code, result, stderr)}\n`);
process.exitCode = code;
