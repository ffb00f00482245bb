/** An evaluation whose attacks run in threads, asked to stop in the midst of them: it says so, keeps what it has, and goes on. */
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, jest, test } from "@jest/globals";
import { built } from "../built.ts";

jest.setTimeout(300_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-interrupted-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const args = (out: string, ...more: readonly string[]): string[] => [
  built("src/cli/main.js"),
  ..."evaluate --model cifar10-robust --dataset shapes --match-classes position --limit 128 --batch 128 --threads 2 --provider cpu".split(
    " ",
  ),
  ..."--attacks clean,square --queries 600 --json --out".split(" "),
  ...[out, ...more],
];

/** Runs it and asks it to stop while Square is under way. */
const interrupted = (out: string) =>
  new Promise<{ readonly code: number | null; readonly signal: string | null; readonly said: string }>((done) => {
    const child = spawn("node", args(out), { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    let asked = false;
    child.stderr.on("data", (text: Buffer) => {
      said += text;
      if (asked || !said.includes("square: ")) return;
      asked = true;
      setTimeout(() => child.kill("SIGINT"), 400);
    });
    child.on("close", (code, signal) => done({ code, signal, said }));
  });

test("threads end their attacks before they end, and --resume finds what a run as a whole finds", async () => {
  const [whole, stopped] = [join(folder, "whole"), join(folder, "stopped")];
  const { code, signal, said } = await interrupted(stopped);
  expect([code, signal]).toEqual([130, null]);
  expect(said.trimEnd()).toMatch(/stopped; go on with --resume$/);
  const resultOf = (run: { readonly status: number | null; readonly stdout: string }) => {
    expect(run.status).toBe(0);
    return JSON.parse(run.stdout.trim().split("\n").at(-1) as string).attacks;
  };
  const resumed = resultOf(spawnSync("node", args(stopped, "--resume"), { encoding: "utf8" }));
  expect(resumed).toEqual(resultOf(spawnSync("node", args(whole), { encoding: "utf8" })));
});
