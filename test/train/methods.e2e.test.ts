/** How methods are fed and compared; what they compute is in test/graphs/methods/methods-golden.e2e.test.ts. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "@jest/globals";
import { apDpeTasks } from "../../graphs/methods/ap-dpe.ts";
import { dynaclStrength, dynaclWeight } from "../../graphs/methods/dynacl.ts";
import { methodNames, methods } from "../../graphs/methods/index.ts";
import { float32 } from "../../graphs/onnx/tensor.ts";
import { slug } from "../../src/compare/folders.ts";
import { type Cell, printTable, rowsOf } from "../../src/compare/table.ts";
import { parseVariant, wantsClusters } from "../../src/compare/variant.ts";
import { weightsOf } from "../../src/runs/network.ts";
import { kebabCase } from "../../src/settings/name.ts";
import { checkOptions, feedOf, rateOf } from "../../src/train/feeds.ts";
import { initialState } from "../../src/train/initialize.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import { methodOptions } from "../../src/train/pretrain-settings.ts";
import { warmCosineRate } from "../../src/train/schedule.ts";
import { built } from "../built.ts";

const options = {
  batch: 4,
  size: 16,
  depth: 18 as const,
  width: 2,
  stem: "cifar" as const,
  temperature: 0.5,
  baseTemperature: 0.07,
  eps: 8 / 255,
  stepSize: 2 / 255,
  attackSteps: 1,
  momentum: 0.9,
  weightDecay: 0,
  tasks: apDpeTasks,
  radius: 4,
  clusters: [2],
  clusterWeight: 0.2,
  attack: true,
};

const settings = {
  epochs: 1000,
  batch: 512,
  lr: 5,
  lrEnd: 1e-6,
  schedule: "cosine",
  warmupEpochs: 10,
  warmupFrom: 0,
  eps: 8 / 255,
  attack: true,
  clusters: [2],
  tasks: apDpeTasks,
} as const;

describe("options of methods", () => {
  test("each is a setting; left out it is as in the paper, null for methods without it, and refused by them", async () => {
    const known = Object.keys(pretrain.spec.rows);
    for (const name of methodNames) {
      const method = methods[name];
      for (const option of method.options) expect(known).toContain(option);
      const resolved = (await pretrain.spec.resolve([
        new Map([["method", { value: name, label: "--method" }]]),
      ])) as Readonly<Record<string, unknown>>;
      const paper: Readonly<Record<string, unknown>> = { ...method.paper };
      for (const option of Object.keys(methodOptions)) {
        expect([name, option, resolved[option]]).toEqual([name, option, paper[option]]);
        const given = () => checkOptions(method, { [option]: 0.5 });
        if (method.options.includes(option)) expect(given).not.toThrow();
        else
          expect(given).toThrow(new RegExp(`^--${kebabCase(option)} is an option of .*, and the method is ${name};`));
      }
    }
  });

  test("reach the step", () => {
    const folder = mkdtempSync(join(tmpdir(), "options-"));
    const tiny =
      "pretrain --dataset shapes --method acl-air --limit 8 --size 16 --width 2 --batch 8 --attack-steps 0 --epochs 1 --knn-every 0 --workers 0 --threads 1 --json";
    const measured = (...args: string[]): Readonly<Record<string, number>> => {
      const given = [...tiny.split(" "), "--out", join(folder, args.join("")), ...args];
      const { stdout } = spawnSync("node", [built("src/cli/main.js"), ...given], { encoding: "utf8" });
      return JSON.parse(stdout.trim().split("\n").at(-1) as string).metrics;
    };
    const [paper, code] = [
      measured("--standard-weight", "0"),
      measured("--divergence", "code", "--standard-weight", "0"),
    ];
    // KL of two distributions is not negative; what the code computes is about minus the entropy of one.
    expect(paper.standardInvariance).toBeGreaterThanOrEqual(0);
    expect(code.standardInvariance).toBeLessThan(-1);
    const acl = (code.clean! + code.adversarial!) / 2;
    expect(code.loss).toBeCloseTo(acl + 0.5 * code.adversarialInvariance!, 4);
    rmSync(folder, { recursive: true });
  });
});

describe("every method", () => {
  test.each(methodNames)("%s is fed exactly what its step reads", (name) => {
    const { store } = methods[name].build({ ...methods[name].paper, ...options });
    const fed = [
      ...Object.keys(feedOf(methods[name]).inputs(settings, 1)),
      ...Object.keys(feedOf(methods[name]).scalars?.(settings, 1, 0) ?? {}),
      "lr",
    ];
    expect(fed.sort()).toEqual([...store.inputs.keys()].sort());
  });

  test("may keep a moving average, which is then what it is evaluated by", () => {
    const step = methods.simclr.build({ ...options, ema: 0.9 });
    const tensors = initialState(step, 0);
    // A copy starts where the network does.
    expect(tensors.get("state.ema.conv1.weight")).toEqual(tensors.get("param.conv1.weight"));
    const averaged = new Map(tensors).set("state.ema.conv1.weight", float32([1], [7]));
    expect(weightsOf(averaged).get("conv1.weight")).toEqual(float32([1], [7]));
    expect([...weightsOf(averaged).keys()].some((path) => path.startsWith("ema."))).toBe(false);
    expect(step.outputs["next.state.ema.bn1.running_mean"]?.shape).toEqual(
      step.outputs["next.state.bn1.running_mean"]?.shape ?? "the running mean is missing",
    );
  });

  test("of a teacher keeps it still, and evaluates the student", () => {
    const step = methods.deacl.build(options);
    expect(Object.keys(step.outputs).some((name) => name.startsWith("next.state.teacher."))).toBe(false);
    const weights = weightsOf(initialState(step, 0));
    expect(weights.has("bn1.running_mean")).toBe(true);
    expect([...weights.keys()].some((path) => path.startsWith("teacher."))).toBe(false);
  });
});

describe("schedules", () => {
  test("the cosine by steps, after its warm-up", () => {
    const rate = rateOf(settings, 100);
    expect(rate(1, 0)).toBe(0);
    expect(rate(6, 0)).toBeCloseTo(2.5, 12);
    expect(rate(11, 0)).toBeCloseTo(5, 12);
    expect(rate(506, 0)).toBeCloseTo(2.5, 5);
    expect(warmCosineRate({ ...settings, stepsPerEpoch: 1 }, 1001, 0)).toBeCloseTo(1e-6, 12);
  });

  test("DynACL's strength falls and its weight rises every 50 of 1000 epochs", () => {
    const strengths = [1, 50, 51, 501, 1000].map((epoch) => dynaclStrength(1000, epoch).toFixed(6));
    expect(strengths.map(Number)).toEqual([1, 1, 0.95, 0.5, 0.05]);
    expect(dynaclWeight(1000, 49)).toBe(1);
    expect(dynaclWeight(1000, 50)).toBeCloseTo(1 + 0.05 * (2 / 3), 12);
    expect(dynaclWeight(1000, 1000)).toBeCloseTo(5 / 3, 12);
  });

  test("BYOL's decay rises to 1", () => {
    const decay = (progress: number) => feedOf(methods.byorl).scalars?.(settings, 1, progress).decay;
    expect([decay(0), decay(0.5), decay(1)].map((d) => d?.toFixed(6))).toEqual(["0.996000", "0.998000", "1.000000"]);
  });
});

describe("a comparison", () => {
  test("names variants by their changes", () => {
    const variant = parseVariant("advcl/no-high-frequency/clusters=2+10");
    expect(variant).toMatchObject({ method: "advcl", settings: { highFrequency: false, clusters: "2,10" } });
    expect(slug(variant.name)).toBe("advcl_no-high-frequency_clusters-2+10");
    expect(wantsClusters(variant)).toBe(true);
    expect(wantsClusters(parseVariant("advcl/no-clusters"))).toBe(false);
    expect(wantsClusters(parseVariant("acl"))).toBe(false);
    expect(() => parseVariant("advlc")).toThrow("did you mean advcl?");
    expect(() => parseVariant("acl/No Way")).toThrow("write a change as /setting=value or /no-setting");
  });

  test("prints mean and spread", () => {
    const cell = (variant: string, seed: number, scheme: string, SA: number, RA: number): Cell => ({
      variant,
      seed,
      dataset: "cifar10",
      scheme,
      figures: { SA, RA },
    });
    const cells = [cell("acl", 0, "slf", 0.5, 0.2), cell("acl", 1, "slf", 0.6, 0.2), cell("advcl", 0, "slf", 0.7, 0.3)];
    expect(rowsOf(cells)[0]?.figures.SA?.spread).toBeCloseTo(Math.SQRT1_2 / 10, 12);
    expect(printTable(cells)).toBe(
      [
        "| method | SLF SA     | SLF RA     |",
        "|--------|------------|------------|",
        "| acl    | 55.0 ± 7.1 | 20.0 ± 0.0 |",
        "| advcl  | 70.0       | 30.0       |",
      ].join("\n"),
    );
    const elsewhere = { ...(cells[0] as Cell), dataset: "stl10", seed: 0, figures: { SA: 0.4 } };
    expect(
      printTable([...cells, elsewhere])
        .split("\n")
        .slice(2),
    ).toEqual([
      "| cifar10 | acl    | 55.0 ± 7.1 | 20.0 ± 0.0 |",
      "| cifar10 | advcl  | 70.0       | 30.0       |",
      "| stl10   | acl    | 40.0       |            |",
    ]);
  });

  const folder = mkdtempSync(join(tmpdir(), "advcl-compare-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("runs what is missing and keeps what there is", () => {
    const out = join(folder, "compared");
    const args = `compare --methods simclr,deacl --schemes slf --seeds 0 --dataset shapes --limit 32 --test-limit 20 --size 16 --width 2 --epochs 1 --batch 16 --attack-steps 1 --finetune-epochs 1 --finetune-batch 16 --finetune-limit 32 --workers 0 --threads 1 --target portable --json --out ${out}`;
    const advcl = (more = "") =>
      spawnSync("node", [built("src/cli/main.js"), ...`${args}${more}`.split(" ")], { encoding: "utf8" });
    const first = advcl();
    expect(first.stderr).not.toMatch(/error/i);
    expect(first.status).toBe(0);
    const { rows } = JSON.parse(first.stdout.trim().split("\n").at(-1) as string);
    expect(rows.map((row: { variant: string }) => row.variant)).toEqual(["simclr", "deacl"]);
    expect(readFileSync(join(out, "table.md"), "utf8")).toMatch(/\| simclr \| \d/);
    expect(existsSync(join(out, "pretrain-deacl-seed0", "config.yaml"))).toBe(true);
    expect(readFileSync(join(out, "report.html"), "utf8")).toContain("<td>deacl</td>");
    expect(readFileSync(join(out, "pretrain-simclr-seed0", "report.html"), "utf8")).toContain("pretrain simclr");
    const again = advcl();
    expect(again.stdout).toBe(first.stdout);
    expect(again.stderr).not.toContain("pretrain-simclr-seed0: advcl");
    for (const [wrong, message] of [
      ["advcl/frobnicate=3", "advcl pretrain has no setting --frobnicate"],
      ["advcl/radius=x", '--radius is "x" but must be a number'],
    ]) {
      const { status, stderr } = advcl(` --methods simclr,${wrong} --seeds 1`);
      expect([status, stderr]).toEqual([2, expect.stringMatching(new RegExp(`^error: ${message}`))]);
    }
    const fresh = join(folder, "corrected"); // a request that failed before anything was done binds nobody
    expect(advcl(` --dataset cifar10 --out ${fresh}`).stderr).toContain("needs --data");
    expect(advcl(` --methods simclr --out ${fresh}`).status).toBe(0);
    const other = advcl(" --epochs 2");
    expect([other.status, other.stderr]).toEqual([2, expect.stringContaining("other settings (epochs)")]);
  });
});
