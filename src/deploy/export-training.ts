/** Export as a folder for training on the device. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { deployedWeights } from "../../graphs/deploy/network.ts";
import type { Tensor } from "../../graphs/onnx/tensor.ts";
import { RequestError } from "../errors.ts";
import { writeFileAtomic, writeFolderAtomic } from "../files/atomic.ts";
import { fileError } from "../files/file-error.ts";
import type { Reporter } from "../verbs/reporter.ts";
import type { ExportSettings } from "./export-settings.ts";
import { megabytes } from "./images.ts";
import { classNames, metadataOf } from "./metadata.ts";
import { deployedOptions, namesOfClasses, type Source } from "./source.ts";
import { trainingFiles } from "./training.ts";

/** A folder for on-device training that was written. */
export interface TrainingExport {
  /** The folder. */
  readonly out: string;
  readonly trains: "head" | "all";
  readonly classes: number;
  /** Images of a training step. */
  readonly batch: number;
  readonly checkpointBytes: number;
}

/** Files of the folder. */
const fileNames = ["training_model.onnx", "eval_model.onnx", "checkpoint", "manifest.json"];

/** Refuses a folder that holds other things: they would be lost. */
const checkOwnFolder = async (out: string): Promise<void> => {
  const entries = await readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw fileError(error, "replace", out);
  });
  const other = entries.find((name) => !fileNames.includes(name));
  if (other !== undefined)
    throw new RequestError(
      `${out} is a folder with other things in it (${other}), which would be lost; give one of its own`,
    );
};

/** The folded encoder's weights, with the run's head where it has as many classes as are asked for. */
const startingWeights = (
  source: Source,
  options: Parameters<typeof deployedWeights>[0],
  classes: number,
): Map<string, Tensor> => {
  const weights = deployedWeights(options, source.weights, source.branch?.index);
  if (classes === source.classes)
    for (const name of ["fc.weight", "fc.bias"]) {
      const value = source.weights.get(name);
      if (value !== undefined) weights.set(name, value);
    }
  return weights;
};

/** Writes graphs, checkpoint and manifest of one branch of a run. */
export const exportTraining = async (
  source: Source,
  settings: ExportSettings,
  reporter: Reporter,
): Promise<TrainingExport> => {
  const { out, trains, batch, momentum, weightDecay, seed } = settings;
  const classes = settings.classes ?? source.classes;
  if (classes === undefined)
    throw new RequestError(`${source.folder} holds no classifier: give the --classes of the head to be trained`);
  const options = { ...deployedOptions(source, "encoder", settings.from), classes };
  const weights = startingWeights(source, options, classes);
  const known = { source, what: "classifier", precision: "fp32", preprocess: false, accuracies: {} } as const;
  const metadata = metadataOf({ ...known, classes: classNames(classes, namesOfClasses(source)) });
  await checkOwnFolder(out);
  const files = trainingFiles({ ...options, batch, trains, momentum, weightDecay }, weights, seed, metadata);
  const { trainingModel, evalModel, checkpoint, manifest } = files;
  const contents = [trainingModel, evalModel, checkpoint, `${JSON.stringify(manifest, null, 2)}\n`];
  await writeFolderAtomic(out, async (folder) => {
    for (const [i, content] of contents.entries()) await writeFileAtomic(join(folder, fileNames[i]!), content);
  });
  reporter.print(
    `${out}: training of ${trains === "head" ? "a linear head" : "encoder and head"}, ${classes} classes, ${batch} images a step, ${megabytes(checkpoint)} of weights`,
  );
  return { out, trains, classes, batch, checkpointBytes: checkpoint.length };
};
