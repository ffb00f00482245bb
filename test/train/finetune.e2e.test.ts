/** `advcl finetune` on a tiny encoder: in this process where nothing is killed, as the built command where something is. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, jest, test } from "@jest/globals";
import sharp from "sharp";
import { parse } from "yaml";
import { advclBranches } from "../../graphs/methods/advcl.ts";
import { encoder as encoderOf } from "../../graphs/nn/encoder.ts";
import { projector } from "../../graphs/nn/head.ts";
import { Scope, Store } from "../../graphs/nn/scope.ts";
import { input } from "../../graphs/onnx/graph.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import type { Command } from "../../src/cli/command.ts";
import { clusterCommand } from "../../src/cli/commands/cluster.ts";
import { finetuneCommand } from "../../src/cli/commands/finetune.ts";
import { loadRun, type Network, networkRecord } from "../../src/runs/network.ts";
import { openRunFolder, readRun } from "../../src/runs/run-folder.ts";
import { initialState } from "../../src/train/initialize.ts";
import { built } from "../built.ts";
import { killedAfter } from "../killed.ts";
import { Sink } from "../sink.ts";

// Resuming starts processes, and the machine may be busy.
jest.setTimeout(180_000);

const folder = mkdtempSync(join(tmpdir(), "advcl-finetune-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const encoder = join(folder, "encoder");
const silent = () => {};

/** Runs a command here; the result is what --json prints. */
const run = async (command: Command, args: string) => {
  const [stdout, stderr] = [new Sink(), new Sink()];
  await command.execute([...args.split(" "), "--json"], { stdout, stderr });
  return { result: JSON.parse(stdout.text.trim().split("\n").at(-1) as string), log: stderr.text };
};

const images = "--dataset shapes --limit 48 --workers 0 --test-limit 60 --threads 1 --target portable";
const small = `${images} --batch 16 --epochs 2 --attack-steps 1`;

const network: Network = {
  depth: 18,
  width: 4,
  stem: "cifar",
  size: 16,
  branches: advclBranches,
  evaluatedBranch: "pgd",
};

/** A run of pretraining that has done no step yet: an encoder as it is drawn, with some tensors of its heads. */
beforeAll(async () => {
  const store = new Store();
  const images = input("images", { dtype: "float32", shape: [3, 3, 16, 16] });
  const scope = new Scope(store, { mode: "eval", branches: advclBranches });
  projector(scope.at("head_proj"), encoderOf(network)(scope, images));
  const tensors = Object.fromEntries(initialState({ store, outputs: {} }, 1));
  const run = await openRunFolder(encoder, { command: "pretrain", settings: {}, warn: silent });
  await run.save({ epoch: 0, step: 0, state: { network: networkRecord(network) }, tensors });
  await run.close();
});

const tensorsOf = async (path: string) => (await readRun(path, silent)).checkpoint.tensors;
const digest = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
const bytes = ({ data }: Tensor) => digest(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
const isEncoder = (name: string) => !/fc\.|momentum|^best\./.test(name);

describe("the schemes", () => {
  test.each(["slf", "alf"])("%s trains the head and leaves the encoder's bytes as they are", async (scheme) => {
    const out = join(folder, scheme);
    const { result, log } = await run(finetuneCommand, `--scheme ${scheme} --from ${encoder} ${small} --out ${out}`);
    expect(result).toMatchObject({ scheme, steps: 6, epoch: 2, testImages: 60 });
    expect(log).toMatch(/100 tensors of the encoder from/);
    const { accuracy } = JSON.parse(readFileSync(join(out, "results.json"), "utf8"));
    expect(accuracy).toBe(result.accuracy);
    expect(readFileSync(join(out, "report.html"), "utf8")).toContain(`${(100 * accuracy).toFixed(2)} %`);
    const [before, after] = [await tensorsOf(encoder), await tensorsOf(out)];
    const kept = [...after].filter(([name]) => isEncoder(name));
    expect(kept.length).toBe(100);
    for (const [name, value] of kept) expect([name, bytes(value)]).toEqual([name, bytes(before.get(name) as Tensor)]);
    expect([...after.keys()].filter((name) => !isEncoder(name)).sort()).toEqual(
      ["param.fc.bias", "param.fc.weight", "state.momentum.fc.bias", "state.momentum.fc.weight"].sort(),
    );
  });

  test("aff trains everything of the branch, and its run holds a classifier", async () => {
    const out = join(folder, "aff");
    await run(finetuneCommand, `--scheme aff --from ${encoder} ${small} --lr 0.01 --out ${out}`);
    const [before, after] = [await tensorsOf(encoder), await tensorsOf(out)];
    const moved = [...after].filter(([name]) => isEncoder(name));
    expect(moved.length).toBe(100);
    for (const [name, value] of moved)
      if (bytes(value) === bytes(before.get(name) as Tensor)) throw new Error(`${name} did not move`);
    expect([...after.keys()].filter((name) => /bn_list\.[02]\./.test(name))).toEqual([]);
    const { network, tensors, classes } = await loadRun(out, silent);
    expect(classes.length).toBe(10);
    expect(network).toMatchObject({ width: 4, size: 16, evaluatedBranch: "pgd" });
    expect(tensors.get("fc.weight")?.shape).toEqual([10, 32]);
  });

  test("another branch can be taken", async () => {
    const out = join(folder, "normal");
    await run(finetuneCommand, `--scheme slf --from ${encoder} --branch normal ${small} --out ${out}`);
    expect((await loadRun(out, silent)).network.evaluatedBranch).toBe("normal");
    expect((await tensorsOf(out)).has("param.bn1.bn_list.0.weight")).toBe(true);
  });

  test.each(["pgd-at", "trades", "standard"])("%s starts at random, with one ordinary batch norm", async (scheme) => {
    const out = join(folder, scheme);
    await run(finetuneCommand, `--scheme ${scheme} --width 4 --size 16 ${small} --out ${out}`);
    const tensors = await tensorsOf(out);
    expect(tensors.has("param.bn1.weight") && tensors.has("state.bn1.running_mean")).toBe(true);
    expect((await loadRun(out, silent)).network.branches).toBeUndefined();
  });

  test("defaults are the papers', and stand in config.yaml", async () => {
    const settingsOf = async (...args: string[]) => (await finetuneCommand.configure(args)).settings;
    const ofEncoder = (scheme: string) => settingsOf("--scheme", scheme, "--from", encoder);
    const quarter = { epochs: 25, milestones: [15, 20], weightDecay: 2e-4, momentum: 0.9, eps: 8 / 255 };
    expect(await ofEncoder("slf")).toMatchObject({ ...quarter, batch: 512, lr: 0.01, attackSteps: 0 });
    expect(await ofEncoder("alf")).toMatchObject({ ...quarter, batch: 512, lr: 0.01, attackSteps: 10 });
    expect(await ofEncoder("aff")).toMatchObject({ ...quarter, batch: 128, lr: 0.1, attackSteps: 10, beta: 6 });
    const longer = { epochs: 100, milestones: [75, 90], weightDecay: 5e-4, batch: 128, lr: 0.1, attackSteps: 10 };
    for (const scheme of ["pgd-at", "trades"])
      expect(await settingsOf("--scheme", scheme)).toMatchObject({ ...longer, from: "none", width: 64 });
    const held = ["--validation", "16"];
    expect(await settingsOf("--scheme", "trades", ...held)).toMatchObject({
      chooseBy: "robust",
      validationSteps: 10,
    });
    expect(await settingsOf("--scheme", "standard", ...held)).toMatchObject({ chooseBy: "clean" });
    expect(await settingsOf("--scheme", "standard")).toMatchObject({ ...longer, from: "none", attackSteps: 0 });
    const { settings } = parse(readFileSync(join(folder, "slf", "config.yaml"), "utf8"));
    expect(settings).toMatchObject({ lr: 0.01, "weight-decay": 2e-4, milestones: [15, 20], batch: 16 });
  });
});

test("held-out images choose the epoch, test images do not", async () => {
  const out = join(folder, "chosen");
  const { result, log } = await run(
    finetuneCommand,
    `--scheme pgd-at --width 2 --size 16 ${images} --batch 16 --epochs 5 --attack-steps 1 --validation 16 --validation-steps 1 --evaluate --out ${out}`,
  );
  expect(log).toMatch(/32 images of shapes/);
  const lines = readFileSync(join(out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const figures: number[] = lines.flatMap((line) => line.robustValidation ?? []);
  expect(figures.length).toBe(5);
  expect(lines.some((line) => "trainRobustAccuracy" in line && "trainAccuracy" in line)).toBe(false);
  // Only test images give an accuracy by that name.
  expect(lines.some((line) => "trainRobustAccuracy" in line)).toBe(true);
  expect(lines.some((line) => "accuracy" in line || "robustAccuracy" in line)).toBe(false);
  const { checkpoint } = await readRun(out, silent);
  expect(result.epoch).toBe(figures.indexOf(Math.max(...figures)) + 1);
  expect(result.stoppedAfter).toBeUndefined();
  expect(checkpoint.state.best).toEqual({ epoch: result.epoch, value: Math.max(...figures) });
  expect(result.robustAccuracy).toBeLessThanOrEqual(result.accuracy);
  const { tensors } = await loadRun(out, silent);
  expect(bytes(tensors.get("fc.weight") as Tensor)).toBe(
    bytes(checkpoint.tensors.get("best.param.fc.weight") as Tensor),
  );
  expect(checkpoint.tensors.has("best.state.bn1.running_mean")).toBe(true);
});

describe("pseudo-labels", () => {
  const labels = join(folder, "labels.safetensors");
  beforeAll(async () => {
    const one = `--dataset shapes --limit 48 --threads 1 --restarts 1`;
    await run(clusterCommand, `--teacher ${encoder} --branch normal --clusters 4 ${one} --out ${labels}`);
  });

  test("DynACL++: a head on clusters, TRADES from it, and what comes of it is finetuned as any run", async () => {
    const [head, robust, last] = ["pseudo-head", "pseudo-trades", "pseudo-slf"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const trained = `--dataset shapes --limit 48 --workers 0 --threads 1 --target portable --batch 16`;
    const first = await run(
      finetuneCommand,
      `--preset dynacl-head --from ${encoder} --pseudo-labels ${labels} ${trained} --epochs 2 --lr 0.1 --out ${head}`,
    );
    expect(first.log).toContain("48 images of shapes in 4 classes");
    expect(first.result).not.toHaveProperty("accuracy");
    const headed = await tensorsOf(head);
    expect(headed.get("param.fc.weight")?.shape).toEqual([4, 32]);

    // With a rate of 0 TRADES ends where it began: at the encoder and the head of the first stage.
    const still = join(folder, "pseudo-still");
    const second = (out: string, lr: number) =>
      `--preset dynacl-trades --from ${head} --pseudo-labels ${labels} ${trained} --attack-steps 1 --epochs 1 --lr ${lr} --out ${out}`;
    await run(finetuneCommand, second(still, 0));
    const after = await tensorsOf(still);
    for (const name of ["param.fc.weight", "param.fc.bias", "param.conv1.weight"])
      expect([name, bytes(after.get(name) as Tensor)]).toEqual([name, bytes(headed.get(name) as Tensor)]);

    await run(finetuneCommand, second(robust, 0.01));
    const moved = await tensorsOf(robust);
    expect(bytes(moved.get("param.conv1.weight") as Tensor)).not.toBe(
      bytes(headed.get("param.conv1.weight") as Tensor),
    );
    const { result } = await run(finetuneCommand, `--scheme slf --from ${robust} ${small} --out ${last}`);
    expect(result.testImages).toBe(60);
    expect((await loadRun(last, silent)).classes.length).toBe(10);
  });

  test.each([
    ["true labels", "--evaluate", /--evaluate asks for true labels/],
    ["another K", "--clusters 5", /has none for K = 5; it has K = 4/],
    ["a head where there is none", "--keep-head", /has no linear head/],
  ])("refuses %s", async (_, flags, message) => {
    const out = join(folder, "refused");
    const args = `--scheme slf --from ${encoder} --pseudo-labels ${labels} ${small} ${flags} --out ${out}`;
    await expect(run(finetuneCommand, args)).rejects.toThrow(message);
    expect(existsSync(out)).toBe(false);
  });

  test("refuses a head of other classes", async () => {
    const args = `--scheme slf --from ${join(folder, "pseudo-head")} --keep-head ${small} --out ${folder}/refused`;
    await expect(run(finetuneCommand, args)).rejects.toThrow(/the head of --from tells 4 classes apart, not 10/);
  });
});

describe("a run that is stopped", () => {
  const main = built("src/cli/main.js");
  const advcl = (args: string) => spawnSync("node", [main, ...args.split(" ")], { encoding: "utf8" });
  const artefacts = (path: string) => {
    const last = readdirSync(join(path, "checkpoints")).sort().at(-1) as string;
    const tensors = digest(readFileSync(join(path, "checkpoints", last, "tensors.safetensors")));
    return { last, tensors, metrics: readFileSync(join(path, "metrics.jsonl"), "utf8") };
  };

  test.each(["slf", "aff"])("%s goes on and ends with the same bytes, though its encoder is gone", async (scheme) => {
    const common = `--scheme ${scheme} ${images} --batch 16 --epochs 4 --lr 0.02 --validation 16 --validation-steps 1`;
    const attack = scheme === "aff" ? " --attack-steps 1" : "";
    const [straight, stopped] = [join(folder, `${scheme}-straight`), join(folder, `${scheme}-stopped`)];
    const args = (out: string) => `finetune --from ${encoder} ${common}${attack} --out ${out}`;
    await run(finetuneCommand, args(straight).replace("finetune ", ""));
    expect(await killedAfter(args(stopped).split(" "), stopped, 4, "SIGTERM")).not.toBe(0);
    const away = `${encoder}-away`;
    renameSync(encoder, away);
    try {
      const { status, stderr } = advcl(`${args(stopped)} --resume`);
      expect([status, stderr]).toEqual([0, expect.stringContaining(`encoder from ${stopped}`)]);
    } finally {
      renameSync(away, encoder);
    }
    expect(artefacts(stopped)).toEqual(artefacts(straight));
  });
});

describe("a wrong request gets one sentence and leaves nothing", () => {
  const cases: readonly (readonly [name: string, args: string, message: RegExp])[] = [
    ["no encoder", "--scheme slf", /slf needs --from RUN/],
    ["a head on nothing", "--scheme alf --from none", /says nothing of a random encoder/],
    ["no such run", "--scheme slf --from /nowhere", /\/nowhere is not a run folder/],
    [
      "no such branch",
      "--scheme slf --from ENCODER --branch pdg",
      /no batch-norm branch pdg; it has normal, pgd, pgd_ce/,
    ],
    ["a branch of nothing", "--scheme trades --branch pgd", /--branch is of an encoder/],
    ["another network", "--scheme aff --from ENCODER --width 8", /--width is the encoder's own/],
    ["a large batch", "--scheme aff --from ENCODER --batch 64", /48 images to train on, fewer than a batch of 64/],
    ["all held out", "--scheme aff --from ENCODER --validation 48", /leaves none of the 48 training images/],
    ["patience with nothing", "--scheme trades --patience 2", /--patience is of --validation N/],
    ["a choice among nothing", "--scheme trades --choose-by clean", /--choose-by is of --validation N/],
    ["no data", "--scheme slf --from ENCODER --dataset stl10", /dataset stl10 needs --data/],
    ["no scheme", "--from ENCODER", /--scheme is missing/],
  ];
  test.each(cases)("%s", async (_, args, message) => {
    const out = join(folder, "refused");
    const words = `${args.replace("ENCODER", encoder)} --out ${out}`;
    const given = /--dataset/.test(args) ? words : `${words} ${images}`;
    await expect(run(finetuneCommand, given)).rejects.toMatchObject({
      name: "RequestError",
      message: expect.stringMatching(message),
    });
    expect(existsSync(out)).toBe(false);
  });

  test("folders of unlike classes", async () => {
    const data = join(folder, "photographs");
    for (const path of ["train/cat", "train/dog", "test/cat", "test/cow"]) {
      await mkdir(join(data, path), { recursive: true });
      const pixels = { width: 16, height: 16, channels: 3, background: "teal" } as const;
      await sharp({ create: pixels })
        .png()
        .toFile(join(data, path, "1.png"));
    }
    await expect(
      run(
        finetuneCommand,
        `--scheme slf --from ${encoder} --dataset folder --data ${data} --batch 2 --out ${folder}/refused`,
      ),
    ).rejects.toThrow(/is a class that .* does not have/);
  });
});
