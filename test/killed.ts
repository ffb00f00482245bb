import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { built } from "./built.ts";

/**
 * Starts a command and kills it once the metrics of its run have `lines` lines. The run must have many more steps to go
 * than that, for it goes on while this process looks.
 *
 * @param args of `advcl`
 * @param run folder whose metrics.jsonl is looked at
 * @returns its exit code, null where the signal ended it
 */
export const killedAfter = async (
  args: readonly string[],
  run: string,
  lines: number,
  signal: NodeJS.Signals,
): Promise<number | null> => {
  const child = spawn("node", [built("src/cli/main.js"), ...args], { stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child.on("exit", () => resolve()));
  const written = async () => (await readFile(join(run, "metrics.jsonl"), "utf8").catch(() => "")).split("\n").length;
  while (child.exitCode === null && (await written()) <= lines) await sleep(2);
  child.kill(signal);
  await ended;
  return child.exitCode;
};
