/** Replicas in threads of one process, as users run them: the built command. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { missingApi } from "../../src/engine/native/api.ts";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { built } from "../built.ts";
import { killedAfter } from "../killed.ts";
import { available } from "../needs.ts";

const needsKoffi = available("koffi", missingApi() === undefined) ? describe : describe.skip;

const folder = mkdtempSync(join(tmpdir(), "advcl-replicas-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const main = built("src/cli/main.js");
const advcl = (args: string) => spawnSync(process.execPath, [main, ...args.split(" ")], { encoding: "utf8" });
const data = "--dataset shapes --size 16 --width 4 --workers 0 --target portable --threads 1 --limit 64 --batch 32";
/** A small attack at a low rate, as in mpi.e2e.test.ts: rounding grows from step to step. */
const pretrain = `pretrain ${data} --epochs 10 --attack-steps 1 --eps 0.001 --step-size 0.00025 --lr 0.0003 --temperature 1 --base-temperature 1 --knn-every 0 --radius 3 --no-clusters --rank-check 1`;

const lastOf = async (run: string) => {
  const last = readdirSync(join(run, "checkpoints")).sort().at(-1) ?? "";
  return (await readSafetensors(join(run, "checkpoints", last, "tensors.safetensors"))).tensors;
};
const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
/** The two weights of a batch norm (1 and 0 at first) are measured by the larger. */
const layerOf = (name: string) => name.replace(/\.(weight|bias)$/, "");

/** How far the weights of two runs are apart at most, by what each layer's are at most. */
const apart = async (one: string, other: string): Promise<number> => {
  const [expected, found] = [await lastOf(one), await lastOf(other)];
  expect([...found.keys()]).toEqual([...expected.keys()]);
  const scales = new Map<string, number>();
  for (const [name, { data: values }] of expected)
    scales.set(layerOf(name), Math.max(scales.get(layerOf(name)) ?? 0, largest(values as Float32Array)));
  const weights = [...expected].filter(([name]) => name.startsWith("param."));
  const distances = weights.map(([name, { data: values }]) => {
    const others = found.get(name)!.data as Float32Array;
    return largest((values as Float32Array).map((v, i) => v - others[i]!)) / (scales.get(layerOf(name)) || 1);
  });
  return Math.max(...distances);
};

needsKoffi("--replicas", () => {
  const [one, two] = [join(folder, "one"), join(folder, "two")];

  test("2 and 4 train as one process does, and speak once", async () => {
    expect(advcl(`${pretrain} --out ${one}`).status).toBe(0);
    for (const [run, replicas] of [
      [two, 2],
      [join(folder, "four"), 4],
    ] as const) {
      const { status, stdout, stderr } = advcl(`${pretrain} --replicas ${replicas} --out ${run} --json`);
      expect([status, stderr]).toEqual([
        0,
        expect.stringContaining(`shared by ${replicas} replicas (batch norm of all, negatives of all)`),
      ]);
      expect(stdout.trim().split("\n").length).toBe(1);
      expect(readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n").length).toBe(20);
      const distance = await apart(one, run);
      // Sums in another order: not the same run twice.
      expect([distance > 0, distance <= 1e-5]).toEqual([true, true]);
    }
  });

  test("a run that is interrupted and then killed goes on and ends with the bytes of one that was not", async () => {
    const args = `${pretrain.replace("--epochs 10", "--epochs 40")} --save-every 5 --replicas 2`;
    const [whole, run] = [join(folder, "whole"), join(folder, "killed")];
    expect(advcl(`${args} --out ${whole}`).status).toBe(0);
    expect(await killedAfter(`${args} --out ${run}`.split(" "), run, 8, "SIGINT")).toBe(130);
    const again = `${args} --out ${run} --resume`;
    expect(await killedAfter(again.split(" "), run, 40, "SIGKILL")).toBeNull();
    const { status, stderr } = advcl(again);
    expect([status, status === 0 || stderr]).toEqual([0, true]);
    expect(await apart(whole, run)).toBe(0);
  });

  test("auto is a number from the run's first step on, which a resumed run keeps", () => {
    const run = join(folder, "auto");
    const args = `${pretrain.replace("--threads 1", "--threads 2")} --replicas auto --out ${run}`;
    const begun = advcl(args);
    const count = /^--replicas auto: (\d+) \(.+\)$/m.exec(begun.stderr)?.[1];
    expect([begun.status, begun.status === 0 || begun.stderr]).toEqual([0, true]);
    expect(["1", "2"]).toContain(count);
    expect(readFileSync(join(run, "config.yaml"), "utf8")).toMatch(new RegExp(`^ {2}replicas: ${count}$`, "m"));
    const { status, stderr } = advcl(`${args.replace("--epochs 10", "--epochs 11")} --resume --override`);
    expect([status, stderr]).toEqual([0, expect.stringContaining(`--replicas auto: ${count} (as the run began)`)]);
  });

  test("finetuning shares its batches too", () => {
    const common = "--dataset shapes --limit 64 --test-limit 32 --batch 32 --epochs 1 --workers 0 --target portable";
    const run = join(folder, "finetuned");
    const { status, stderr } = advcl(`finetune --scheme aff --from ${one} ${common} --replicas 2 --out ${run}`);
    expect([status, stderr]).toEqual([0, expect.stringContaining("shared by 2 replicas")]);
  });

  test("what is wrong is said in one sentence, whichever replica met it", () => {
    const run = join(folder, "wrong");
    const odd = advcl(`${pretrain.replace("--batch 32", "--batch 30")} --replicas 4 --out ${run}`);
    expect([odd.status, odd.stderr.trim()]).toEqual([
      2,
      "error: a batch of 30 can't be shared by 4 replicas in equal parts of at least 2; choose --batch as a multiple of 4",
    ]);
    const engine = advcl(`${pretrain} --engine binding --replicas 2 --out ${run}`);
    expect([engine.status, engine.stderr.trim().split("\n").length]).toEqual([2, 1]);
    expect(engine.stderr).toContain("--replicas");
  });
});
