/** Training over MPI as users run it: mpirun starts the built command. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
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

/**
 * Rounding grows from step to step, and where a gradient to a pixel is nearly 0 the attack takes either sign: so the rate is low,
 * the attack is small, and the two weights of a batch norm (1 and 0 at first) are measured by the larger.
 */
const together = `pretrain ${data.replace("--width 2", "--width 4")} --limit 64 --batch 32 --epochs 10 --attack-steps 1 --eps 0.001 --step-size 0.00025 --lr 0.0003 --temperature 1 --base-temperature 1 --knn-every 0 --radius 3 --no-clusters --batch-norm global --negatives global --rank-check 1`;

const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const apart = (a: Float32Array, b: Float32Array) => largest(a.map((value, i) => value - (b[i] ?? Number.NaN)));

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
  if (child.exitCode !== null) throw new Error(`the ranks ended before they were disturbed: ${errors}`);
  const ranks = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim().split(" ").map(Number);
  const second = ranks.find((pid) =>
    readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes("OMPI_COMM_WORLD_RANK=1"),
  );
  process.kill(second ?? Number.NaN, signal);
  await ended;
  return { code: child.exitCode, errors };
};

needsMpi("several ranks", () => {
  test("2 ranks train a linear head as one does, and speak once", async () => {
    const encoder = join(folder, "encoder");
    expect(advcl(1, `${pretrain} --epochs 1 --out ${encoder}`).status).toBe(0);
    const finetune = `finetune --scheme slf --from ${encoder} --dataset shapes --limit 320 --test-limit 32 --batch 32 --epochs 2 --lr 0.1 --workers 0 --threads 1 --target portable --json`;
    expect(advcl(1, `${finetune} --out ${join(folder, "head1")}`).status).toBe(0);
    const head = await lastCheckpoint(join(folder, "head1"));
    const run = join(folder, "head2");
    const { status, stdout, stderr } = advcl(2, `${finetune} --out ${run}`);
    expect([status, stderr]).toEqual([0, expect.stringContaining("shared by 2 ranks")]);
    expect(stdout.trim().split("\n").length).toBe(1);
    expect(JSON.parse(stdout).steps).toBe(20);
    const several = await lastCheckpoint(run);
    expect([...several.keys()]).toEqual([...head.keys()]);
    let trained = 0;
    for (const [name, { data: values }] of head) {
      const [expected, found] = [values as Float32Array, several.get(name)?.data as Float32Array];
      const distance = apart(expected, found);
      expect([name, distance <= 1e-5 * largest(expected)]).toEqual([name, true]);
      if (distance > 0) trained++;
    }
    expect(trained).toBeGreaterThan(0); // sums in another order: not the same run twice
  });

  test("evaluate and cluster give the bytes of one process, and harden its weights", async () => {
    const given = (name: string) => join(folder, name);
    const common = "--dataset shapes --threads 1";
    const twice = (args: string, ...names: readonly [string, string]) => {
      for (const [i, name] of names.entries()) {
        const { status, stderr } = advcl(i === 0 ? 1 : 3, `${args} --out ${given(name)}`);
        expect([status, stderr]).toEqual([0, expect.not.stringContaining("rror")]);
      }
    };
    const attacks = "--attacks clean,pgd3,apgd-ce,fab-t --iterations 3 --targets 2 --save-adversarial";
    twice(`evaluate --model ${given("head1")} ${common} --limit 40 --batch 8 ${attacks}`, "judged1", "judged3");
    const files = readdirSync(given("judged1"), { recursive: true, withFileTypes: true }).filter((f) => f.isFile());
    expect(files.length).toBeGreaterThan(7);
    for (const { parentPath, name } of files) {
      const path = join(parentPath, name);
      const same = readFileSync(path).equals(readFileSync(path.replace(given("judged1"), given("judged3"))));
      expect([name, same]).toEqual([name, true]);
    }
    const clustering = `cluster --teacher ${given("encoder")} ${common} --limit 150 --clusters 3,5 --feature-batch 64`;
    twice(clustering, "labels1.safetensors", "labels3.safetensors");
    expect(readFileSync(given("labels3.safetensors")).equals(readFileSync(given("labels1.safetensors")))).toBe(true);
    const small = fileURLToPath(new URL("../fixtures/harden/small.onnx", import.meta.url));
    const harden = `harden --from ${small} ${common} --limit 48 --test-limit 20 --test-steps 1 --attack-steps 1 --batch 24 --epochs 2 --lr 0.001 --no-augment`;
    twice(harden, "hard1.onnx", "hard3.onnx");
    const [whole, shared] = [
      await lastCheckpoint(given("hard1.onnx.run")),
      await lastCheckpoint(given("hard3.onnx.run")),
    ];
    for (const [name, { data: values }] of whole) {
      if (!name.startsWith("param.")) continue;
      const found = shared.get(name)?.data as Float32Array;
      expect([name, apart(values as Float32Array, found) <= 1e-5 * largest(values as Float32Array)]).toEqual([
        name,
        true,
      ]);
    }
  });

  const weightsOf = async (run: string) =>
    [...(await lastCheckpoint(run))].filter(([name]) => name.startsWith("param."));
  const layerOf = (name: string) => name.replace(/\.(weight|bias)$/, "");
  /** The weights of one process, which is started where it was not yet. */
  const ofOne = async () => {
    const run = join(folder, "together1");
    if (!existsSync(run)) expect(advcl(1, `${together} --out ${run}`).status).toBe(0);
    return weightsOf(run);
  };
  const expectAsOne = async (run: string) => {
    const one = await ofOne();
    const found = new Map(await weightsOf(run));
    const scales = new Map<string, number>();
    for (const [name, { data: values }] of one)
      scales.set(layerOf(name), Math.max(scales.get(layerOf(name)) ?? 0, largest(values as Float32Array)));
    expect([...found.keys()]).toEqual(one.map(([name]) => name));
    for (const [name, { data: values }] of one) {
      const distance = apart(values as Float32Array, found.get(name)?.data as Float32Array);
      expect([name, distance <= 1e-5 * (scales.get(layerOf(name)) ?? 0)]).toEqual([name, true]);
    }
  };

  test("with everything global 2 and 4 ranks hold after 20 steps what one does, and the same as each other after each", async () => {
    const moved = (await ofOne()).filter(([name]) => /bn.*weight$/.test(name));
    const furthest = moved.map(([, { data: values }]) => largest((values as Float32Array).map((value) => value - 1)));
    expect(Math.max(...furthest)).toBeGreaterThan(1e-4); // ten times what they may differ by
    for (const ranks of [2]) {
      const run = join(folder, `together${ranks}`);
      const { status, stderr } = advcl(ranks, `${together} --out ${run}`);
      expect([status, stderr]).toEqual([
        0,
        expect.stringContaining(`shared by ${ranks} ranks (batch norm of all, negatives of all)`),
      ]);
      expect(readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n").length).toBe(20);
      await expectAsOne(run);
    }
  });

  test("a rank that is killed ends all, and another number of ranks ends the run as one that was not killed", async () => {
    const run = join(folder, "killed");
    const { code } = await disturbed(`${together} --out ${run}`, run, "SIGKILL");
    expect(code).not.toBe(0);
    expect((await lastCheckpoint(run)).size).toBeGreaterThan(0);
    const { status, stderr } = advcl(1, `${together} --out ${run} --resume`);
    expect([status, status === 0 || stderr]).toEqual([0, true]);
    const written = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n");
    expect(written.map((line) => JSON.parse(line).step)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    await expectAsOne(run);
  });

  test.each(["local", "global"])("a rank that hangs is found by the time limit (batch norm: %s)", async (over) => {
    const run = join(folder, `hung-${over}`);
    const args = `${pretrain} --epochs 400 --rank-timeout 8 --batch-norm ${over} --out ${run}`;
    const { code, errors } = await disturbed(args, run, "SIGSTOP");
    expect([code, errors]).toEqual([1, expect.stringContaining("rank 0 waited 8 s for the other ranks")]);
    expect((await lastCheckpoint(run)).size).toBeGreaterThan(0);
  });

  test("what several ranks cannot do is refused in one sentence", () => {
    const refused = (args: string) =>
      advcl(2, args)
        .stderr.split("\n")
        .filter((line) => line.startsWith("error:"));
    const out = join(folder, "refused");
    expect(refused(`${pretrain} --batch-norm global --engine binding --out ${out}`)).toEqual([
      expect.stringContaining("--batch-norm global, --negatives global and --replicas need --engine native"),
    ]);
    expect(refused(`${pretrain.replace("--batch 32", "--batch 33")} --out ${out}`)).toEqual([
      expect.stringContaining("a batch of 33 can't be shared by 2 ranks"),
    ]);
    expect(refused("demo")).toEqual([expect.stringContaining("demo runs in one process, and a launcher started 2")]);
  });
});

const mpich = process.env.ADVCL_MPICH ?? "mpiexec.mpich";
const needsMpich = available("mpich", spawnSync(mpich, ["--version"]).status === 0) ? test : test.skip;
needsMpich("MPICH's ranks do what one process does", () => {
  const args = `${together} --epochs 1`;
  const lossesOf = (run: string): number[] =>
    readFileSync(join(run, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { loss: number }).loss);
  const [one, two] = [join(folder, "mpich1"), join(folder, "mpich2")];
  expect(advcl(1, `${args} --out ${one}`).status).toBe(0);
  const beside = join(dirname(mpich), "../lib/libmpi.so.12");
  const library = existsSync(beside) ? ["--mpi-library", beside] : [];
  const started = [mpich, "-np", "2", process.execPath, main, ...args.split(" "), "--out", two, ...library] as const;
  const { status, stderr } = spawnSync(started[0], started.slice(1), { encoding: "utf8", env });
  expect([status, stderr]).toEqual([0, expect.stringContaining("shared by 2 ranks")]);
  const expected = lossesOf(one);
  expect(lossesOf(two).length).toBe(2);
  for (const [i, loss] of lossesOf(two).entries()) expect(loss / expected[i]!).toBeCloseTo(1, 5);
});

const canMakeHosts = (): boolean => {
  const made = spawnSync("ip", ["netns", "add", `advcl-probe-${process.pid}`]).status === 0;
  if (made) spawnSync("ip", ["netns", "delete", `advcl-probe-${process.pid}`]);
  return made;
};
const needsHosts = available("namespaces", canMakeHosts()) && version.status === 0 ? test : test.skip;
needsHosts("ranks on two hosts train; one is killed, and twice as many end the run", () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [built("scripts/clusters/two-hosts.js")], {
    encoding: "utf8",
  });
  expect([status, status === 0 || stderr]).toEqual([0, true]);
  const told = JSON.parse(stdout);
  expect(told).toMatchObject({ resumed: 0, steps: 8, whole: true });
  expect(told.killed).not.toBe(0);
  expect(told.stepsBefore).toBeLessThan(8);
});

test("without a launcher, --distributed mpi says what is missing", () => {
  const { status, stderr } = advcl(1, `${pretrain} --distributed mpi --out ${join(folder, "none")}`);
  expect([status, stderr]).toEqual([2, expect.stringContaining("--distributed mpi needs a launcher")]);
});
