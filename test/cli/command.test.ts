import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { commands } from "../../src/cli/commands/index.ts";
import { availableCores } from "../../src/engine/cores.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { openRunFolder } from "../../src/runs/run-folder.ts";
import { commonSettings, outSetting } from "../../src/settings/fragments.ts";
import { autoOr, path as pathSchema, rowsOf, setting } from "../../src/settings/schema.ts";
import type { Resolved } from "../../src/settings/spec.ts";
import { defineVerb, type VerbContext } from "../../src/verbs/verb.ts";
import { Sink } from "../sink.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "command-"));
});
afterAll(() => rm(folder, { recursive: true }));

const shape = {
  lr: setting(z.number().min(0).default(0.5), "base learning rate"),
  eps: setting(
    z
      .number()
      .min(0)
      .max(1)
      .default(8 / 255),
    "radius of the attack",
    { ofPixels: true },
  ),
  attackSteps: setting(z.int().min(0).default(5), "steps of the attack", { aliases: ["pgd-steps"], group: "Attack" }),
  clusters: setting(z.array(z.int().min(2)).default([2, 10]), "numbers of clusters"),
  replicas: setting(autoOr(z.int().min(1).max(64)).default(1), "parts that share a batch"),
  weights: setting(z.array(z.number()).default([]), "weights"),
  attacks: setting(z.array(z.string()).default(["clean", "pgd20"]), "attacks in order"),
  dataset: setting(z.enum(["cifar10", "cifar100", "stl10"]).default("cifar10"), "images"),
  tensorboard: setting(z.boolean().default(true), "TensorBoard event files"),
  data: setting(pathSchema().optional(), "folder of the images", { path: true }),
  label: setting(z.string().optional(), "a name"),
  resume: setting(z.boolean().default(false), "go on with the run in --out"),
  require: setting(z.array(z.string()).default([]), "conditions", { repeatable: true }),
};

type Settings = Resolved<typeof shape>;

const verbOf = (run: (settings: Settings, context: VerbContext) => Promise<object> | object = () => ({})) =>
  defineVerb(
    { name: "pretrain", settings: shape, presets: { paper: { lr: 0.25, attackSteps: 7 }, small: { clusters: [] } } },
    async (settings, context) => run(settings, context),
  );
const commandOf = (run?: Parameters<typeof verbOf>[0]) =>
  defineCommand({ verb: verbOf(run), summary: "train an encoder", description: "Trains." });

const resolve = async (...args: string[]) => (await commandOf().configure(args)).settings as unknown as Settings;

/** Runs a command in this process. */
const execute = async (run: Parameters<typeof commandOf>[0], ...args: string[]) => {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const code = await commandOf(run).execute(args, { stdout, stderr });
  return { code, stdout: stdout.text, stderr: stderr.text };
};

const yaml = async (name: string, text: string): Promise<string> => {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
};

describe("settings", () => {
  test("have their defaults", async () => {
    const settings = await resolve();
    expect(settings).toEqual({
      seed: 0,
      threads: availableCores(),
      provider: "auto",
      engine: "auto",
      precision: "auto",
      out: undefined,
      lr: 0.5,
      eps: 8 / 255,
      attackSteps: 5,
      clusters: [2, 10],
      replicas: 1,
      weights: [],
      attacks: ["clean", "pgd20"],
      dataset: "cifar10",
      tensorboard: true,
      data: undefined,
      label: undefined,
      resume: false,
      require: [],
    });
    // The types follow from the schemas: the compiler checks this part.
    const dataset: "cifar10" | "cifar100" | "stl10" = settings.dataset;
    const data: string | undefined = settings.data;
    const clusters: readonly number[] = settings.clusters;
    const seed: number = settings.seed;
    expect([dataset, data, clusters, seed]).toEqual(["cifar10", undefined, [2, 10], 0]);
  });

  test.each<[string[], Partial<Settings>]>([
    [["--attack-steps", "10"], { attackSteps: 10 }],
    [["--attack-steps=1e1"], { attackSteps: 10 }],
    [["--pgd-steps", "3"], { attackSteps: 3 }],
    [["--eps", "4/255"], { eps: 4 / 255 }],
    [["--lr", ".5", "--lr", "2"], { lr: 2 }],
    [["--clusters", "5,50, 500"], { clusters: [5, 50, 500] }],
    [["--no-clusters"], { clusters: [] }],
    [["--clusters", ""], { clusters: [] }],
    [["--clusters", "none"], { clusters: [] }],
    [["--weights", "-1/2,1e-3"], { weights: [-0.5, 0.001] }],
    [["--attacks", "clean"], { attacks: ["clean"] }],
    [["--require", "a<1", "--require", "b<2,c>3"], { require: ["a<1", "b<2", "c>3"] }],
    [["--require", "a<1", "--no-require"], { require: [] }],
    [["--no-tensorboard"], { tensorboard: false }],
    [["--tensorboard=false"], { tensorboard: false }],
    [["--label", "-7"], { label: "-7" }],
    [["--label=--x"], { label: "--x" }],
    [["--preset", "paper"], { lr: 0.25, attackSteps: 7 }],
    [["--lr", "1", "--preset", "paper"], { lr: 1, attackSteps: 7 }],
  ])("%j", async (args, expected) => {
    expect(await resolve(...args)).toMatchObject(expected);
  });

  test("flags win over the file, the file over the preset, the preset over defaults", async () => {
    const path = await yaml("a.yaml", "preset: paper\nlr: 1/8\nattack_steps: 9\nclusters: [3]\ndata: null\nseed: 4\n");
    expect(await resolve("--config", path, "--seed", "5")).toMatchObject({
      lr: 0.125,
      attackSteps: 9,
      clusters: [3],
      data: undefined,
      seed: 5,
    });
    expect(await resolve("--config", await yaml("b.yaml", "preset: paper"))).toMatchObject({ lr: 0.25 });
    expect(await resolve("--config", await yaml("empty.yaml", "# nothing\n"))).toMatchObject({ lr: 0.5 });
  });

  test("--show-config prints each value with its source, as a file that resolves to the same, and does nothing", async () => {
    const path = await yaml("sources.yaml", "pretrain:\n  preset: paper\n  weights: [1, 2]\nfinetune:\n  lr: 3\n");
    const run = () => {
      throw new Error("it runs");
    };
    const { code, stdout } = await execute(run, "--config", path, "--seed", "5", "--show-config");
    expect(code).toBe(0);
    expect(stdout.replace(/threads: \d+/, "threads: N").split("\n")).toEqual([
      "seed: 5 # --seed",
      "threads: N # default",
      "provider: auto # default",
      "engine: auto # default",
      "precision: auto # default",
      "out: null # default",
      "lr: 0.25 # preset paper",
      "eps: 8/255 # default",
      "attack-steps: 7 # preset paper",
      "clusters: [2, 10] # default",
      "replicas: 1 # default",
      `weights: [1, 2] # ${path}`,
      "attacks: [clean, pgd20] # default",
      "dataset: cifar10 # default",
      "tensorboard: true # default",
      "data: null # default",
      "label: null # default",
      "resume: false # default",
      "require: [] # default",
      "",
    ]);
    const again = await resolve("--config", await yaml("shown.yaml", stdout));
    expect(again).toEqual(await resolve("--config", path, "--seed", "5"));
    await expect(resolve("--config", await yaml("other.yaml", "finetune:\n  lr: 1\n"))).rejects.toThrow(
      "has settings of finetune, not of pretrain; give another file",
    );
  });

  test("the config.yaml of a run serves as a file, and as the base of its resumption", async () => {
    const out = join(folder, "run");
    const run = await openRunFolder(out, { command: "pretrain", settings: { lr: 3, seed: 9 }, warn: () => {} });
    await run.close();
    expect(await resolve("--config", join(out, "config.yaml"))).toMatchObject({ lr: 3, seed: 9 });
    expect(await resolve("--out", out, "--resume", "--seed", "1")).toMatchObject({ lr: 3, seed: 1 });
    expect(await resolve("--out", out)).toMatchObject({ lr: 0.5 });
  });

  test("a number that may be left to the machine is one or the other", async () => {
    expect(await resolve("--replicas", "auto")).toMatchObject({ replicas: "auto" });
    expect(await resolve("--replicas", "4")).toMatchObject({ replicas: 4 });
    expect(await resolve("--config", await yaml("auto.yaml", "replicas: auto\n"))).toMatchObject({ replicas: "auto" });
  });

  test.each([
    [["--atack-steps", "5"], "advcl pretrain has no setting --atack-steps; did you mean --attack-steps?"],
    [["--attackSteps", "5"], "advcl pretrain has no setting --attackSteps; did you mean --attack-steps?"],
    [["--zzzzzzzz"], "advcl pretrain has no setting --zzzzzzzz; see advcl pretrain --help"],
    [["-x"], "advcl pretrain has no setting -x; see advcl pretrain --help"],
    [["--no-lr"], "advcl pretrain has no setting --no-lr; see advcl pretrain --help"],
    [["cifar10"], 'advcl pretrain takes no "cifar10"; write settings as --name value'],
    [["--lr"], "--lr needs a value: a number of at least 0"],
    [["--lr", "--seed", "1"], "--lr needs a value: a number of at least 0"],
    [["--lr", "fast"], '--lr is "fast" but must be a number of at least 0'],
    [["--lr", "-1"], '--lr is "-1" but must be a number of at least 0'],
    [["--lr", "1/0"], '--lr is "1/0" but must be a number of at least 0'],
    [["--lr", "Infinity"], '--lr is "Infinity" but must be a number of at least 0'],
    [["--lr", "0x10"], '--lr is "0x10" but must be a number of at least 0'],
    [["--lr="], '--lr is "" but must be a number of at least 0'],
    [["--eps", "8"], '--eps is "8" but pixels lie in [0, 1], and it must be a number from 0 to 1; did you mean 8/255?'],
    [["--attack-steps", "2.5"], '--attack-steps is "2.5" but must be a whole number of at least 0'],
    [["--replicas", "many"], '--replicas is "many" but must be auto or a whole number from 1 to 64'],
    [["--replicas", "0"], '--replicas is "0" but must be auto or a whole number from 1 to 64'],
    [["--clusters", "2,x"], '--clusters is "2,x" but must be whole numbers separated by commas, each of at least 2'],
    [["--dataset", "cifar"], '--dataset is "cifar" but must be cifar10, cifar100 or stl10; did you mean cifar10?'],
    [["--dataset", "imagenet"], '--dataset is "imagenet" but must be cifar10, cifar100 or stl10'],
    [["--tensorboard=maybe"], '--tensorboard is "maybe" but must be true or false'],
    [["--no-tensorboard=1"], "--no-tensorboard takes no value; leave out =1"],
    [["--data="], '--data is "" but must be a path'],
    [["--preset", "papr"], '--preset is "papr" but must be paper or small; did you mean paper?'],
    [["--threads", "0"], '--threads is "0" but must be a whole number from 1 to 1024'],
  ])("%j is refused", async (args, message) => {
    await expect(resolve(...args)).rejects.toThrow(new RequestError(message));
  });

  test.each([
    [
      "atack-steps: 5",
      "PATH has the setting atack-steps, which advcl pretrain does not have; did you mean attack-steps?",
    ],
    ["config: x.yaml", "PATH has the setting config, which advcl pretrain does not have; see advcl pretrain --help"],
    ["__proto__: 1", "PATH has the setting __proto__, which advcl pretrain does not have; see advcl pretrain --help"],
    [
      "constructor: 1",
      "PATH has the setting constructor, which advcl pretrain does not have; see advcl pretrain --help",
    ],
    ["lr: fast", 'lr in PATH is "fast" but must be a number of at least 0'],
    ["lr: [1]", "lr in PATH is [1] but must be a number of at least 0"],
    ["lr: null", "lr in PATH is null but must be a number of at least 0"],
    ["tensorboard: 1", "tensorboard in PATH is 1 but must be true or false"],
    ["- lr", "PATH holds no settings; write lines such as seed: 1"],
    [
      "lr: [",
      "PATH is not valid YAML: Flow sequence in block collection must be sufficiently indented and end with a ] at line 1, column 6; correct that line",
    ],
    ["lr: *rate", "PATH has an alias that can't be followed; write the values out"],
    ["lr: &a [*a]", "PATH has an alias that can't be followed; write the values out"],
    ["command: evaluate\nsettings: {}", "PATH is of a run of evaluate, not of pretrain; give another file"],
  ])("a file with %j is refused", async (text, message) => {
    const path = await yaml("bad.yaml", text);
    await expect(resolve("--config", path, "--lr", "1")).rejects.toThrow(
      new RequestError(message.replace("PATH", path)),
    );
  });

  test("a file that unfolds without bound is refused", async () => {
    const names = [..."abcdefgh"];
    const aliases = names.slice(1).map((name, i) => `${name}: &${name} [${`*${names[i]}, `.repeat(9)}1]\n`);
    const bomb = await yaml("bomb.yaml", `a: &a [1, 1]\n${aliases.join("")}`);
    await expect(resolve("--config", bomb)).rejects.toThrow(`${bomb} has an alias that can't be followed`);
    const deep = await yaml("deep.yaml", `lr: ${"[".repeat(20_000)}`);
    await expect(resolve("--config", deep)).rejects.toThrow(/deep\.yaml is not valid YAML: .*; correct that line$/);
  });

  test("a missing file and a missing required setting are named", async () => {
    await expect(resolve("--config", "none.yaml")).rejects.toThrow(
      "cannot read none.yaml: it does not exist; check the path",
    );
    const needy = defineVerb(
      { name: "finetune", settings: { from: setting(pathSchema(), "run folder", { path: true }) } },
      async () => ({}),
    );
    const missing = new RequestError("--from is missing: give a path (run folder)");
    await expect(needy.spec.resolve([])).rejects.toThrow(missing);
    await expect(needy({} as { from: string })).rejects.toThrow(missing);
    expect(await needy.spec.resolve([], false)).toMatchObject({ from: undefined });
  });

  test("a verb may give a common setting a meaning of its own", async () => {
    const step = defineVerb(
      { name: "step", settings: { out: setting(pathSchema(), "file to write", { path: true }) } },
      async ({ out }) => ({ out: out satisfies string }),
    );
    await expect(step.spec.resolve([])).rejects.toThrow("--out is missing: give a path (file to write)");
  });

  test("a caller's settings are checked as flags are", async () => {
    const verb = verbOf((settings) => settings);
    expect(await verb({ lr: 2, preset: "paper" })).toMatchObject({ lr: 2, attackSteps: 7, dataset: "cifar10" });
    await expect(verb({ lr: -1 })).rejects.toThrow(new RequestError("lr is -1 but must be a number of at least 0"));
    await expect(verb({ learningRate: 1 } as object)).rejects.toThrow(
      "advcl pretrain has no setting learningRate; see advcl pretrain --help",
    );
  });
});

describe("running", () => {
  test("people read stdout and stderr; --json ends stdout with the results", async () => {
    const run = (_: Settings, { log, warn, print }: VerbContext) => {
      log("working");
      warn("careful");
      print("accuracy 0.5");
      return { accuracy: 0.5 };
    };
    expect(await execute(run)).toEqual({ code: 0, stdout: "accuracy 0.5\n", stderr: "working\nwarning: careful\n" });
    expect(await execute(run, "--json")).toEqual({
      code: 0,
      stdout: '{"accuracy":0.5}\n',
      stderr: "working\nwarning: careful\naccuracy 0.5\n",
    });
    expect(await execute(run, "--quiet")).toEqual({ code: 0, stdout: "accuracy 0.5\n", stderr: "warning: careful\n" });
  });

  test("conditions that do not hold end with exit code 3, after the results", async () => {
    const watched = (met: boolean) => () => ({
      conditions: [{ condition: "loss<first", flag: "require", left: 2, right: 1, met }],
    });
    const { code, stdout, stderr } = await execute(watched(false), "--json");
    expect([code, stderr]).toEqual([3, 'failed: --require "loss<first" does not hold: 2 against 1\n']);
    expect(JSON.parse(stdout).conditions).toHaveLength(1);
    expect(await execute(watched(true))).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("a run folder holds the settings and is closed with the command", async () => {
    const out = join(folder, "recorded");
    const run = async (_: Settings, context: VerbContext) => (await context.openRun()).config.settings;
    const { stdout } = await execute(run, "--out", out, "--json", "--lr", "2", "--threads", "1");
    expect(JSON.parse(stdout)).toEqual({
      seed: 0,
      threads: 1,
      provider: "auto",
      engine: "auto",
      precision: "auto",
      lr: 2,
      eps: 8 / 255,
      attackSteps: 5,
      clusters: [2, 10],
      replicas: 1,
      weights: [],
      attacks: ["clean", "pgd20"],
      dataset: "cifar10",
      tensorboard: true,
      require: [],
    });
    await execute(run, "--out", out, "--resume", "--threads", "2");
    await expect(execute(run, "--out", out, "--resume", "--lr", "3")).rejects.toThrow(
      `cannot resume ${out}: lr was 2 and is now 3; give the settings that the run began with or choose another folder`,
    );
    await expect(execute(run)).rejects.toThrow(new RequestError("--out is missing: give the folder of the run"));
  });
});

test("help lists every setting with its default, in groups", () => {
  expect(
    commandOf()
      .help(100)
      .replace(/compute with \(default \d+/, "compute with (default CORES"),
  ).toMatchInlineSnapshot(`
"advcl pretrain: train an encoder

Trains.

Usage: advcl pretrain [--setting value …]

Settings:
  --preset paper|small          named choice of settings; flags and files win
  --lr X                        base learning rate (default 0.5)
  --eps X                       radius of the attack (default 8/255)
  --clusters N,…                numbers of clusters (default 2,10)
  --replicas auto|N             parts that share a batch (default 1)
  --weights X,…                 weights (default none)
  --attacks NAME,…              attacks in order (default clean,pgd20)
  --dataset cifar10|cifar100|stl10
                                images (default cifar10)
  --no-tensorboard              without: TensorBoard event files
  --data PATH                   folder of the images
  --label TEXT                  a name
  --resume                      go on with the run in --out
  --require NAME,…              conditions (default none)

Attack:
  --attack-steps N              steps of the attack (default 5; also --pgd-steps)

Common settings:
  --config PATH                 YAML file with settings, or the name of a recipe; flags win over it
  --seed N                      seed of all random numbers (default 0)
  --threads N                   threads to compute with (default CORES)
  --provider auto|cpu|cuda|webgpu
                                what computes (default auto)
  --engine auto|binding|native  how onnxruntime is reached: by onnxruntime-node's binding or by its
                                C API; auto: native on CUDA, else the binding (default auto)
  --precision auto|float32|tf32|float16|bfloat16
                                what products compute in; auto: float32, on CUDA tf32; bfloat16 is
                                for CPUs that have it (default auto)
  --out PATH                    folder to write to
  --show-config                 print all settings with their sources, and do nothing
  --json                        make the last line of stdout one JSON object with the results
  --quiet                       no progress on stderr
  --debug                       show the stack of an error

Presets:
  paper                         --lr 0.25 --attack-steps 7
  small                         --no-clusters
"
`);
});

test("the list of commands says what each command says of itself", async () => {
  for (const [name, { summary, load }] of Object.entries(commands)) {
    const command = await load();
    expect([command.name, command.summary]).toEqual([name, summary]);
  }
});

test("common settings have help without full stops", () => {
  for (const { help } of Object.values(rowsOf({ ...commonSettings, ...outSetting }))) expect(help).toMatch(/[^.]$/);
});

test("a message is one line, whatever names it quotes", () => {
  for (const fault of [RequestError, RunError]) expect(new fault("bn1\n.\u2028weight").message).toBe("bn1�.�weight");
});
