/** The whole story on generated images, each part by the verb that does it. */
import { join } from "node:path";
import { z } from "zod";
import { cluster } from "../cluster/cluster.ts";
import { exportModel } from "../deploy/export.ts";
import { evaluate } from "../evaluate/evaluate.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { writeReport } from "../report/write.ts";
import { networkSettings, targetSetting, workersSetting } from "../settings/fragments.ts";
import { path, setting } from "../settings/schema.ts";
import type { Given, Resolved } from "../settings/spec.ts";
import { finetune } from "../train/finetune.ts";
import { pretrain } from "../train/pretrain.ts";
import { scaledMilestones } from "../train/schedule.ts";
import { defineVerb, Interrupted, type Verb, type VerbContext } from "../verbs/verb.ts";
import { commandOf, openPipeline, type Pipeline, resuming } from "./pipeline.ts";
import { type Classifier, classifierTable, type Story, storyFile } from "./story.ts";
import { markdownTable } from "./table.ts";

const budget = { group: "Budget" };
const run = { group: "Run" };

export const demoSettings = {
  width: setting(networkSettings.width.unwrap().default(8), "channels of the first stage", budget),
  size: setting(z.int().min(8).max(512).default(32), "side of the images", budget),
  limit: setting(z.int().min(2).default(1024), "images to train on", budget),
  testLimit: setting(z.int().min(1).default(200), "test images", budget),
  clusters: setting(z.array(z.int().min(2)).default([10, 30]), "K of AdvCL's clustering heads", budget),
  teacherEpochs: setting(z.int().min(1).default(4), "of the teacher", budget),
  epochs: setting(z.int().min(1).default(8), "of AdvCL", budget),
  batch: setting(z.int().min(2).default(16), "images a step of pretraining", budget),
  finetuneEpochs: setting(z.int().min(1).default(8), "of each finetuning", budget),
  finetuneBatch: setting(z.int().min(2).default(32), "images a step of finetuning", budget),
  attackSteps: setting(z.int().min(0).default(4), "PGD steps in AdvCL, ALF and AFF", budget),
  attacks: setting(
    z.array(z.string()).default(["clean", "fgsm", "pgd20", "apgd-ce"]),
    "attacks on the standard and the robust classifier, as of evaluate",
    budget,
  ),
  workers: setting(workersSetting.workers.unwrap().optional(), "threads that augment", { ...run, changeable: true }),
  target: setting(targetSetting.target, "lowering of the graphs", { ...run, changeable: true }),
  out: setting(path().default("artifacts/demo"), "folder to write to; what it holds already is not done again", {
    path: true,
  }),
};

type Settings = Resolved<typeof demoSettings>;

export interface DemoResult {
  readonly out: string;
  /** Accuracies of each classifier on the test images: clean, and under PGD-20. */
  readonly classifiers: readonly Classifier[];
  /** What was done, by which command, in how many seconds. */
  readonly parts: Story["parts"];
}

/** A part of the story: what it is for, and how it is done. */
interface Part {
  readonly name: string;
  readonly about: string;
  /** The command that does it. */
  readonly command: string;
  perform(pipeline: Pipeline): Promise<{ readonly seconds: number; accuracy?: unknown; robustAccuracy?: unknown }>;
}

type Shape = Readonly<Record<string, z.ZodType>>;

const part = <Own extends Shape, Result extends object>(
  name: string,
  about: string,
  verb: Verb<Own, Result>,
  settings: Given<Own>,
): Part => ({
  name,
  about,
  command: commandOf(verb.spec.name, settings),
  perform: (pipeline) => pipeline.once(name, verb, settings),
});

/** What pretraining begins with: a teacher, its clusters, AdvCL on them. */
const pretrainingParts = (settings: Settings, at: (name: string) => string): Part[] => {
  const { seed, threads, provider, workers, target, width, size, limit, epochs, batch } = settings;
  const { teacherEpochs, attackSteps, clusters } = settings;
  const common = { dataset: "shapes", seed, threads, provider } as const;
  const shared = { preset: "quick", ...common, limit, workers, target, width, size, batch };
  const labels = at("clusters.safetensors");
  const plainly = { optimizer: "sgd", schedule: "advcl", warmupEpochs: 0 } as const;
  return [
    part("teacher", "a teacher without labels: SimCLR", pretrain, {
      ...{ ...shared, method: "simclr", epochs: teacherEpochs, ...plainly },
      ...{ out: at("teacher"), ...resuming(at("teacher")) },
    }),
    part("clusters", "its features, clustered: the pseudo-labels", cluster, {
      ...{ ...common, teacher: at("teacher"), limit, clusters, out: labels },
    }),
    part("advcl", "AdvCL: contrastive views, attacks, high frequencies, clusters", pretrain, {
      ...{ ...shared, epochs, lr: 0.03, attackSteps, clusters, pseudoLabels: labels },
      ...{ out: at("advcl"), ...resuming(at("advcl")) },
    }),
  ];
};

const schemes = [
  { scheme: "slf", about: "a linear head on AdvCL's encoder" },
  { scheme: "alf", about: "a linear head, trained under attack" },
  { scheme: "aff", about: "everything finetuned under attack, by TRADES" },
] as const;

/** Classifiers on AdvCL's encoder, and one of ordinary training. */
const finetuningParts = (settings: Settings, at: (name: string) => string): Part[] => {
  const { seed, threads, provider, workers, target, width, size, limit, testLimit, attackSteps } = settings;
  const { finetuneEpochs: epochs, finetuneBatch: batch } = settings;
  const shared = {
    ...({ dataset: "shapes", seed, threads, provider } as const),
    ...{ limit, workers, target, testLimit, epochs, batch, lr: 0.1 },
  };
  const milestones = scaledMilestones(epochs);
  const ending = (name: string) => ({ out: at(name), evaluate: true, ...resuming(at(name)) });
  return [
    ...schemes.map(({ scheme, about }) =>
      part(scheme, about, finetune, {
        ...{ scheme, from: at("advcl"), ...shared, milestones, ...(scheme !== "slf" && { attackSteps }) },
        ...ending(scheme),
      }),
    ),
    part("standard", "ordinary training from the start, the baseline", finetune, {
      ...{ scheme: "standard", ...shared, width, size, milestones, ...ending("standard") },
    }),
  ];
};

/** More attacks on two of the classifiers, and the robust one for other runtimes. */
const closingParts = (settings: Settings, at: (name: string) => string): Part[] => {
  const { seed, threads, provider, target, testLimit, attacks } = settings;
  const common = { dataset: "shapes", seed, threads, provider } as const;
  return [
    ...["standard", "aff"].map((model) => {
      const out = at(`attacks-${model}`);
      const about = `more attacks on ${model === "aff" ? "the robust classifier" : "the standard classifier"}`;
      return part(`attacks-${model}`, about, evaluate, {
        ...{ ...common, target, model: at(model), attacks, limit: Math.min(100, testLimit), out, ...resuming(out) },
      });
    }),
    ...(["fp32", "int8"] as const).map((precision) =>
      part(`export-${precision}`, `the robust classifier as plain ONNX, ${precision}`, exportModel, {
        ...{ from: at("aff"), seed, threads, provider, precision, limit: testLimit },
        out: at(`classifier-${precision}.onnx`),
      }),
    ),
  ];
};

const printEnd = ({ out, classifiers, parts }: DemoResult, context: VerbContext): void => {
  const { head, rows } = classifierTable(classifiers);
  context.print(markdownTable(head, rows));
  const minutes = parts.reduce((sum, { seconds }) => sum + seconds, 0) / 60;
  context.print(`\n${join(out, "report.html")}: all of it, ${minutes.toFixed(1)} minutes of work`);
  const robust = join(out, "aff");
  context.print(
    [
      "next:",
      `  npx advcl serve --from ${robust}   # attack and teach it in the browser`,
      `  npx advcl evaluate --model ${robust} --attacks autoattack --dataset shapes --limit 50`,
      "  npx advcl pretrain --dataset folder --data DIR --out RUN   # on your own images; --help has all settings",
    ].join("\n"),
  );
};

const perform = async (settings: Settings, context: VerbContext): Promise<DemoResult> => {
  const { out } = settings;
  const pipeline = await openPipeline({ out, file: "demo.json", thing: "demonstration" }, context);
  const at = (name: string): string => join(out, name);
  const parts = [pretrainingParts, finetuningParts, closingParts].flatMap((make) => make(settings, at));
  const done: Story["parts"][number][] = [];
  const classifiers: Classifier[] = [];
  try {
    for (const [i, { name, about, command, perform: once }] of parts.entries()) {
      context.log(`[${i + 1}/${parts.length}] ${about}`);
      const { seconds, accuracy, robustAccuracy } = await once(pipeline);
      done.push({ name, about, command, seconds });
      if (robustAccuracy !== undefined)
        classifiers.push({ name, about, accuracy: Number(accuracy), robustAccuracy: Number(robustAccuracy) });
      await writeFileAtomic(at(storyFile), `${JSON.stringify({ classifiers, parts: done }, null, 2)}\n`);
    }
    await writeReport(out);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    throw new Interrupted(`stopped; the same command goes on from what ${out} holds`);
  }
  const result = { out, classifiers, parts: done };
  printEnd(result, context);
  return result;
};

/**
 * The whole story in minutes: a teacher is trained and clustered, AdvCL pretrains, encoders are finetuned, attacked and
 * exported. What `out` holds already is not done again.
 *
 * @throws RequestError where the request is wrong, RunError where a part failed, Interrupted where the signal was aborted
 */
export const demo = defineVerb({ name: "demo", settings: demoSettings }, perform);
