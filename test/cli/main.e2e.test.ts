import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { beforeAll, describe, expect, test } from "@jest/globals";
import { built } from "../built.ts";

/** Runs a program and gives back what it wrote and how it ended; `act` is called with its first output. */
const start = async (args: string[], act?: (kill: (signal: NodeJS.Signals) => void) => void) => {
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (text) => {
    stdout += text;
  });
  child.stderr.on("data", (text) => {
    stderr += text;
  });
  if (act) child.stdout.once("data", () => act((signal) => child.kill(signal)));
  const [code, signal] = await once(child, "close");
  return { code, signal, stdout, stderr };
};

const advcl = (...args: string[]) => start([built("src/cli/main.js"), ...args]);

describe("requests that are wrong exit with 2 and one sentence", () => {
  test.each([
    [["confg"], 'there is no command "confg"; did you mean config?'],
    [["frobnicate"], 'there is no command "frobnicate"; see advcl --help'],
    [["constructor"], 'there is no command "constructor"; see advcl --help'],
    [["--json", "config"], "the command comes before --json: write advcl COMMAND --json"],
    [["config"], "advcl config needs a command: write advcl config COMMAND [--setting value …]"],
    [["config", "confg"], 'there are no settings of "confg", which is no command; see advcl --help'],
  ])("%j", async (args, message) => {
    expect(await advcl(...args)).toEqual({ code: 2, signal: null, stdout: "", stderr: `error: ${message}\n` });
  });
});

test("--debug shows the stack", async () => {
  const { code, stderr } = await advcl("config", "--debug");
  expect(code).toBe(2);
  expect(stderr).toMatch(/^error: advcl config needs a command: .*\nRequestError: .*\n {4}at /);
});

test("--help, --version and no command at all", async () => {
  const help = await advcl("--help");
  expect(help).toMatchObject({ code: 0, stderr: "" });
  expect(help.stdout).toMatch(/config +print all settings of a command as YAML/);
  expect(await advcl("help")).toEqual(help);
  expect(await advcl()).toEqual(help);
  const { version } = JSON.parse(await readFile(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  expect(await advcl("--version")).toMatchObject({ code: 0, stdout: `${version}\n` });
  expect((await advcl("config", "--help")).stdout).toContain("Usage: advcl config COMMAND");
});

test("--version after any command, and -v", async () => {
  const version = await advcl("--version");
  expect(await advcl("-v")).toEqual(version);
  expect(await advcl("pretrain", "--version")).toEqual(version);
  expect(await advcl("doctor", "--label", "--", "--version")).toMatchObject({ code: 2 });
});

describe("completion", () => {
  let script = "";
  beforeAll(async () => {
    ({ stdout: script } = await advcl("completion", "bash"));
  });
  const complete = async (...words: string[]): Promise<string[]> => {
    const asked = words.map((word) => `'${word}'`).join(" ");
    const program = `${script}\nCOMP_WORDS=(advcl ${asked}); COMP_CWORD=${words.length}; _advcl; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const child = spawn("bash", ["-c", program], { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    child.stdout.on("data", (part) => {
      text += part;
    });
    await once(child, "close");
    return text.split("\n").filter((line) => line !== "");
  };

  test.each([
    [["pre"], ["pretrain"]],
    [["config", "fine"], ["finetune"]],
    [["pretrain", "--attack-s"], ["--attack-steps"]],
    [
      ["pretrain", "--method", "acl"],
      ["acl", "acl-air"],
    ],
    [["pretrain", "--method", "simclr", "--no-clu"], ["--no-clusters"]],
    [["config", "evaluate", "--no-at"], ["--no-attacks"]],
    [["compare", "--config", "two-"], ["two-cores"]],
    [["evaluate", "--eps", ""], []],
  ])("of %j in bash", async (words, expected) => {
    expect((await complete(...words)).sort()).toEqual([...expected].sort());
  });

  test("is there for zsh and fish, and refused for others", async () => {
    expect((await advcl("completion", "zsh")).stdout).toContain("bashcompinit");
    const { stdout } = await advcl("completion", "fish");
    expect(stdout).toMatch(
      /^complete -c advcl -n '__fish_seen_subcommand_from pretrain' -l method .* -x -a 'advcl simclr /m,
    );
    expect(await advcl("completion", "tcsh")).toMatchObject({
      code: 2,
      stderr: "error: advcl completion needs the name of a shell: write advcl completion bash|zsh|fish\n",
    });
  });
});

test("a command that never returns, with nothing pending, is a fault and not exit code 0", async () => {
  // The program is loaded and no command ever calls back, as where a promise never settles.
  const program = `await import(${JSON.stringify(pathToFileURL(built("src/cli/program.js")).href)})`;
  const { code, stderr } = await start(["--input-type=module", "-e", program]);
  expect([code, stderr.split("\n")[0]]).toEqual([
    1,
    "error: internal: the command ended before its work was done; this is a fault of advcl: run it again with --debug and report what it prints",
  ]);
});

test("a stderr that nobody reads any more ends no training", async () => {
  const folder = mkdtempSync(join(tmpdir(), "advcl-streams-"));
  const args = [
    ...[built("src/cli/main.js"), "pretrain", "--out", join(folder, "run"), "--json"],
    ..."--dataset shapes --limit 8 --size 16 --width 2 --batch 8 --attack-steps 1 --knn-every 0".split(" "),
    ..."--radius 3 --no-clusters --epochs 1 --workers 0 --threads 1 --target portable".split(" "),
  ];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  child.stderr.destroy();
  let stdout = "";
  child.stdout.on("data", (text) => {
    stdout += text;
  });
  const [code] = await once(child, "close");
  rmSync(folder, { recursive: true });
  expect([code, JSON.parse(stdout).steps]).toEqual([0, 1]);
});

describe("signals", () => {
  const script = fileURLToPath(new URL("../fixtures/interrupted-command.mjs", import.meta.url));
  const dist = () => dirname(dirname(dirname(built("src/cli/main.js"))));

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("%s lets the step finish and exits with %d", async (signal, code) => {
    expect(await start([script, dist()], (kill) => kill(signal))).toEqual({
      code,
      signal: null,
      stdout: "ready\nsaved\n",
      stderr: "warning: stopping after this step; a second signal stops at once\n",
    });
  });

  test("the second one kills", async () => {
    const result = await start([script, dist(), "--hang"], (kill) => {
      kill("SIGINT");
      setTimeout(() => kill("SIGINT"), 200);
    });
    expect(result).toMatchObject({ signal: "SIGINT", stdout: "ready\n" });
  });
});
