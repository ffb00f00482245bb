/** Short forms of the trials in scripts/reliability. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { contentOf, differing } from "../../scripts/reliability/content.ts";
import { built } from "../built.ts";

const folder = mkdtempSync(join(tmpdir(), "advcl-reliability-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a trial ends with: its exit code, and the JSON object of its last line. */
const trial = (name: string, ...args: string[]) => {
  const program = built(`scripts/reliability/${name}.js`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: "utf8" });
  return { status, stderr, result: JSON.parse(stdout.trim().split("\n").at(-1) ?? "") };
};

// Pretraining, finetuning and hardening are killed in tests of their own.
test("an evaluation, a clustering and a comparison that are killed end with the same bytes (short form)", () => {
  const { status, result } = trial("kills", "--count", "1", "--seed", "3", "--commands", "evaluate,cluster,compare");
  expect([status, result.faults]).toEqual([0, []]);
  for (const name of ["evaluate", "cluster", "compare"]) {
    expect(result.commands[name].kills).toBeGreaterThanOrEqual(1);
    expect(result.commands[name].ended).toBeGreaterThanOrEqual(1);
  }
});

(process.platform === "linux" ? test : test.skip)(
  "a full disk, a read-only one, a folder for the lock and few open files are sentences of the user's (short form)",
  () => {
    const names = [
      "full-disk",
      "read-only",
      "a-folder-for-the-lock",
      "files-48",
      "files-128",
      "results-to-a-full-device",
    ];
    const { status, result } = trial("faults", "--only", names.join(","));
    expect([status, result.faults]).toEqual([0, []]);
    expect(result.tried["files-128"].code).toBe(0);
    expect([...Object.keys(result.tried), ...result.untried].sort()).toEqual([...names].sort());
    // What needs a namespace of its own may be forbidden here; the others may not.
    expect(result.untried.filter((name: string) => !["full-disk", "read-only"].includes(name))).toEqual([]);
    if (result.untried.length === 0)
      expect(result.tried["full-disk"].said).toContain("the disk is full; free some space");
  },
);

test("the page's server withstands strangers (short form)", () => {
  const { status, result } = trial("page-attacks", "--downloads", "20", "--idle", "20");
  expect([status, result.faults]).toEqual([0, []]);
  expect(result.attacks).toBeGreaterThan(60);
});

const tiny =
  "pretrain --dataset shapes --limit 64 --size 16 --width 4 --batch 32 --attack-steps 1 --knn-every 0 --radius 3 --no-clusters --lr 0.05 --epochs 1";

test.each(["binding", "native"])("nothing is written outside of the output folder, nor sent (%s)", (engine) => {
  const elsewhere = mkdtempSync(join(folder, "elsewhere-"));
  // As a user has it: without what keeps onnxruntime from reporting home, or makes it think that it is tested.
  const { ORT_DISABLE_TELEMETRY, ORT_RUNNING_UNIT_TESTS, CI, ...env } = process.env;
  const [program, out] = [built("src/cli/main.js"), join(folder, `inside-${engine}`)];
  const args = [...tiny.split(" "), "--workers", "1", "--engine", engine, "--out", out];
  const { status } = spawnSync(process.execPath, [program, ...args], {
    cwd: elsewhere,
    env: { ...env, HOME: elsewhere, XDG_CACHE_HOME: elsewhere, TMPDIR: elsewhere, NODE_ENV: "production" },
  });
  expect([status, readdirSync(elsewhere)]).toEqual([0, []]);
});

test("threads and workers make no difference to a run's bytes", async () => {
  const run = async (name: string, threads: string, workers: string) => {
    const out = join(folder, name);
    const more = ["--threads", threads, "--workers", workers, "--out", out];
    const { status } = spawnSync("node", [built("src/cli/main.js"), ...tiny.split(" "), ...more]);
    expect([status, readFileSync(join(out, "metrics.jsonl"), "utf8").split("\n").length]).toEqual([0, 3]);
    return contentOf(out);
  };
  const [one, three] = [await run("one", "1", "0"), await run("three", "3", "2")];
  expect([...one.keys()].sort()).toEqual([
    "OUT/checkpoints/000002/state.json",
    "OUT/checkpoints/000002/tensors.safetensors",
    "OUT/metrics.jsonl",
    "OUT/portrait.json",
  ]);
  expect(differing(one, three)).toEqual([]);
});
