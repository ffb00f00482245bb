/** The recipes that ship, started: with tiny networks and a handful of images they end at once. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { compare } from "../src/compare/compare.ts";
import { evaluate } from "../src/evaluate/evaluate.ts";
import { readConfigFile, recipeNames } from "../src/settings/config-file.ts";
import { readObject } from "../src/settings/resolve.ts";
import { finetune } from "../src/train/finetune.ts";
import { pretrain } from "../src/train/pretrain.ts";
import { packageRoot } from "../src/version.ts";

const folder = mkdtempSync(join(tmpdir(), "recipes-"));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const reporter = {
  log: () => {},
  warn: () => {},
  print: () => {},
  progress: () => ({ update: () => {}, stop: () => {} }),
};

type Started = typeof pretrain | typeof finetune | typeof evaluate | typeof compare;

/** Runs a section with some settings in place of its own. */
const start = async (verb: Started, recipe: string, settings: object, signal?: AbortSignal): Promise<object> => {
  const { name, rows, resolve } = verb.spec;
  const sources = [readObject(name, rows, settings, ""), await readConfigFile(name, rows, recipe)];
  const perform = verb.perform as (given: object, options: object) => Promise<object>;
  return perform(await resolve(sources), { reporter, ...(signal && { signal }) });
};

/** Recipes with a section of a command, those of the same text once. */
const having = (command: string): readonly string[] => {
  const texts = new Map<string, string>();
  for (const name of recipeNames()) {
    const sections = parse(readFileSync(join(packageRoot, "recipes", `${name}.yaml`), "utf8")) as Record<
      string,
      object
    >;
    if (sections[command] !== undefined) texts.set(JSON.stringify(sections[command]), name);
  }
  return [...texts.values()];
};

const images = { dataset: "shapes", provider: "cpu", threads: 2, require: [], limit: 8, workers: 0 };
const tiny = {
  ...images,
  size: 16,
  radius: 4,
  width: 2,
  batch: 8,
  epochs: 1,
  attackSteps: 0,
  clusters: [],
  knnEvery: 0,
};

test("pretraining", async () => {
  const recipes = having("pretrain");
  expect(recipes.length).toBeGreaterThanOrEqual(15);
  // DeACL's teacher is a run of simclr.
  for (const recipe of ["simclr", ...recipes.filter((name) => name !== "simclr")]) {
    const teacher = recipe === "deacl" ? { teacher: at("simclr") } : {};
    const result = await start(pretrain, recipe, { ...tiny, ...teacher, stepsPerRun: 1, out: at(recipe) });
    expect([recipe, result]).toEqual([recipe, expect.objectContaining({ steps: 1 })]);
  }
});

test("finetuning and evaluation", async () => {
  for (const recipe of having("finetune")) {
    const from = recipe === "supervised-cifar10" ? { width: 2, size: 16 } : { from: at("simclr") };
    const settings = { ...images, ...from, testLimit: 8, batch: 8, epochs: 1, milestones: [], attackSteps: 0 };
    const result = await start(finetune, recipe, { ...settings, evaluate: false, out: at(`${recipe}-classifier`) });
    expect([recipe, result]).toEqual([recipe, expect.objectContaining({ steps: 1, testImages: 8 })]);
  }
  const { workers: _, ...shown } = images;
  const model = at("supervised-cifar10-classifier");
  for (const recipe of having("evaluate")) {
    const budget = { iterations: 1, targets: 1, queries: 1 };
    const result = await start(evaluate, recipe, { ...shown, ...budget, model, attacks: ["clean", "fgsm"] });
    expect([recipe, result]).toEqual([recipe, expect.objectContaining({ count: 8 })]);
  }
});

test("comparisons", async () => {
  for (const recipe of having("compare")) {
    const settings = { dataset: "shapes", datasets: ["shapes"], provider: "cpu", out: at(`${recipe}-table`) };
    await expect(start(compare, recipe, settings, AbortSignal.abort())).rejects.toThrow(/^stopped; the same command/);
  }
});
