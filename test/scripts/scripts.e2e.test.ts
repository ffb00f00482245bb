import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { built } from "../built.ts";

const folder = new URL("../../scripts/", import.meta.url);
/** The programs among scripts: modules read no flags. */
const programs = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter(
  (name) => name.endsWith(".ts") && readFileSync(new URL(name, folder), "utf8").includes("readFlags(import.meta.url"),
);
const run = (name: string, ...args: string[]) => {
  const program = built(`scripts/${name.replace(/\.ts$/, ".js")}`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
};

test("every script says what it does with --help", () => {
  expect(programs).toContain("parity/check-ops.ts");
  for (const name of programs) {
    const { status, stdout, stderr } = run(name, "--help");
    expect({ name, status, stderr }).toEqual({ name, status: 0, stderr: "" });
    expect(stdout).toMatch(new RegExp(`^\\w.*dist/scripts/${name.replace(/\.ts$/, ".js")}`, "s"));
    expect(stdout).not.toMatch(/^ \*|\*\/|import /m);
  }
});

test("what a script is asked wrongly is one sentence", () => {
  const refused = (stderr: string) => ({ status: 2, stdout: "", stderr: `error: ${stderr}\n` });
  expect(run("parity/golden-step.ts", "--frobnicate")).toEqual(
    refused("Unknown option '--frobnicate'; see golden-step.js --help"),
  );
  expect(run("parity/golden-step.ts", "--threads")).toEqual(
    refused("Option '--threads <value>' argument missing; see golden-step.js --help"),
  );
  expect(run("parity/golden-step.ts", "--threads", "two")).toEqual(
    refused('--threads is "two" but must be a number; see golden-step.js --help'),
  );
  expect(run("parity/golden-step.ts", "cpu")).toEqual(refused("Unexpected argument 'cpu'; see golden-step.js --help"));
  expect(run("parity/compare-runtimes.ts")).toEqual(refused("give --from RUN"));
  expect(run("parity/compare-foreign.ts", "no-such-folder")).toEqual(
    refused("cannot use no-such-folder: it does not exist; check the path"),
  );
});
