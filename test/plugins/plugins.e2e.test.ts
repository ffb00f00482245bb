/** The plugin of docs/plugins.md reaches every command that takes one, and a run holds on to it. */
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { compare } from "../../src/compare/compare.ts";
import { evaluate } from "../../src/evaluate/evaluate.ts";
import { readRunConfig } from "../../src/runs/config.ts";
import { finetune } from "../../src/train/finetune.ts";
import { pretrain } from "../../src/train/pretrain.ts";
import type { Reporter } from "../../src/verbs/reporter.ts";
import { packageRoot } from "../../src/version.ts";

const folder = mkdtempSync(join(tmpdir(), "plugins-"));
const at = (name: string): string => join(folder, name);
const plugin = [at("mine.mjs")];
const source = /```js\n(.*?)```/s.exec(readFileSync(join(packageRoot, "docs/plugins.md"), "utf8"))?.[1] ?? "";
const warnings: string[] = [];
const reporter: Reporter = {
  log: () => {},
  warn: (message) => warnings.push(message),
  print: () => {},
  progress: () => ({ update: () => {}, stop: () => {} }),
};
const images = { dataset: "shapes", limit: 16, workers: 0, threads: 1 } as const;
const training = { ...images, plugin, method: "steady", size: 16, width: 2, batch: 8, epochs: 1, knnEvery: 0 };
const head = { ...images, scheme: "slf", batch: 8, testLimit: 16, epochs: 2, lr: 0.1 } as const;

beforeAll(async () => {
  writeFileSync(plugin[0]!, source);
  await pretrain({ ...training, out: at("steady") }, { reporter });
});
afterAll(() => rmSync(folder, { recursive: true }));

test("a method trains with its own figures and settings, which its run keeps with the plugin's digest", async () => {
  const config = await readRunConfig(at("steady"));
  expect(config?.settings).toMatchObject({
    method: "steady",
    attackSteps: 2,
    lr: 0.05,
    optimizer: "sgd",
    clusters: [],
  });
  expect(config?.plugins).toEqual([{ file: plugin[0], sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }]);
  const log = readFileSync(at("steady/metrics.jsonl"), "utf8").trim().split("\n");
  const { loss, contrastive, agreement } = JSON.parse(log.find((line) => line.includes("agreement")) ?? "{}");
  expect(agreement).toBeGreaterThan(0);
  expect(loss).toBeCloseTo(contrastive + agreement, 4);
});

test("a loss is learnt in the place of cross-entropy: cross-entropy again gives its weights, another does not", async () => {
  const same = at("same.mjs");
  writeFileSync(
    same,
    "export default ({ crossEntropy }) => ({ losses: [{ name: 'same', loss: (logits, labels) => crossEntropy(logits, labels, 'none') }] });",
  );
  const from = at("steady");
  const loss = async (given: object, out: string) =>
    (await finetune({ ...head, from, ...given, out: at(out) }, { reporter })).metrics.loss!;
  const plain = await loss({}, "plain");
  expect(await loss({ plugin: [same], loss: "same" }, "again")).toBeCloseTo(plain, 5);
  expect(Math.abs((await loss({ plugin, loss: "flat" }, "head")) - plain)).toBeGreaterThan(0.01);
  await expect(loss({ plugin, loss: "flta" }, "none")).rejects.toThrow("did you mean flat?");
});

test("an attack and an attack by a loss are run beside ours", async () => {
  const model = join(packageRoot, "test/fixtures/harden/small.onnx");
  const attacks = ["clean", "one-step", "apgd-flat", "pgd2"];
  const asked = {
    dataset: "shapes" as const,
    limit: 12,
    grid: 0,
    threads: 1,
    plugin,
    model,
    attacks,
    iterations: 3,
    eps: [8 / 255],
    out: at("results"),
  };
  const measured = await evaluate(asked, { reporter });
  expect(Object.keys(measured.attacks)).toEqual(attacks);
  const right = (name: string) => measured.attacks[name]!.right;
  expect(right("clean")).toBeGreaterThan(0);
  expect(right("one-step")).toBeLessThan(right("clean"));
  expect(right("apgd-flat")).toBeLessThan(right("clean"));
  const rows = readFileSync(at("results/images.jsonl"), "utf8").trim().split("\n");
  const struck = rows.map((row) => JSON.parse(row)).filter(({ attacks: own }) => own["one-step"] !== undefined);
  expect(struck).toHaveLength(right("clean"));
  for (const { attacks: own } of struck) expect(own["one-step"].norm).toBeLessThanOrEqual(8 / 255 + 1e-6);
  await expect(evaluate({ ...asked, attacks: ["one-stpe"] }, { reporter })).rejects.toThrow("did you mean one-step?");
});

test("a comparison takes the method", async () => {
  const budget = { epochs: 1, batch: 16, width: 2, size: 16, finetuneEpochs: 1, finetuneBatch: 16, finetuneLimit: 16 };
  const { rows } = await compare(
    {
      ...images,
      ...budget,
      plugin,
      methods: ["steady"],
      schemes: ["slf"],
      seeds: [0],
      testLimit: 8,
      out: at("compared"),
    },
    { reporter },
  );
  expect(rows).toHaveLength(1);
});

test("a changed plugin does not go on with its run, but by the user's word, which config.yaml then tells of", async () => {
  const again = { plugin, resume: true, out: at("steady") };
  const was = (await readRunConfig(at("steady")))?.plugins?.[0]?.sha256;
  await pretrain(again, { reporter });
  await expect(pretrain({ ...again, plugin: [] }, { reporter })).rejects.toThrow('--method is "steady" but must be');
  appendFileSync(plugin[0]!, "// changed\n");
  await expect(pretrain(again, { reporter })).rejects.toThrow(
    /its plugins were .*mine\.mjs \(sha256 .*\) and are now .*; give those that the run began with by --plugin, or go on with these by --override/,
  );
  warnings.length = 0;
  await pretrain({ ...again, override: true }, { reporter });
  expect(warnings.join()).toMatch(/--override: plugins was/);
  const config = await readRunConfig(at("steady"));
  expect(config?.plugins?.[0]?.sha256).not.toBe(was);
  expect(config?.changes).toEqual([{ step: 2, setting: "plugins", was: [was], is: [config?.plugins?.[0]?.sha256] }]);
});
