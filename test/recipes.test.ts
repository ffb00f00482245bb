/** The recipes that ship: each section is what its command takes, and says what the papers say. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { type MethodName, methodNames, methods } from "../graphs/methods/index.ts";
import { cluster } from "../src/cluster/cluster.ts";
import { contendersOf } from "../src/compare/classifiers.ts";
import { compare } from "../src/compare/compare.ts";
import { evaluate } from "../src/evaluate/evaluate.ts";
import { readConfigFile, recipeNames } from "../src/settings/config-file.ts";
import { smoke } from "../src/smoke/smoke.ts";
import { checkOptions } from "../src/train/feeds.ts";
import { finetune } from "../src/train/finetune.ts";
import { pretrain } from "../src/train/pretrain.ts";
import { packageRoot } from "../src/version.ts";

const specs = new Map(
  [pretrain, finetune, evaluate, compare, cluster, smoke].map(({ spec }) => [spec.name, spec] as const),
);

/** A recipe's settings of a command, with the command's defaults. */
const resolved = async (recipe: string, command: string): Promise<Readonly<Record<string, unknown>>> => {
  const spec = specs.get(command)!;
  return (await spec.resolve([await readConfigFile(command, spec.rows, recipe)], false)) as Readonly<
    Record<string, unknown>
  >;
};
const sectionsOf = (recipe: string): readonly string[] =>
  Object.keys(parse(readFileSync(join(packageRoot, "recipes", `${recipe}.yaml`), "utf8")) as object);

test.each(recipeNames())("%s is what its commands take", async (recipe) => {
  const sections = sectionsOf(recipe);
  expect(sections.length).toBeGreaterThan(0);
  for (const command of sections) {
    expect([...specs.keys()]).toContain(command);
    const settings = await resolved(recipe, command);
    if (command === "pretrain") checkOptions(methods[settings.method as MethodName], settings);
    if (command === "compare") expect(contendersOf(settings as never).length).toBeGreaterThan(1);
  }
});

describe("every method has a recipe of its paper's numbers", () => {
  test.each(methodNames)("%s", async (method) => {
    const recipe = method === "advcl" ? "advcl-cifar10" : method;
    const { spec } = pretrain;
    const asked = new Map([["method", { value: method, label: "--method" }]]);
    const fromCode = await spec.resolve([asked], false);
    // -1 is 10 epochs for AdvCL's batch of 512, which the recipe says.
    const warmupEpochs = fromCode.warmupEpochs < 0 ? 10 : fromCode.warmupEpochs;
    expect(await resolved(recipe, "pretrain")).toEqual({ ...fromCode, dataset: "cifar10", warmupEpochs });
    const given = parse(readFileSync(join(packageRoot, "recipes", `${recipe}.yaml`), "utf8")).pretrain as object;
    const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const said = Object.keys(given);
    for (const option of methods[method].options) expect(said).toContain(kebab(option));
  });
});

test("finetuning is by each scheme's own numbers", async () => {
  const { spec } = finetune;
  for (const recipe of recipeNames().filter(
    (name) => sectionsOf(name).includes("finetune") && /^a-info|cifar/.test(name),
  ))
    for (const scheme of ["slf", "aff"]) {
      const flag = new Map([["scheme", { value: scheme, label: "--scheme" }]]);
      const source = await readConfigFile("finetune", spec.rows, recipe);
      if (recipe.startsWith("supervised")) continue;
      const fromCode = await spec.resolve([flag], false);
      const { dataset, evaluate: _, ...settings } = await spec.resolve([flag, source], false);
      expect(settings).toEqual(expect.objectContaining({ scheme, lr: fromCode.lr, batch: fromCode.batch }));
      expect(dataset).toMatch(/^cifar/);
    }
});

test("a recipe goes by its name; a misspelt one is suggested, a section that is not there is said", async () => {
  const { spec } = pretrain;
  const read = (given: string, command = "pretrain") => readConfigFile(command, spec.rows, given);
  expect((await read("two-cores")).get("width")?.value).toBe(16);
  await expect(read("two-core")).rejects.toThrow(
    "--config two-core: there is no such file, and no such recipe; did you mean two-cores?",
  );
  await expect(read("ci", "export")).rejects.toThrow(
    /recipes\/ci\.yaml has settings of smoke, pretrain, finetune, evaluate, not of export; give another file$/,
  );
});
