/** Training over MPI as users run it: mpirun starts the built command. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, test } from "@jest/globals";
import { readSafetensors } from "../../src/files/safetensors.ts";
import { built } from "../built.ts";
import { available } from "../needs.ts";

const version = spawnSync("mpirun", ["--version"], { encoding: "utf8" });
const needsMpi = available("mpi", version.stdout?.includes("Open MPI") ?? false) ? describe : describe.skip;

const folder = mkdtempSync(join(tmpdir(), "advcl-mpi-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const env = { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" };
const main = built("src/cli/main.js");
const data = "--dataset shapes --size 16 --width 2 --workers 0 --target portable --threads 1";
const pretrain = `pretrain ${data} --limit 64 --batch 32 --attack-steps 1 --lr 0.05 --knn-every 0 --radius 3 --no-clusters`;
const ranksOf = (ranks: number): string[] => (ranks === 1 ? [] : ["mpirun", "--oversubscribe", "-np", String(ranks)]);
const advcl = (ranks: number, args: string) => {
  const [program = "", ...rest] = [...ranksOf(ranks), process.execPath, main, ...args.split(" ")];
  return spawnSync(program, rest, { encoding: "utf8", env });
};
const lastCheckpoint = async (run: string) => {
  const last = readdirSync(join(run, "checkpoints")).sort().at(-1) ?? "";
  return (await readSafetensors(join(run, "checkpoints", last, "tensors.safetensors"))).tensors;
};

/** Starts two ranks that train for long, and does something to the second once a checkpoint is there. */
const disturbed = async (args: string, run: string, signal: NodeJS.Signals) => {
  const [program = "", ...rest] = [...ranksOf(2), process.execPath, main, ...args.split(" ")];
  const child = spawn(program, rest, { stdio: ["ignore", "ignore", "pipe"], env });
  let errors = "";
  child.stderr.on("data", (text: Buffer) => {
    errors += text.toString();
  });
  const ended = new Promise<void>((resolve) => child.on("exit", () => resolve()));
  const steps = () => (existsSync(join(run, "metrics.jsonl")) ? readFileSync(join(run, "metrics.jsonl"), "utf8") : "");
  while (child.exitCode === null && steps().split("\n").length < 8) await sleep(10);
  const ranks = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim().split(" ").map(Number);
  const second = ranks.find((pid) =>
    readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes("OMPI_COMM_WORLD_RANK=1"),
  );
  process.kill(second ?? Number.NaN, signal);
  await ended;
  return { code: child.exitCode, errors };
};

needsMpi("several ranks", () => {
  test("2 and 4 ranks train a linear head as one does, and speak once", async () => {
    const encoder = join(folder, "encoder");
    expect(advcl(1, `${pretrain} --epochs 1 --out ${encoder}`).status).toBe(0);
    const finetune = `finetune --scheme slf --from ${encoder} --dataset shapes --limit 320 --test-limit 32 --batch 32 --epochs 2 --lr 0.1 --workers 0 --threads 1 --target portable --json`;
    expect(advcl(1, `${finetune} --out ${join(folder, "head1")}`).status).toBe(0);
    const one = await lastCheckpoint(join(folder, "head1"));
    for (const ranks of [2, 4]) {
      const run = join(folder, `head${ranks}`);
      const { status, stdout, stderr } = advcl(ranks, `${finetune} --out ${run}`);
      expect([status, stderr]).toEqual([0, expect.stringContaining(`shared by ${ranks} ranks`)]);
      expect(stdout.trim().split("\n").length).toBe(1);
      expect(JSON.parse(stdout).steps).toBe(20);
      const several = await lastCheckpoint(run);
      expect([...several.keys()]).toEqual([...one.keys()]);
      let trained = 0;
      for (const [name, { data: values }] of one) {
        const [expected, found] = [values as Float32Array, several.get(name)?.data as Float32Array];
        const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const apart = expected.reduce(
          (most, value, i) => Math.max(most, Math.abs(value - (found[i] ?? Number.NaN))),
          0,
        );
        expect([name, apart <= 1e-5 * scale]).toEqual([name, true]);
        if (apart > 0) trained++;
      }
      expect(trained).toBeGreaterThan(0); // sums in another order: not the same run twice
    }
  });

  test("a rank that is killed ends all, and the run ends whole with another number of ranks", async () => {
    const run = join(folder, "killed");
    const args = `${pretrain} --epochs 40 --out ${run}`;
    const { code } = await disturbed(args, run, "SIGKILL");
    expect(code).not.toBe(0);
    expect((await lastCheckpoint(run)).size).toBeGreaterThan(0);
    const { status, stderr } = advcl(4, `${args} --resume`);
    expect([status, stderr]).toEqual([0, expect.stringContaining("shared by 4 ranks")]);
    const written = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n");
    expect(written.map((line) => JSON.parse(line).step)).toEqual(Array.from(written, (_, i) => i + 1));
    expect(written.length).toBe(80);
  });

  test("a rank that hangs is found by the time limit", async () => {
    const run = join(folder, "hung");
    const { code, errors } = await disturbed(`${pretrain} --epochs 400 --rank-timeout 3 --out ${run}`, run, "SIGSTOP");
    expect([code, errors]).toEqual([1, expect.stringContaining("rank 0 waited 3 s for the other ranks")]);
    expect((await lastCheckpoint(run)).size).toBeGreaterThan(0);
  });

  test("what several ranks cannot do is refused in one sentence", () => {
    const refused = (args: string) =>
      advcl(2, args)
        .stderr.split("\n")
        .filter((line) => line.startsWith("error:"));
    const out = join(folder, "refused");
    expect(refused(`${pretrain} --batch-norm global --out ${out}`)).toEqual([
      "error: --batch-norm global is not there yet over several ranks; choose --batch-norm local",
    ]);
    expect(refused(`${pretrain.replace("--batch 32", "--batch 33")} --out ${out}`)).toEqual([
      expect.stringContaining("a batch of 33 can't be shared by 2 ranks"),
    ]);
    expect(refused("demo")).toEqual([expect.stringContaining("demo runs in one process, and a launcher started 2")]);
  });
});

test("without a launcher, --distributed mpi says what is missing", () => {
  const { status, stderr } = advcl(1, `${pretrain} --distributed mpi --out ${join(folder, "none")}`);
  expect([status, stderr]).toEqual([2, expect.stringContaining("--distributed mpi needs a launcher")]);
});
