/** Reports of what commands leave in folders: `report.html`, one file that loads nothing. */
import { join } from "node:path";
import { z } from "zod";
import { encoderFolder } from "../compare/folders.ts";
import { storyFile, storySchema } from "../compare/story.ts";
import { RequestError } from "../errors.ts";
import { readIfThere } from "../files/if-there.ts";
import { readSealed } from "../files/seal.ts";
import { readRunConfig } from "../runs/run-folder.ts";
import { imageSchema } from "./classes.ts";
import { comparisonReport, type EncoderMap } from "./comparison.ts";
import { type Attacked, demoReport } from "./demo.ts";
import { evaluationReport, evaluationSchema } from "./evaluation.ts";
import { readFigures } from "./figures.ts";
import { resultsFile } from "./files.ts";
import { portraitFile, portraitSchema } from "./portrait-file.ts";
import { runReport } from "./run.ts";
import { type Column, sideBySide } from "./side-by-side.ts";

const [evaluationFile, attacksFile, imagesFile] = ["evaluation.json", "attacks.png", "images.jsonl"];

/** A JSON file of a folder; undefined where there is none. */
const readJson = async <T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> => {
  const content = await readSealed(path);
  if (content === undefined) return undefined;
  const { success, data } = schema.safeParse(content);
  if (!success) throw new RequestError(`${path} is damaged; make it again with the command that wrote it`);
  return data;
};

/** A file of JSON lines; undefined where there is none. */
const readLines = async <T>(path: string, schema: z.ZodType<T>): Promise<readonly T[] | undefined> => {
  const bytes = await readIfThere(path);
  const lines = bytes
    ?.toString()
    .split("\n")
    .filter((line) => line !== "");
  try {
    return lines?.map((line) => schema.parse(JSON.parse(line)));
  } catch {
    throw new RequestError(`${path} is damaged; make it again with the command that wrote it`);
  }
};

const cellSchema = z.object({
  variant: z.string(),
  seed: z.number(),
  dataset: z.string(),
  scheme: z.string(),
  figures: z.record(z.string(), z.number()),
  images: z.int().min(1).optional(),
  curve: z.array(z.object({ eps: z.number(), accuracy: z.number() })).optional(),
});
type Cells = readonly z.infer<typeof cellSchema>[];
const budgetSchema = z.record(
  z.string(),
  z.union([z.string(), z.number(), z.boolean(), z.array(z.string()), z.array(z.number())]).nullable(),
);

const resultsSchema = z.record(z.string(), z.number());

/**
 * The report of runs and evaluations side by side.
 * @throws RequestError where a folder is neither
 */
export const reportOfSeveral = async (folders: readonly string[]): Promise<string> => {
  const columns: Column[] = [];
  for (const folder of folders) {
    const config = await readRunConfig(folder);
    const evaluation = await readJson(join(folder, evaluationFile), evaluationSchema);
    if (config === undefined || (evaluation === undefined && config.command === "evaluate"))
      throw new RequestError(
        `${folder} holds no run and no finished evaluation, which can be laid side by side; give --out folders of pretrain, finetune, harden or evaluate`,
      );
    const results = await readJson(join(folder, resultsFile), resultsSchema);
    columns.push({ folder, evaluation, run: await readFigures(folder, config, results) });
  }
  return sideBySide(columns);
};

/** The maps of features of a comparison's encoders, those of its first seed; a method that trains none has none. */
const mapsOf = async (folder: string, cells: Cells): Promise<readonly EncoderMap[]> => {
  const maps: EncoderMap[] = [];
  for (const variant of new Set(cells.map((cell) => cell.variant))) {
    const run = join(folder, encoderFolder(variant, cells[0]!.seed));
    const portrait = await readJson(join(run, portraitFile), portraitSchema);
    if (portrait !== undefined) maps.push({ variant, map: portrait.map });
  }
  return maps;
};

/**
 * The report of a folder: of a demonstration, a comparison, an evaluation, or a run of training.
 * @throws RequestError where the folder is none of these
 */
export const reportOf = async (folder: string): Promise<string> => {
  const story = await readJson(join(folder, storyFile), storySchema);
  if (story !== undefined) {
    const attacked: Attacked[] = [];
    for (const { name } of story.parts) {
      const summary = await readJson(join(folder, name, evaluationFile), evaluationSchema);
      const picture = await readIfThere(join(folder, name, attacksFile));
      if (summary !== undefined) attacked.push({ name, summary, picture });
    }
    return demoReport(folder, story, attacked);
  }
  const compared = await readJson(join(folder, "table.json"), z.object({ cells: z.array(cellSchema) }));
  if (compared !== undefined) {
    const budget = await readJson(join(folder, "compare.json"), budgetSchema);
    return comparisonReport(compared.cells, { budget, maps: await mapsOf(folder, compared.cells) });
  }
  const evaluated = await readJson(join(folder, evaluationFile), evaluationSchema);
  if (evaluated !== undefined)
    return evaluationReport(evaluated, {
      picture: await readIfThere(join(folder, attacksFile)),
      images: await readLines(join(folder, imagesFile), imageSchema),
    });
  const config = await readRunConfig(folder);
  if (config === undefined)
    throw new RequestError(
      `${folder} holds no run, evaluation or comparison; give the --out folder of pretrain, finetune, evaluate or compare`,
    );
  const results = await readJson(join(folder, resultsFile), resultsSchema);
  const portrait = await readJson(join(folder, portraitFile), portraitSchema);
  return runReport(folder, config, results, portrait);
};
