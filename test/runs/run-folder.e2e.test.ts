import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { RequestError, RunError } from "../../src/errors.ts";
import { encodeConfig, placeOf } from "../../src/runs/config.ts";
import { MetricsWriter, readMetrics } from "../../src/runs/metrics.ts";
import {
  openRunFolder,
  type RunFolder,
  type RunFolderOptions,
  readRun,
  readRunConfig,
} from "../../src/runs/run-folder.ts";
import { shippedNames } from "../../src/runs/shipped.ts";
import { eventFile } from "../../src/runs/tensorboard.ts";
import { built } from "../built.ts";

let root = "";
let folder = "";
let warnings: string[] = [];
let opened: RunFolder[] = [];
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "run-"));
  folder = join(root, "run");
  warnings = [];
  opened = [];
});
afterEach(async () => {
  for (const run of opened) await run.close();
  await rm(root, { recursive: true });
});

const settings = { seed: 0, lr: 0.5, clusters: [2, 10], attackSteps: 5, threads: 2, data: undefined };

const openRun = async (options: Partial<RunFolderOptions> = {}): Promise<RunFolder> => {
  const warn = (message: string) => warnings.push(message);
  const run = await openRunFolder(folder, { command: "pretrain", settings, changeable: ["threads"], warn, ...options });
  opened.push(run);
  return run;
};

const at = (step: number) => ({ step, epoch: 0, state: { best: step / 10 }, tensors: { w: float32([1], [step]) } });

const checkpoints = async () => (await readdir(join(folder, "checkpoints"))).sort();

describe("opening", () => {
  test("writes all settings, versions and the commit, and reads them back", async () => {
    const { config } = await openRun();
    expect(config.settings).toEqual(settings);
    expect(config.versions).toMatchObject({ node: process.versions.node, "onnxruntime-node": "1.30.0" });
    expect(await readRunConfig(folder)).toEqual(config);
    const text = await readFile(join(folder, "config.yaml"), "utf8");
    expect(text).toContain(
      "command: pretrain\nsettings:\n  seed: 0\n  lr: 0.5\n  clusters:\n    - 2\n    - 10\n  attack-steps: 5\n",
    );
  });

  test("keeps how graphs are lowered, and says where a resumed run lowers them otherwise", async () => {
    await (await openRun({ target: "cpu-blocked16" })).close();
    expect((await readRunConfig(folder))?.target).toBe("cpu-blocked16");
    const { config } = await openRun({ target: "cpu-blocked8", resume: true });
    expect(config.target).toBe("cpu-blocked16");
    expect(warnings.join("\n")).toContain(
      "the run was begun by other versions (target cpu-blocked16 → cpu-blocked8): results may differ slightly",
    );
  });

  test("refuses a folder with a run, unless it is resumed", async () => {
    await (await openRun()).close();
    await expect(openRun()).rejects.toThrow(
      new RequestError(
        `${folder} holds a run of pretrain already; choose another folder or add --resume to go on with it`,
      ),
    );
    expect((await openRun({ resume: true })).resumed).toBeUndefined();
  });

  test("what cannot be resumed begins again where it failed, and is refused once it is whole", async () => {
    const once = { command: "import", resumable: false };
    await (await openRun(once)).close();
    const again = await openRun({ ...once, settings: { ...settings, lr: 1 } });
    expect((await readRunConfig(folder))?.settings.lr).toBe(1);
    await again.save(at(0));
    await again.close();
    await expect(openRun(once)).rejects.toThrow(
      new RequestError(`${folder} holds a run of import already; choose another folder`),
    );
  });

  test("refuses a folder with foreign files and leaves it as it was", async () => {
    await mkdir(folder);
    await writeFile(join(folder, "thesis.tex"), "");
    for (const resume of [false, true])
      await expect(openRun({ resume })).rejects.toThrow(
        new RequestError(`${folder} holds files that are not of a run (thesis.tex); choose an empty or new folder`),
      );
    expect(await readdir(folder)).toEqual(["thesis.tex"]);
  });

  test("refuses a file", async () => {
    await writeFile(folder, "");
    await expect(openRun()).rejects.toThrow(RequestError);
  });

  test("resuming nothing starts from the beginning, with a warning", async () => {
    await openRun({ resume: true });
    expect(warnings).toEqual([`${folder} holds no run to resume: starting from the beginning`]);
  });

  test("names the settings that differ on resume, but for changeable ones", async () => {
    await (await openRun()).close();
    const changed = { ...settings, lr: 0.1, clusters: [2], data: "x", threads: 1 };
    await expect(openRun({ resume: true, settings: changed })).rejects.toThrow(
      new RequestError(
        `cannot resume ${folder}: lr was 0.5 and is now 0.1, clusters was 2,10 and is now 2, data was not set and is now x; give the settings that the run began with or choose another folder`,
      ),
    );
    await expect(openRun({ resume: true, command: "finetune" })).rejects.toThrow(
      new RequestError(`cannot resume ${folder}: it holds a run of pretrain, not of finetune; choose another folder`),
    );
    await expect(openRun({ resume: true, override: false, settings: { ...settings, lr: 0.1 } })).rejects.toThrow(
      "lr was 0.5 and is now 0.1; give the settings that the run began with, go on with these by --override, or choose",
    );
    await openRun({ resume: true, settings: { ...settings, threads: 1 } });
    expect((await readRunConfig(folder))?.settings.threads).toBe(1);
  });

  test("refuses a damaged config.yaml", async () => {
    await mkdir(folder);
    await writeFile(join(folder, "config.yaml"), "a: [");
    await expect(openRun({ resume: true })).rejects.toThrow(
      new RequestError(
        `${join(folder, "config.yaml")} is not the config.yaml of a run; restore it or choose another folder`,
      ),
    );
  });
});

describe("seals", () => {
  const config = () => join(folder, "config.yaml");
  const rewrite = async (change: (text: string) => string) =>
    writeFile(config(), change(await readFile(config(), "utf8")));

  test("a changed digit anywhere in config.yaml is refused, on resume and as the base of other work", async () => {
    const run = await openRun({ basis: { images: "0123", stepsPerEpoch: 5 } });
    await run.save(at(1));
    await run.close();
    const text = await readFile(config(), "utf8");
    const places = Array.from(text.matchAll(/\d/g), (match) => match.index);
    // Not counting those of hashes, which another commit has more or less of.
    expect(text.replaceAll(/[0-9a-f]{40,}/g, "").match(/\d/g)?.length).toBeGreaterThan(25);
    for (const place of places) {
      await writeFile(config(), `${text.slice(0, place)}${(Number(text[place]) + 1) % 10}${text.slice(place + 1)}`);
      await expect(readRunConfig(folder, "resume")).rejects.toThrow(RequestError);
      // Without its seal a config still serves as a base, as one of before there were seals does.
      if (!/sha(2(5)?)?$/.test(text.slice(0, place)))
        await expect(readRunConfig(folder)).rejects.toThrow(
          /was changed after the run wrote it|is not the config.yaml/,
        );
    }
    await expect(openRun({ resume: true })).rejects.toThrow("was changed after the run wrote it");
    await writeFile(config(), text);
    await openRun({ resume: true });
  });

  test("what was changed by hand is named and recorded with --override, also where its seal was made to fit", async () => {
    const run = await openRun();
    await run.save(at(3));
    await run.close();
    await rewrite((text) => text.replace("lr: 0.5", "lr: 0.25"));
    const changed = { ...settings, lr: 0.25 };
    await expect(openRun({ resume: true, settings: changed })).rejects.toThrow("its sha256 is another's");
    await (await openRun({ resume: true, override: true, settings: changed })).close();
    expect(warnings).toEqual(["--override: lr was 0.5 and is now 0.25; config.yaml tells of it"]);
    expect((await readRunConfig(folder))?.changes).toEqual([{ step: 3, setting: "lr", was: 0.5, is: 0.25 }]);
    // The change is known now: the next resumption needs no word.
    await (await openRun({ resume: true, settings: changed })).close();
    const sealedAgain = encodeConfig({ ...(await readRunConfig(folder))!, changes: [] });
    await writeFile(config(), sealedAgain);
    await expect(openRun({ resume: true, settings: changed })).rejects.toThrow(
      `cannot resume ${folder}: config.yaml is not that of its checkpoint 3 (lr was 0.5 and is now 0.25); restore it, or go on with it as it is by --override`,
    );
  });

  test("--override takes other settings, says so and records it; a run with them goes on as any other", async () => {
    const run = await openRun();
    await run.save(at(1));
    await run.close();
    const other = { ...settings, lr: 2, attackSteps: 1 };
    const second = await openRun({ resume: true, override: true, settings: other });
    expect(second.resumed?.step).toBe(1);
    expect(warnings).toEqual([
      "--override: lr was 0.5 and is now 2, attack-steps was 5 and is now 1; config.yaml tells of it",
    ]);
    await second.save(at(2));
    await second.close();
    const third = await openRun({ resume: true, settings: other });
    expect(third.config.changes).toHaveLength(2);
    expect(warnings).toHaveLength(1);
  });

  test("a run of before there were seals goes on by the user's word", async () => {
    await (await openRun()).close();
    await rewrite((text) => text.replace(/sha256.*\n/, ""));
    expect((await readRunConfig(folder))?.settings).toEqual(settings);
    await expect(openRun({ resume: true })).rejects.toThrow("carries no sha256");
    await (await openRun({ resume: true, override: true })).close();
    await openRun({ resume: true });
  });
});

describe("what may differ", () => {
  test("threads, said and recorded", async () => {
    await (await openRun()).close();
    const said: string[] = [];
    const now = { ...settings, threads: 7 };
    const run = await openRun({ resume: true, settings: now, log: (message) => said.push(message) });
    expect(said).toEqual(["threads was 2 and is now 7; config.yaml tells of it"]);
    expect(run.config.changes).toEqual([{ step: null, setting: "threads", was: 2, is: 7 }]);
  });

  test("a lower learning rate, once a loss was not finite", async () => {
    await (await openRun()).close();
    const rules = { resume: true, lowers: ["lr"] };
    await expect(openRun({ ...rules, settings: { ...settings, lr: 0.1 } })).rejects.toThrow("lr was 0.5");
    await mkdir(join(folder, "diverged"));
    await expect(openRun({ ...rules, settings: { ...settings, lr: 0.6 } })).rejects.toThrow("lr was 0.5");
    const run = await openRun({ ...rules, settings: { ...settings, lr: 0.1 } });
    expect(run.config.changes).toEqual([{ step: null, setting: "lr", was: 0.5, is: 0.1 }]);
  });

  test("where the images lie, not which they are", async () => {
    const [old, moved] = [join(root, "old"), join(root, "moved")];
    await mkdir(old);
    await mkdir(moved);
    const rules = { changeable: ["threads", "data"], paths: ["data"], basis: { images: "0123" } };
    await (await openRun({ ...rules, settings: { ...settings, data: relative(process.cwd(), old) } })).close();
    const config = await readRunConfig(folder);
    expect(config?.paths).toEqual({ data: old });
    expect(placeOf({ ...config!, settings: { data: "elsewhere" } }, "data")).toBe(old);
    // The same place in other words is no change.
    const again = await openRun({ ...rules, resume: true, settings: { ...settings, data: old } });
    expect(again.config.changes).toEqual([]);
    await again.close();
    await rm(old, { recursive: true });
    const there = { ...settings, data: moved };
    await expect(openRun({ ...rules, resume: true, settings: there, basis: { images: "4567" } })).rejects.toThrow(
      `cannot resume ${folder}: the images of ${moved} are not those that the run began with; give these by --data, or go on with others by --override`,
    );
    const run = await openRun({ ...rules, resume: true, settings: there });
    expect(run.config.paths).toEqual({ data: moved });
    expect(run.config.changes?.map(({ setting }) => setting)).toEqual(["data"]);
  });

  test("not the steps of an epoch", async () => {
    await (await openRun({ basis: { stepsPerEpoch: 5 } })).close();
    await expect(openRun({ resume: true, override: true, basis: { stepsPerEpoch: 6 } })).rejects.toThrow(
      "an epoch had 5 steps and would now have 6",
    );
  });
});

describe("checkpoints", () => {
  test("the newest comes back whole", async () => {
    const run = await openRun();
    await run.save(at(1));
    await run.save(at(2));
    await run.close();
    const { resumed } = await openRun({ resume: true });
    expect(resumed).toMatchObject({ step: 2, epoch: 0, state: { best: 0.2 } });
    expect(resumed?.tensors.get("w")).toEqual(float32([1], [2]));
    expect((await readRun(folder, () => {})).checkpoint.step).toBe(2);
  });

  test("the last two and every fourth step are kept", async () => {
    const run = await openRun({ keepEvery: 4 });
    for (let step = 1; step <= 7; step++) await run.save(at(step));
    expect(await checkpoints()).toEqual(["000004", "000006", "000007"]);
  });

  test("a stopgap goes once the next one stands", async () => {
    const run = await openRun({ keep: 3 });
    await run.save(at(2));
    await run.save({ ...at(3), stopgap: true });
    expect(await checkpoints()).toEqual(["000002", "000003"]);
    await run.save(at(4));
    expect(await checkpoints()).toEqual(["000002", "000004"]);
  });

  test.each([
    ["tensors.safetensors", "tensors.safetensors was changed"],
    ["state.json", "Unexpected end of JSON input"],
  ])("with %s cut short, the one before is taken", async (file, reason) => {
    const run = await openRun();
    await run.save(at(1));
    await run.save(at(2));
    await run.close();
    await truncate(join(folder, "checkpoints", "000002", file), 40);
    if (file === "state.json") await truncate(join(folder, "checkpoints", "000002", file), 0);
    const { resumed } = await openRun({ resume: true });
    expect(resumed?.step).toBe(1);
    const path = join(folder, "checkpoints", "000002");
    expect(warnings).toEqual([`checkpoint ${path} is damaged (${reason}); trying the one before it`]);
    expect(await checkpoints()).toEqual(["000001"]);
  });

  test("a changed number in state.json is seen", async () => {
    const run = await openRun();
    await run.save(at(1));
    await run.close();
    const path = join(folder, "checkpoints", "000001", "state.json");
    await writeFile(path, (await readFile(path, "utf8")).replace("0.1", "0.9"));
    await expect(openRun({ resume: true })).rejects.toThrow(
      new RunError(`no checkpoint in ${join(folder, "checkpoints")} reads whole; remove the folder to start over`),
    );
  });

  test("what a killed writer left is removed", async () => {
    await (await openRun()).close();
    await mkdir(join(folder, "checkpoints", ".000002.partial-1-ab"), { recursive: true });
    await writeFile(join(folder, ".config.yaml.partial-1-ab"), "");
    await mkdir(join(folder, "adversarial"));
    await writeFile(join(folder, "adversarial", ".pgd10.safetensors.partial-1-ab"), "");
    await (await openRun({ resume: true })).close();
    expect(await checkpoints()).toEqual([]);
    expect((await readdir(folder, { recursive: true })).sort()).toEqual(["adversarial", "checkpoints", "config.yaml"]);
  });
});

describe("reading a run", () => {
  test("says what is missing", async () => {
    await expect(readRun(folder, () => {})).rejects.toThrow(
      new RequestError(
        `${folder} is not a run folder: it has no config.yaml; check the path, or give one that ships: ${shippedNames().join(", ")}`,
      ),
    );
    await openRun();
    await expect(readRun(folder, () => {})).rejects.toThrow(
      new RequestError(`the run in ${folder} has no checkpoint yet; let it go on until it has one`),
    );
  });
});

describe("logs", () => {
  test("are cut back to the resumed step; the clock's keep what happened", async () => {
    const run = await openRun();
    const metrics = new MetricsWriter(run, { tensorboard: false });
    for (const step of [1, 2, 3]) {
      metrics.write({ step, epoch: 0 }, { loss: step }, { seconds: 1 });
      if (step === 2) await run.save(at(step));
    }
    await run.close();
    await writeFile(join(folder, "timing.jsonl"), '{"step', { flag: "a" });
    const again = new MetricsWriter(await openRun({ resume: true }), { tensorboard: false });
    again.write({ step: 3, epoch: 0 }, { loss: 3 }, { seconds: 1 });
    const lines = [1, 2, 3].map((step) => `{"step":${step},"epoch":0,"loss":${step}}\n`);
    expect(await readFile(join(folder, "metrics.jsonl"), "utf8")).toBe(lines.join(""));
    const timing = await readFile(join(folder, "timing.jsonl"), "utf8");
    expect(timing.split("\n").map((line) => line.slice(0, 9))).toEqual(
      [1, 2, 3, 3].map((n) => `{"step":${n}`).concat(""),
    );
  });
});

test("a torn last line of a log is mended", async () => {
  const run = await openRun();
  const metrics = new MetricsWriter(run, { now: () => 0 });
  for (const step of [1, 2, 3]) metrics.write({ step, epoch: 0 }, { loss: step });
  await run.save(at(3));
  await run.close();
  const [log, board] = [join(folder, "metrics.jsonl"), join(folder, eventFile)];
  const whole = await readFile(board);
  for (const path of [log, board]) await truncate(path, (await readFile(path)).length - 5);
  const again = await openRun({ resume: true });
  new MetricsWriter(again, { now: () => 0 }).write({ step: 4, epoch: 0 }, { loss: 4 });
  expect(warnings.filter((text) => text.includes("is shorter than it was at the checkpoint")).length).toBe(4);
  await again.close();
  expect((await readMetrics(log)).map(({ step }) => step)).toEqual([1, 2, 4]);
  // A record of two scalars is as long as one of one step before it.
  expect((await readFile(board)).length).toBe(whole.length);
});

describe("processes", () => {
  const script = fileURLToPath(new URL("../fixtures/run-writer.mjs", import.meta.url));
  const start = (out: string, steps: number): ChildProcess =>
    spawn(process.execPath, [script, dirname(dirname(dirname(built("src/runs/run-folder.js")))), out, String(steps)], {
      stdio: ["ignore", "pipe", "inherit"],
    });

  test("a living process's folder is refused; a killed one's is taken over", async () => {
    const child = start(folder, 1e6);
    await once(child.stdout!, "data");
    await expect(openRun({ resume: true })).rejects.toThrow(
      new RequestError(
        `${folder} is being written by process ${child.pid}; wait until it ends or choose another folder`,
      ),
    );
    child.kill("SIGKILL");
    await once(child, "exit");
    const run = await openRun({ resume: true, settings: { seed: 0 } });
    await expect(openRun({ resume: true })).rejects.toThrow(
      new RequestError(`${folder} is being written by this process (${process.pid}) already; close that run first`),
    );
    await run.close();
    expect((await readdir(folder)).filter((name) => name.startsWith(".lock"))).toEqual([]);
  });

  test("a lock of another machine is refused, one whose process number was used again is not", async () => {
    await mkdir(folder);
    const foreign = join(folder, ".lock-17-1-4026531836-abc-elsewhere");
    await writeFile(foreign, "");
    await expect(openRun()).rejects.toThrow(
      new RequestError(
        `${folder} is being written by process 17 on elsewhere (it gave a sign of life just now); if that no longer runs, delete ${foreign}`,
      ),
    );
    await rm(foreign);
    const run = await openRun();
    const [own] = (await readdir(folder)).filter((name) => name.startsWith(".lock"));
    await run.close();
    await writeFile(join(folder, own!.replace(/^(\.lock-\d+)-\d+/, "$1-1")), "");
    await openRun({ resume: true });
  });

  test("a run killed at random moments ends with the same bytes as one that was not, but for the clock's", async () => {
    const steps = 96;
    const straight = join(root, "straight");
    expect(await once(start(straight, steps), "exit")).toEqual([0, null]);
    let seed = 7;
    let kills = 0;
    for (;;) {
      const child = start(folder, steps);
      const exit = once(child, "exit");
      const opens = once(child.stdout!, "data");
      await Promise.race([opens, exit]);
      seed = (seed * 48271) % 0x7fffffff;
      // Later kills come later, so that a slow disk does not keep the run from ever writing a checkpoint.
      const timer = setTimeout(() => child.kill("SIGKILL"), (seed % 100) + 10 * kills);
      const [code] = await exit;
      clearTimeout(timer);
      if (code === 0) break;
      kills++;
      if (kills > 60) throw new Error("the run does not get on");
    }
    expect(kills).toBeGreaterThan(0);
    const content = async (path: string): Promise<Record<string, string>> => {
      const found: Record<string, string> = {};
      for (const entry of await readdir(path, { recursive: true, withFileTypes: true })) {
        const file = join(entry.parentPath ?? entry.path, entry.name);
        if (entry.isFile()) found[file.slice(path.length)] = (await readFile(file)).toString("base64");
      }
      delete found["/timing.jsonl"];
      delete found["/config.yaml"]; // names the commit, which may change between the two runs
      return found;
    };
    const [expected, killed] = [await content(straight), await content(folder)];
    expect(Object.keys(killed).sort()).toEqual(Object.keys(expected).sort());
    expect(Object.keys(expected).filter((name) => killed[name] !== expected[name])).toEqual([]);
  });
});
